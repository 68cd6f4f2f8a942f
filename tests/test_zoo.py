"""benchmarks.zoo: leaks as exact zeros, sizes in closed form, the table of what was measured."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import published
import pytest

from benchmarks import zoo
from vvae.pretrained.load import list_classes, load_pretrained


def make_release(name):
    kind, settings = published.SETTINGS[name]
    return zoo.Release(kind, settings=settings)


def test_every_class_has_a_release_that_can_be_built():
    releases = zoo.list_releases()
    assert {release.kind for release in releases.values()} == set(list_classes()) - {zoo.OWN}
    for name, release in releases.items():
        model = release.make()
        assert model.grid_shape(zoo.VIDEO)[0] > 1, name


def test_facts_are_those_of_the_network():
    facts = zoo.describe(make_release("wan21"))
    _, params = load_pretrained(published.GOLDEN_FOLDER / "wan21")
    assert facts["parameters"] == sum(a.size for a in jax.tree.leaves(params["params"]))
    assert facts["latents"] == [5, 64, 64, 3] and facts["compression"] == [4, 4, 4]
    assert facts["encodes_in_pieces"] and not facts["tiles_exactly"]


@pytest.mark.parametrize(("name", "leaks"), [("wan21", False), ("hunyuan", True)])
def test_a_leak_is_an_exact_zero_or_a_number(name, leaks):
    found = zoo.measure_sight(make_release(name), 0)
    assert {(value > 0) for value in found.values()} == {leaks}
    assert found.keys() == {"encoder_leak", "decoder_leak"}


def test_a_program_runs_unless_it_needs_more_memory_than_there_is():
    program = jax.jit(lambda x: x @ x).lower(jnp.ones((64, 64))).compile()
    x = jnp.ones((64, 64))
    ran = zoo._run(program, (x,), 1e9)
    assert ran["seconds"] > 0 and ran["peak_gib"] > 0 and "skipped" not in ran
    assert ran["needed_gib"] * 2**30 >= 2 * 64 * 64 * 4
    assert zoo._run(program, (x,), 1.0)["skipped"].startswith("needs ")


def test_the_largest_array_is_found_inside_loops():
    def run(x):
        def step(total, _):
            return total + jnp.outer(x, jnp.ones(1000)).sum(), None

        return jax.lax.scan(step, 0.0, None, length=3)[0]

    jaxpr = jax.make_jaxpr(run)(np.ones(4, np.float32)).jaxpr
    assert zoo.find_largest(jaxpr) == 4 * 1000 * 4


def test_the_table_says_what_was_not_measured(tmp_path):
    facts = zoo.describe(make_release("wan21"))
    rows = {
        "whole": {
            "facts": facts,
            "sight": {"encoder_leak": 0.0, "decoder_leak": 0.0312},
            "decode": {"seconds": 12.34, "peak_gib": 5.67},
            "long": {
                "seconds": 60.0,
                "peak_gib": 6.0,
                "largest_activation_gib": 2.0,
                "all_scores_gib": 0.5,
            },
        },
        "large": {"facts": facts, "decode": {"skipped": "needs 40 GiB"}},
    }
    content = {"command": zoo.COMMAND, "rows": rows}
    (tmp_path / "zoo.json").write_text(json.dumps(content))
    lines = zoo.format_table(tmp_path).splitlines()
    whole, large = ([cell.strip() for cell in lines[row].split("|")[1:-1]] for row in (4, 5))
    assert whole[5:7] == ["0", "0.03"] and whole[-2:] == ["12.3", "5.7"]
    assert large[5:7] == ["not run", "not run"] and large[-2:] == ["needs 40 GiB", ""]
    assert "6.0 GiB at the peak, 3.0 times its largest activation" in "\n".join(lines)
    assert zoo.format_table(tmp_path / "nowhere").startswith("Not measured yet: `python -m ")
