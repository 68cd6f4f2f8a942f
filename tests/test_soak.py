"""The comparison of a long training's quarters."""

from benchmarks.soak import compare_quarters


def test_growth_is_that_from_the_second_to_the_last_quarter():
    samples = []
    for step in range(0, 1001, 10):
        warm = step >= 250
        memory = 100.0 + 50.0 * warm + 3.0 * (step >= 600)
        seconds = step / 20 if step <= 700 else 35 + (step - 700) / 10
        files = {"open_files": 7 + (step == 900), "threads": 4, "processor": 0.004 * step}
        samples.append({"step": step, "time": seconds, "memory": memory} | files)
    rows = compare_quarters(samples, 1000)
    assert rows["memory"] == {"second_quarter": 150, "last_quarter": 153, "growth": 153 / 150 - 1}
    assert rows["open_files"]["growth"] == rows["threads"]["growth"] == 0
    assert abs(rows["steps_per_second"]["second_quarter"] - 20) < 1e-9
    assert abs(rows["steps_per_second"]["growth"] + 0.5) < 1e-9
    assert abs(rows["processor_ms_per_step"]["second_quarter"] - 4) < 1e-9
    assert abs(rows["processor_ms_per_step"]["growth"]) < 1e-9
