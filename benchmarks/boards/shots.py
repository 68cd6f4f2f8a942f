"""Boundaries between shots: in test videos of the performers joined to longer ones, and drawn."""

from benchmarks.boards.running import evaluate, train
from benchmarks.results import Board, Measurement, Request

METRICS = tuple(
    f"{source}_{kind}_f1_0"
    for source in ("joined", "drawn")
    for kind in ("cuts", "fades", "flashes")
)

BOARD = Board(
    task="shots",
    protocol="F1 to the frame of the boundaries between shots: videos of unseen performers joined "
    "by cuts and fades, and with flashes that are no boundaries, and the same of drawn scenes. "
    "Trees and thresholds of `vae` and `frame_difference` are fitted to joined training videos; "
    "PySceneDetect has its defaults and sees RGB of full size.",
    data="built-in performers, default view",
    headlines=("vae",),
    columns=METRICS,
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE; the joined videos are others in each seed."""
    run = train(request, "performers", ["--evaluate.tasks", "density"])
    seconds = evaluate(run, ["segment"])
    rows = run.read_task("segment")["rows"]
    return [
        Measurement(
            name,
            "vae" if name == "vae" else "baseline",
            {metric: values[metric]["value"] for metric in METRICS},
            run.seconds + seconds if name == "vae" else seconds,
            run.parameters if name == "vae" else 0,
            run.frames_per_second if name == "vae" else None,
        )
        for name, values in rows.items()
        if METRICS[0] in values
    ]
