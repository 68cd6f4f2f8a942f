# %% [markdown]
# # Watch a fixed camera
#
# You have recordings of a fixed camera in which nothing unusual happens, and want to be told when
# something does. This tutorial learns what is normal, scores unseen recordings and sets a
# threshold.
# It takes a few minutes on two CPU cores.
#
# The camera here looks at a walkway: [UCSD Ped2](http://www.svcl.ucsd.edu/projects/anomaly). Normal
# is walking. Bicycles and carts are not.

# %% tags=["hide"]
import shutil
from pathlib import Path

from shell import read_settings, sh, show

settings = read_settings(data="../shared/data/ped2", steps=600)
for name in ("camera", "runs"):
    shutil.rmtree(name, ignore_errors=True)
shutil.copytree(settings.data, "camera")

# %% [markdown]
# ## Look at the folder
#
# The training videos must be normal. A `manifest.csv` may state which frames of the test videos are
# abnormal, in a column `abnormal` with intervals such as `61-179` ([data](../data.md)). Without it
# there are scores and a threshold, but nothing to measure them by.

# %%
sh("vvae check camera")

# %% [markdown]
# ## Train
#
# The configuration `surveillance` reads the local speed of what moves. Every place of the frame is
# a clip of its own, so that normal traffic elsewhere does not hide what is abnormal at one place.

# %%
sh(
    "vvae train surveillance --data.path camera --workdir runs/camera "
    f"--train.num_steps {settings.steps}",
    begin="^anomaly  ",
    end="^Live",
    keep="^(anomaly|---|iwae|surprise|motion_window|frame_difference |time_index|[A-Z])",
)

# %% [markdown]
# These are some rows of the table of `anomaly`. The columns from `micro_raw` to `macro_smoothed`,
# but for `ap`, are AUROC: the probability that an abnormal frame has a higher score than a normal
# one. Look at the untrained rows too: here `motion_window`, the largest speed in the same sixteen
# frames, is as good as the VAE. What helps on this camera is the view, not the latents
# ([results](../results/ped2.md)).

# %%
show(
    "runs/camera/eval/anomaly.png",
    "Scores of the test videos, threshold, true intervals",
)

# %% [markdown]
# `runs/camera/eval/anomaly.mp4` shows the videos with the score and the places that raise it.
#
# ## Judge new recordings
#
# The threshold was set on held-out normal videos for the stated false-positive rate
# (`--evaluate.false_positive_rate`). New recordings are judged by it; here three of the test videos
# stand in for them.

# %% tags=["hide"]
Path("new").mkdir(exist_ok=True)
for path in sorted(Path("camera/test").glob("*.mp4"))[:3]:
    shutil.copy(path, "new")

# %%
sh("vvae anomaly --workdir runs/camera --data.path new", keep="^(Verdicts|Videos)")

# %% [markdown]
# ## Live
#
# `watch` takes frames as a camera gives them, and never looks ahead.

# %%
import vvae

run = vvae.load_run("runs/camera")
frames = (frame for _, frame in vvae.video.iterate_frames("new/test01.mp4"))
for score in vvae.watch(run, frames):
    if score.frame % 20 == 0:
        print(f"frame {score.frame:3}  score {score.score:7.2f}  alarm {score.alarm}")

# %% [markdown]
# An alarm compares the score before smoothing with its threshold. Scores of whole clips, as here,
# come together with the last frame of a clip. `--evaluate.anomaly_score surprise` in training makes
# verdicts from a score that comes with its frame.
