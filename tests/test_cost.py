"""FLOPs of a step counted in two ways, and its memory by the compiler and by the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny_vae import make_adam, make_batch, make_state, make_step

from vvae.models.convolutions import down_conv, up_conv
from vvae.training.cost import count_flops, measure_step
from vvae.training.parallel import make_runner, run_ahead

KINDS = ("pmap", "mesh")


def count(function, *arguments):
    return count_flops(jax.make_jaxpr(function)(*arguments))


def ask_compiler(function, *arguments):
    """Returns the compiler's count, without operations other than products."""
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def test_matrix_products_count_two_a_multiplication():
    a, b = jnp.ones((5, 3, 7)), jnp.ones((5, 7, 11))
    assert count(jnp.matmul, a, b) == 2 * 5 * 3 * 7 * 11
    gradient = jax.grad(lambda a, b: jnp.matmul(a, b).sum(), (0, 1))
    assert count(gradient, a, b) == 3 * 2 * 5 * 3 * 7 * 11


CONVOLUTIONS = {
    "stride": {"window_strides": (2, 1), "padding": ((1, 2), (0, 3))},
    "transposed": {"window_strides": (1, 1), "padding": ((2, 2), (3, 1)), "lhs_dilation": (2, 3)},
    "dilated": {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
}


@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("groups", [{}, {"feature_group_count": 2}, {"batch_group_count": 2}])
def test_convolutions_count_as_the_compiler_counts(settings, groups):
    channels = 4 // groups.get("feature_group_count", 1)
    x, kernel = jnp.ones((4, 9, 8, 4)), jnp.ones((3, 4, channels, 6))

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **settings, **groups)

    assert count(convolve, x, kernel) == ask_compiler(convolve, x, kernel)


@pytest.mark.parametrize("convolve", [down_conv, up_conv])
def test_convolutions_of_the_network_count_in_their_direct_form(convolve):
    """16 taps at every position of the smaller grid, less those in the padding of one pixel.

    The gradients with respect to both arguments count the same.
    """
    size, channels, features = 8, 3, 5
    x, kernel = jnp.ones((2, size, size, channels)), jnp.ones((4, 4, channels, features))
    small = size // 2 if convolve is down_conv else size
    forward = 2 * 2 * channels * features * (4 * small - 2) ** 2
    assert count(convolve, x, kernel) == forward
    gradient = jax.grad(lambda x, kernel: convolve(x, kernel).sum(), (0, 1))
    assert count(gradient, x, kernel) == 3 * forward


def test_a_loop_counts_as_often_as_it_runs():
    a = jnp.ones((3, 3))

    def repeat(a):
        return lax.scan(lambda carry, _: (carry @ a, None), a, length=7)[0]

    assert count(repeat, a) == 7 * 2 * 3**3
    # The compiler's own count would be wrong.
    assert ask_compiler(repeat, a) < 2 * 2 * 3**3
    with pytest.raises(ValueError, match="while loop"):
        count(lambda a: lax.while_loop(lambda c: c.sum() < 9, lambda c: c @ a, a), a)


def make_placed(kind, num_devices, num_micro_batches=1):
    tx = make_adam()
    runner = make_runner(kind, jax.devices()[:num_devices])
    step = runner.compile_step(make_step(tx, num_micro_batches))
    return step, runner.place_state(make_state(tx)), runner.place_batch(make_batch(0))


@pytest.mark.parametrize("kind", KINDS)
def test_flops_depend_on_the_batch_alone(kind):
    """They depend neither on the number of devices nor on that of micro-batches."""
    tx = make_adam()
    expected = count(make_step(tx), make_state(tx), make_batch(0))
    # It includes a dense decoder of 3 latents to 64 pixels for each of 32 frames.
    assert expected > 3 * 2 * 32 * 3 * 64
    for num_devices, num_micro_batches in ((1, 1), (8, 1), (2, 4)):
        step, state, batch = make_placed(kind, num_devices, num_micro_batches)
        assert count_flops(jax.make_jaxpr(step)(state, batch)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_placed", [True, False], ids=["placed", "described"])
def test_measuring_a_step_neither_donates_nor_compiles_twice(kind, is_placed):
    """In a thread, as in training, with only the shapes of the state."""
    compiled = []

    def listener(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    step, state, batch = make_placed(kind, 2)
    runner = make_runner(kind, jax.devices()[:2])
    described = state if is_placed else runner.describe_state(jax.eval_shape(lambda: state))
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        cost = run_ahead(measure_step, step, described, batch).result()
        assert len(compiled) == 1
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    on_device = sum(np.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(state))
    on_device += sum(a.nbytes // 2 for a in jax.tree.leaves(batch))
    assert cost.bytes > on_device and cost.flops > 0
