"""The predictions of a classifier: a table, and a picture of its most confident mistakes."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from vvae import figures
from vvae.data.clips import Clips
from vvae.data.listing import Video
from vvae.data.views import view_to_rgb
from vvae.measure.examples import choose_frames
from vvae.measure.legends import explain_view
from vvae.tasks.csv_files import open_csv

NUM_MISTAKES = 8


def write_predictions(
    path: str | os.PathLike,
    names: Sequence[str],
    label_V: np.ndarray,
    scores_VK: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Writes predictions as CSV: path, label, predicted, score, correct ("yes" or "no").

    The score is the probability of the predicted class.

    Args:
      path: the file to write.
      names: V names of videos.
      label_V: true class numbers.
      scores_VK: probabilities.
      class_names: K names.
    """
    with open_csv(path) as writer:
        writer.writerow(["path", "label", "predicted", "score", "correct"])
        for name, label, scores_K in zip(names, label_V, scores_VK):
            best = int(scores_K.argmax())
            correct = "yes" if best == label else "no"
            writer.writerow(
                [name, class_names[label], class_names[best], f"{scores_K[best]:.6f}", correct]
            )


def write_rows(
    path: str | os.PathLike,
    videos: Sequence[Video],
    label_V: np.ndarray,
    scores: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> None:
    """Writes the predictions of every row of a table as CSV: path, group, label, and each row.

    Accuracies, intervals over any units and paired tests can be computed from it.

    Args:
      path: the file to write.
      videos: V videos.
      label_V: true class numbers.
      scores: row -> scores [V, K].
      class_names: K names.
    """
    # As in `top_k_accuracy`, the first of equal scores.
    predicted_VR = np.stack([scores_VK.argmax(axis=1) for scores_VK in scores.values()], axis=1)
    with open_csv(path) as writer:
        writer.writerow(["path", "group", "label", *scores])
        for video, label, predicted_R in zip(videos, label_V, predicted_VR):
            found = [class_names[k] for k in predicted_R]
            writer.writerow([video.name, video.group, class_names[label], *found])


def find_mistakes(label_V: np.ndarray, scores_VK: np.ndarray, count: int) -> np.ndarray:
    """Returns the rows of up to `count` wrong predictions, the most confident first, int [M]."""
    predicted_V = scores_VK.argmax(axis=1)
    wrong = np.flatnonzero(predicted_V != label_V)
    confidence = scores_VK[wrong, predicted_V[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def write_mistakes(
    path: str | os.PathLike,
    clips: Clips,
    videos: np.ndarray,
    label_V: np.ndarray,
    scores_VK: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Draws the most confident mistakes with their true and predicted classes.

    There must be at least one mistake.

    Args:
      path: the PNG to write.
      clips: the measured split.
      videos: for each row of scores, the number of its video in `clips`.
      label_V: true class numbers.
      scores_VK: probabilities.
      class_names: K names.
    """
    rows = find_mistakes(label_V, scores_VK, NUM_MISTAKES)
    # The first clip of each video represents it.
    ids = np.array([np.flatnonzero(clips.video_index_N == videos[row])[0] for row in rows])
    labels = []
    for row in rows:
        best = int(scores_VK[row].argmax())
        labels.append(
            f"true: {class_names[label_V[row]]}\n"
            f"said: {class_names[best]} ({scores_VK[row, best]:.2f})"
        )
    title = f"The {len(rows)} most confident mistakes of the linear probe"
    write_clips(path, clips, ids, labels, title)


def write_clips(
    path: str | os.PathLike, clips: Clips, ids: np.ndarray, labels: Sequence[str], title: str
) -> None:
    """Draws frames of clips, one row for each clip.

    Args:
      path: the PNG to write.
      clips: one split.
      ids: the numbers of the clips.
      labels: the text beside each clip, below the name of its video.
      title: the text above everything.
    """
    pictures = view_to_rgb(clips.view, clips.read(ids))
    frames = choose_frames(pictures.shape[1])
    names = ["/\n".join(clips.videos[v].name.split("/")[-2:]) for v in clips.video_index_N[ids]]
    figures.write_sheet(
        path,
        list(pictures[:, frames]),
        [f"{name}\n{label}" for name, label in zip(names, labels)],
        [f"frame {t}" for t in frames],
        title,
        legend=explain_view(clips.view),
    )
