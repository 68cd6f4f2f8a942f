"""Checkpoints: bit-identical continuation, refusal of damage, the newest two and the best kept."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from tiny_vae import assert_close, assert_equal, make_adam, make_batch, make_state, make_step

from vvae.session.start import restore_state
from vvae.training.checkpoint import Checkpointer, CheckpointError, DamagedError
from vvae.training.parallel import make_runner
from vvae.training.state import variables

KINDS = ("pmap", "mesh")

# After a damaged file, readers that Orbax started return to an event loop that is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@functools.cache
def make_host_state():
    state = jax.tree.map(np.array, make_state(make_adam()))
    # Every leaf has another value, so that none can be mistaken for another.
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: (a + rng.normal(size=a.shape)).astype(a.dtype), state)


def at_step(step):
    return make_host_state().replace(step=np.array(step, np.int32))


def abstract_state(tx):
    return jax.eval_shape(lambda: make_state(tx))


def train(runner, state, first, last, directory=None):
    """Trains from step `first` to `last`; saves the state at the end, then donates it."""
    step = runner.compile_step(make_step(make_adam()))
    state = runner.place_state(state)
    for number in range(first, last):
        state, _ = step(state, runner.place_batch(make_batch(number)))
    result = runner.fetch(state)
    if directory is not None:
        with Checkpointer(directory) as checkpointer:
            checkpointer.save(last, state, {"next_step": last})
            step(state, runner.place_batch(make_batch(last)))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_stop_and_continue_is_bit_identical(tmp_path, kind):
    uninterrupted = train(make_runner(kind), make_state(make_adam()), 0, 5)
    train(make_runner(kind), make_state(make_adam()), 0, 3, tmp_path)
    with Checkpointer(tmp_path) as checkpointer:
        step, state, extra = checkpointer.restore("latest", abstract_state(make_adam()))
    assert step == extra["next_step"] == state.step == 3
    continued = train(make_runner(kind), state, 3, 5)
    assert_equal(continued, uninterrupted)
    assert jax.tree.structure(continued) == jax.tree.structure(uninterrupted)


@pytest.mark.parametrize(("saved_by", "kind"), [("pmap", "mesh"), ("mesh", "pmap")])
def test_a_run_on_eight_devices_continues_on_one(tmp_path, saved_by, kind):
    uninterrupted = train(make_runner(saved_by), make_state(make_adam()), 0, 5)
    train(make_runner(saved_by), make_state(make_adam()), 0, 3, tmp_path)
    with Checkpointer(tmp_path) as checkpointer:
        state = checkpointer.restore("latest", abstract_state(make_adam())).state
    continued = train(make_runner(kind, jax.devices()[:1]), state, 3, 5)
    assert_close(continued.params, uninterrupted.params)


def save_values(directory, values):
    """Saves one checkpoint per value of val_elbo, at the steps 1, 2, ...; None saves no metric."""
    with Checkpointer(directory) as checkpointer:
        for step, value in enumerate(values, 1):
            metrics = {} if value is None else {"val_elbo": value}
            checkpointer.save(step, at_step(step), {"next_step": np.int64(step)}, metrics)


@pytest.mark.parametrize(
    ("values", "steps", "best"),
    [
        ([-3.0, -1.0, -2.0, -4.0], (2, 3, 4), 2),
        ([-3.0, -2.0, -1.0], (2, 3), 3),
        ([-2.0, np.float32(-1.0), np.float64(-1.5), np.float32(np.nan), np.inf], (2, 4, 5), 2),
        ([np.nan, -5.0, None], (2, 3), 2),
        ([None, np.nan], (1, 2), None),
        ([-1.0, -1.0, -2.0], (2, 3), 2),
    ],
)
def test_the_newest_two_and_the_best_are_kept(tmp_path, values, steps, best):
    save_values(tmp_path, values)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps == steps
        assert checkpointer.latest_step == len(values)
        assert checkpointer.best_step == best
        restored = checkpointer.restore("latest", abstract_state(make_adam()))
        assert restored.state.step == restored.extra["next_step"] == len(values)
        if best is None:
            with pytest.raises(CheckpointError, match="no checkpoint has a finite val_elbo"):
                checkpointer.find_step("best")
        else:
            restored = checkpointer.restore("best", abstract_state(make_adam()))
            assert restored.step == restored.state.step == best
            assert checkpointer.metrics(best) == {"val_elbo": float(values[best - 1])}


def test_a_state_comes_back_bit_by_bit_and_by_part(tmp_path):
    save_values(tmp_path, [1.0])
    state = at_step(1)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        restored = checkpointer.restore(1, abstract_state(make_adam())).state
        assert_equal(restored, state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        assert_equal(checkpointer.restore_variables("best"), variables(state, ema=True))
        assert_equal(checkpointer.restore_variables(1, ema=False), variables(state))


def read_damaged(directory):
    with Checkpointer(directory, read_only=True) as checkpointer:
        checkpointer.restore("latest", abstract_state(make_adam()))


def find_largest_data_file(directory):
    files = (path for path in directory.glob("step_*/state/ocdbt.process_0/d/*"))
    return max(files, key=lambda path: path.stat().st_size)


def test_a_flipped_byte_is_refused_and_its_leaf_named(tmp_path):
    # Random numbers do not compress, so the middle of the largest file belongs to this leaf.
    large = np.random.default_rng(0).normal(size=(200, 200))
    state = at_step(1).replace(stats={"mean": large})
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, state)
        assert_equal(checkpointer.restore_variables(1)["stats"], {"mean": large})
    path = find_largest_data_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    message = re.escape(f"{tmp_path / 'step_00000001'}: the checkpoint is damaged: stats/mean is")
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        with pytest.raises(CheckpointError, match=message):
            checkpointer.restore("latest", state)
        with pytest.raises(CheckpointError, match=message):
            checkpointer.restore_variables("latest")


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    save_values(tmp_path, [1.0])
    path = find_largest_data_file(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="step_00000001: the checkpoint is damaged") as error:
        read_damaged(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("part", "name"), [("extra", "next_step"), ("metrics", "val_elbo")])
def test_a_changed_position_or_metric_is_refused(tmp_path, part, name):
    save_values(tmp_path, [1.0])
    path = tmp_path / "step_00000001" / "record" / "metadata"
    record = json.loads(path.read_text())
    record[part][name] += 1
    path.write_text(json.dumps(record))
    message = f"the {part} values are not what was saved"
    with pytest.raises(CheckpointError, match=message):
        read_damaged(tmp_path)
    with (
        Checkpointer(tmp_path, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match=message),
    ):
        checkpointer.find_step("best")


def test_a_checkpoint_of_another_optimizer_or_model_is_refused(tmp_path):
    save_values(tmp_path, [1.0])
    sgd = abstract_state(optax.sgd(0.1))
    wider = abstract_state(make_adam())
    wider.params["decoder"]["bias"] = jax.ShapeDtypeStruct((65,), np.float32)
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        with pytest.raises(CheckpointError, match=r"lacks nothing and has in addition opt_state/1"):
            checkpointer.restore("latest", sgd)
        with pytest.raises(CheckpointError, match=r"decoder/bias is float32\[64\] there, not .*65"):
            checkpointer.restore("latest", wider)


def test_nothing_there_is_said(tmp_path):
    missing = tmp_path / "none"
    with (
        Checkpointer(missing, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match="none: holds no checkpoint"),
    ):
        checkpointer.restore_variables("best")
    assert not missing.exists()


def test_an_absent_step_is_named_with_those_there_are(tmp_path):
    save_values(tmp_path, [2.0, 1.0])
    with (
        Checkpointer(tmp_path, read_only=True) as checkpointer,
        pytest.raises(CheckpointError, match="no checkpoint 7: choose latest, best or one of 1, 2"),
    ):
        checkpointer.find_step(7)


def test_a_save_that_cannot_be_is_refused(tmp_path):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(2, at_step(2), wait=True)
        with pytest.raises(CheckpointError, match="not written, because step 2 already exists"):
            checkpointer.save(2, at_step(2))
        with pytest.raises(ValueError, match="step 4 is not the step of the state, 3"):
            checkpointer.save(4, at_step(3))
        with pytest.raises(ValueError, match="not a JSON value"):
            checkpointer.save(3, at_step(3), {"loader": object()})
        assert checkpointer.steps == (2,)


KILLED_WHILE_IT_DELETES = """
import os, shutil, signal, sys
import numpy as np
from test_checkpoint import at_step
from vvae.training import checkpoint

