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
    "`vae` and `frame_difference` are boosted trees trained on training videos that the same "
    "program joined; PySceneDetect is not trained, has its defaults, and sees RGB of 64x64, the "
    "size of the files. No film and no trained detector of others were measured.",
    data="built-in performers, default view",
    headlines=("vae",),
    columns=METRICS,
)


def measure(request: Request) -> list[Measurement]:
    """Trains one VAE; the joined videos are others in each seed."""
    run = train(request, "performers", ["--evaluate.tasks", "density"])
    evaluate(run, ["segment"])
    rows = run.read_task("segment")["rows"]
    return [
        Measurement(
            row=name,
            family="vae" if name == "vae" else "baseline",
            metrics={metric: values[metric]["value"] for metric in METRICS},
            parameters=run.parameters if name == "vae" else 0,
            frames_per_second=run.frames_per_second if name == "vae" else None,
        )
        for name, values in rows.items()
        if METRICS[0] in values
    ]
