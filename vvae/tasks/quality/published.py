"""Reconstructions by published weights, which have no run directory."""

from collections.abc import Sequence

from vvae import build, progress
from vvae.config import Config, Data, Evaluate, Model, Train
from vvae.data.dataset import Video, describe_flaws
from vvae.pretrained.load import load_pretrained
from vvae.run import Run
from vvae.tasks import answer_folder
from vvae.tasks.options import Reconstruct
from vvae.tasks.quality import reconstruct
from vvae.tasks.question import Question, choose_split
from vvae.tasks.result import publish

CLIP = {"height": 256, "width": 256, "num_frames": 17}


def reconstruct_published(
    options: Reconstruct, data_path: str, videos: Sequence[Video] | None = None
) -> None:
    """Reconstructs the videos of a folder with published weights.

    The test split is measured, or the validation split if there is none. The PCA baseline is fitted
    to the training split, which the published model has not seen. The answer goes to eval/NAME in
    the folder of the weights.

    Args:
      options: the folder of the weights, and the size of the clips.
      data_path: folder of videos.
      videos: the listed videos of the folder; None where they are not listed yet.

    Raises:
      ValueError: if the weights or the data cannot be read.
    """
    model, params = load_pretrained(options.pretrained)
    given = {name: size for name, size in vars(options.data).items() if size is not None}
    config = Config(
        data=Data(path=data_path, view="rgb", **CLIP | given),
        model=Model(kind="causal"),
        train=Train(batch_size=1),  # published networks are large
        evaluate=Evaluate(tasks=("reconstruct",)),
    )
    with progress.stage("videos decoded"):
        dataset = build.open_data(config, data_path, progress.show, videos=videos)
    for line in describe_flaws(dataset):
        print(line)
    size = config.data.height, config.data.width
    question = Question(
        run=Run(options.pretrained, config, record={}, class_names=()),
        model=model.clone(shape_HWC=(*size, model.shape_HWC[-1])),
        params=params,
        dataset=dataset,
        split=choose_split(dataset),
        folder=answer_folder.open_folder(options.pretrained / "eval", data_path),
    )
    with progress.stage("reconstruct"):
        result = reconstruct.answer(question, options)
    publish(result, question.folder)
    print(f"\npictures, videos and JSON files: {question.folder}")