def delete(path, *arguments, **options):
    # The first file of the first checkpoint that is deleted, and then the end.
    for folder, _, files in os.walk(path):
        for name in files:
            os.unlink(os.path.join(folder, name))
            os.kill(os.getpid(), signal.SIGKILL)

with checkpoint.Checkpointer(sys.argv[1]) as checkpointer:
    shutil.rmtree = delete
    for step, elbo in ((1, 0.0), (2, 3.0), (3, 1.0), (4, 2.0), (5, 2.0)):
        checkpointer.save(step, at_step(step), metrics={"val_elbo": elbo}, wait=True)
"""


def test_a_process_that_is_killed_while_it_deletes_leaves_whole_checkpoints(tmp_path):
    """Steps 1 and 3 are neither the best nor of the newest two; step 1 is half deleted."""
    folder = tmp_path / "checkpoints"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    command = [sys.executable, "-c", KILLED_WHILE_IT_DELETES, str(folder)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Checkpointer(folder) as checkpointer:
        assert 1 not in checkpointer.steps and checkpointer.best_step == 2
        for step in checkpointer.steps:
            checkpointer.restore(step, abstract_state(make_adam()))
    assert {path.name for path in folder.iterdir()} == {
        f"step_{step:08d}" for step in checkpointer.steps
    }


def test_an_unfinished_save_is_ignored(tmp_path):
    save_values(tmp_path, [1.0])
    (tmp_path / "step_00000002.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps == (1,)
        checkpointer.save(2, at_step(2))
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.restore("latest", abstract_state(make_adam())).state.step == 2


CHECKPOINT = "step_00000002"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Saves steps 1 and 2, of which the second is the best."""
    directory = tmp_path_factory.mktemp("two")
    save_values(directory, [1.0, 2.0])
    return directory


