"""The comparison of two precisions."""

import numpy as np

from benchmarks.precision import compare


def test_differences_are_those_of_closed_forms():
    exact = {
        "elbo": np.array([-10.0, -20.0]),
        "kl": {"frame": np.array([2.0, 4.0])},
        "means": {"frame": np.zeros((2, 2))},
        "deviations": {"frame": np.full((2, 2), 0.5)},
        "codes": np.zeros((1, 4)),
        "gradient": {"a": np.array([3.0]), "b": np.array([4.0])},
    }
    rounded = {
        "elbo": np.array([-10.0, -19.0]),
        "kl": {"frame": np.array([2.0, 4.0])},
        "means": {"frame": np.array([[1.0, 0.0], [0.0, 0.0]])},
        "deviations": {"frame": np.ones((2, 2))},
        "codes": np.array([[0.0, 0.0, 0.0, -4.0]]),
        "gradient": {"a": np.array([3.0]), "b": np.array([4.5])},
    }
    values = {name: (value, change) for name, value, change in compare(exact, rounded)}
    assert values["ELBO, nats/clip"] == ("-15.0", "+0.5 (mean), 1 (most of a clip)")
    assert values["KL of frame, nats/clip"] == ("3.0", "+0 (mean), 0 (most of a clip)")
    apart = values["posterior means of frame, in posterior standard deviations"][1]
    assert apart == "1 (RMS), 2 (most)"
    assert values["reconstructed frames, of 255"][1] == "2 (RMS), 4 (most)"
    assert values["gradient, norm"] == ("5", "10.00%")
