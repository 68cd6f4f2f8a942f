"""Questions to small models of tests, which have no run on disk."""

from pathlib import Path

from vvae.config import Config, Data, Evaluate, Train
from vvae.run import Run
from vvae.tasks.question import Question


def ask(
    model,
    params,
    dataset,
    folder,
    *,
    split="test",
    batch_size=4,
    seed=0,
    data=None,
    is_new=False,
    class_names=(),
    **settings,
):
    """Returns a question; `settings` are those of the tasks, such as pooling."""
    config = Config(
        data=data or Data(),
        train=Train(batch_size=batch_size, seed=seed),
        evaluate=Evaluate(**settings),
    )
    return Question(
        run=Run(Path(folder), config, record={}, class_names=class_names),
        model=model,
        params=params,
        dataset=dataset,
        split=split,
        folder=Path(folder),
        is_new=is_new,
    )


def draw(result, folder):
    """Draws the pictures of a result into the folder, and returns the result."""
    for picture in result.pictures:
        assert set(picture.names) <= set(result.files)
        picture.draw(folder)
        assert all((folder / name).exists() for name in picture.names)
    return result
