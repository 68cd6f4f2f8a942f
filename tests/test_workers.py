"""Worker processes are fresh, do not import jax, and lose only their item when they die."""

import math
import os
import subprocess
import sys
import textwrap
import threading

import pytest

import vvae.data.cache  # noqa: F401  (the workers import it)
from vvae.data.workers import WorkerError, run_in_workers


def run(function, items, num_workers):
    return dict(run_in_workers(function, items, num_workers))


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_of_all_items(num_workers):
    assert run(math.factorial, [5, 0, 3, 4], num_workers) == {0: 120, 1: 1, 2: 6, 3: 24}


def test_nothing_to_do():
    assert run(math.factorial, [], 2) == {}


@pytest.mark.parametrize("num_items", [1, 2])
def test_workers_are_other_processes(num_items):
    """Even a single item is processed elsewhere, since a decoder may crash on it."""
    found = run(eval, ["__import__('os').getpid()"] * num_items, 2)
    assert os.getpid() not in found.values()
    assert run(eval, ["__import__('os').getpid()"], 0) == {0: os.getpid()}


def test_an_item_that_never_ends_costs_only_its_process():
    forever = "__import__('threading').Event().wait()"
    found = dict(run_in_workers(eval, ["1 + 1", forever, "2 + 2"], 1, seconds=5))
    assert str(found.pop(1)) == "not decoded within 5 s"
    assert found == {0: 2, 2: 4}


def test_workers_that_decode_import_no_jax():
    ask = "(__import__('vvae.data.cache'), sorted(__import__('sys').modules))[1]"
    modules = run(eval, [ask, ask], 1)[0]
    assert "vvae.video" in modules and "numpy" in modules
    assert not [name for name in modules if name.split(".")[0] in ("jax", "jaxlib", "flax")]


def test_error_of_the_function_reaches_the_caller():
    with pytest.raises(ValueError, match="not defined for negative values"):
        run(math.factorial, [1, -1], 1)


def test_prints_of_a_worker_do_not_disturb_its_results():
    say = "(print('noise', flush=True), __import__('os').write(1, b'noise'), 7)[2]"
    assert run(eval, [say, say], 1) == {0: 7, 1: 7}


def test_dead_worker_costs_only_its_item():
    items = ["1 + 1", "__import__('os')._exit(9)", "2 + 2", "3 + 3"]
    found = run(eval, items, 1)
    assert isinstance(found.pop(1), WorkerError)
    assert found == {0: 2, 2: 4, 3: 6}


def test_closing_early_ends_processes_and_threads():
    results = run_in_workers(
        eval, ["__import__('os').getpid()"] * 2 + ["sum(range(10**11))"] * 2, 2
    )
    _, pid = next(results)
    results.close()
    assert threading.active_count() == 1 or not [
        thread for thread in threading.enumerate() if "_feed" in thread.name
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_script_without_main_guard(tmp_path):
    """A worker does not run the calling script again."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import math
            import jax
            from vvae.data.workers import run_in_workers
            jax.numpy.zeros(3).block_until_ready()
            print("once", sorted(run_in_workers(math.factorial, [3, 4, 5], 2)))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "once [(0, 6), (1, 24), (2, 120)]\n", done.stderr


def test_negative_number_of_workers():
    with pytest.raises(ValueError, match=r"data\.num_workers must be at least 0, got -1"):
        run(math.factorial, [1, 2], -1)
