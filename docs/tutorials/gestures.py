# %% [markdown]
# # Recognise your own gestures
#
# You have short labelled videos: one folder per gesture, a dozen videos in each. This tutorial
# trains a VAE on them, measures how well it tells the gestures apart, and labels new videos. It
# takes a few minutes on two CPU cores.
#
# The videos here are six gestures of
# [EgoGestAR](https://varunj.github.io/gestarlite): a hand draws a figure in front of a head-mounted
# camera. Use your own: any folder with one folder per class will do.

# %% tags=["hide"]
import csv
import shutil
from pathlib import Path

from shell import read_settings, sh, show

settings = read_settings(data="../shared/data/gestures", steps=150)
CLASSES = ("circlecc", "down", "left", "right", "square", "up")
for name in ("gestures", "new", "runs"):
    shutil.rmtree(name, ignore_errors=True)
with (Path(settings.data) / "manifest.csv").open() as file:
    rows = [row for row in csv.DictReader(file) if row["label"] in CLASSES]
for row in rows:
    folder = Path("new" if row["split"] == "test" else "gestures") / row["label"]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(settings.data) / row["path"], folder)

# %% [markdown]
# ## Look at the folder
#
# `check` reads every video once. It counts classes and names what is broken.

# %%
sh("vvae check gestures")

# %% [markdown]
# ## Train
#
# The configuration `actions` reads the movement, not the scene: sixteen frames spread over each
# video, as optical flow. So a model of a few minutes does not learn rooms and sleeves by heart.

# %%
sh(
    "vvae train actions --data.path gestures --workdir runs/gestures "
    f"--train.num_steps {settings.steps}",
    begin="^classify  ",
    end="^chance",
)

# %% [markdown]
# Training ends with all measurements and a page of them, `runs/gestures/report.html`. Above is the
# table of `classify`: a linear classifier on the latents of the training videos, measured on videos
# that were held out. The rows beside it are controls: the same network with random weights, PCA of
# a single frame, and chance.
#
# Eleven test videos are few: they cannot tell the VAE from a network with random weights. Most of
# the work is done by the view and the sampling. With a single label per class the VAE is ahead, as
# the last picture shows.

# %%
show(
    "runs/gestures/eval/classify_confusion.png", "True classes (rows) and predicted ones (columns)"
)

# %% [markdown]
# ## Label new videos
#
# The folder `new` holds videos of environments that the training has not seen.

# %%
sh("vvae classify --workdir runs/gestures --data.path new", begin="videos are labelled", end="^$")

# %% [markdown]
# The same from Python. Here the folders of the new videos state their true class:

# %%
from pathlib import Path

import vvae

run = vvae.load_run("runs/gestures")
paths = sorted(Path("new").glob("*/*.mp4"))
labels = [run.label(path) for path in paths]
for path, label in list(zip(paths, labels))[::6]:
    print(f"{path}: {label.name} ({label.score:.2f})")
right = sum(label.name == path.parent.name for path, label in zip(paths, labels))
print(f"{right} of {len(paths)} are right")

# %% [markdown]
# ## How many labels does it take?
#
# `classify` repeats its measurement with few labels per class: a mean over 20 draws of the labels,
# on the same few test videos.

# %%
show("runs/gestures/eval/classify_few_labels.png", "Accuracy over the number of labels per class")

# %% [markdown]
# ## If it does not work
#
# - Fewer than about ten videos per class: add videos before you add training steps.
# - The gestures differ in hand shape, not in movement: use `--data.view gray+motion`.
# - The same person or room is in training and test videos: state a `group` for each video in a
#   `manifest.csv` ([data](../data.md)); groups are never divided over splits.
# - A baseline is ahead: use it. `vvae classify --workdir RUN --baselines hog haar flow_histogram`
#   measures more of them.