def list_damages(data):
    """Yields every kind of damage to a file: its name, and the remaining bytes or None."""
    yield "missing", None
    yield "empty", b""
    yield "half", data[: len(data) // 2]
    for position in sorted({k * (len(data) - 1) // 8 for k in range(9)}):
        yield (
            f"byte {position}",
            data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :],
        )


def read_all(directory):
    with Checkpointer(directory, read_only=True) as checkpointer:
        restored = checkpointer.restore("latest", abstract_state(make_adam()))
        found = restored.step, restored.extra, checkpointer.metrics(2), checkpointer.best_step
        return found, restored.state


def test_whatever_is_damaged_is_named_or_does_no_harm(two_checkpoints, tmp_path):
    """No changed byte changes a value: either all is as saved, or an error names the step."""
    directory = tmp_path / "damaged"
    shutil.copytree(two_checkpoints, directory)
    intact, named = read_all(directory), []
    for path in sorted(path for path in (directory / CHECKPOINT).rglob("*") if path.is_file()):
        data = path.read_bytes()
        for damage, changed in list_damages(data):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            try:
                found = read_all(directory)
            except CheckpointError as error:
                assert str(error).startswith(f"{directory / CHECKPOINT}: the checkpoint is damaged")
                assert error.whole_step == 1 and "\n" not in str(error), (path, damage)
                named.append((path.parent.name, path.name))
            else:
                assert found[0] == intact[0], (path, damage)
                assert_equal(found[1], intact[1])
            path.write_bytes(data)
    assert {("record", "metadata"), ("state", "_METADATA"), ("state", "manifest.ocdbt")} < {*named}


def test_a_missing_file_is_named_and_the_checkpoint_before_is_offered(two_checkpoints, tmp_path):
    directory = tmp_path / "damaged"
    shutil.copytree(two_checkpoints, directory)
    (directory / CHECKPOINT / "state" / "_METADATA").unlink()
    message = (
        f"{CHECKPOINT}: the checkpoint is damaged: state/_METADATA is missing; step 1 is intact"
    )
    with pytest.raises(DamagedError, match=message) as caught:
        read_damaged(directory)
    assert "--checkpoint.fallback true continues from it" in str(caught.value)
    with Checkpointer(directory, read_only=True) as checkpointer:
        with pytest.raises(DamagedError, match="--which 1 evaluates it"):
            checkpointer.restore_variables("best")
        assert checkpointer.restore(1, abstract_state(make_adam())).step == 1
    (directory / "step_00000001" / "record" / "metadata").write_text("{}")
    with pytest.raises(DamagedError, match="no other checkpoint is intact: start again"):
        read_damaged(directory)


def test_a_run_goes_on_from_the_whole_checkpoint_before_a_damaged_one(tmp_path, capsys):
    save_values(tmp_path, [1.0, 2.0, 3.0, 2.5])  # steps 3 and 4 are kept
    (tmp_path / "step_00000004" / "record" / "metadata").unlink()
    shape = abstract_state(make_adam())
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(DamagedError, match=r"step_00000004.* step 3 is intact"):
            restore_state(checkpointer, shape, fallback=False)
        assert checkpointer.steps == (3, 4)
        assert_equal(restore_state(checkpointer, shape, fallback=True), at_step(3))
        assert "continuing from step 3" in capsys.readouterr().out
        assert checkpointer.steps == (3,)
        checkpointer.save(4, at_step(4), metrics={"val_elbo": 0.0})
    assert (tmp_path / "damaged-step_00000004-1" / "state").is_dir()
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps == (3, 4) and checkpointer.best_step == 3
        assert_equal(restore_state(checkpointer, shape, fallback=True), at_step(4))


def test_metrics_that_an_older_version_kept_in_a_file_of_their_own_are_read(tmp_path):
    save_values(tmp_path, [3.0, 2.0])
    for step in (1, 2):
        folder = tmp_path / f"step_{step:08d}"
        record = json.loads((folder / "record" / "metadata").read_text())
        metrics = record.pop("metrics")
        del record["metrics_digest"]
        (folder / "record" / "metadata").write_text(json.dumps(record))
        (folder / "metrics").mkdir()
        (folder / "metrics" / "metrics").write_text(json.dumps(metrics))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.best_step == 1
        checkpointer.save(3, at_step(3), metrics={"val_elbo": 1.0})
        checkpointer.save(4, at_step(4), metrics={"val_elbo": 0.0})
    with Checkpointer(tmp_path, read_only=True) as checkpointer:
        assert checkpointer.steps == (1, 3, 4)
        assert_equal(checkpointer.restore("best", abstract_state(make_adam())).state, at_step(1))
