"""Bars on a terminal: what they say, and that they fit 80 columns."""

import pytest

from utils.system.progress import Bars


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [0.0]
    monkeypatch.setattr("utils.system.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.mark.parametrize("step, name, val_acc", [(1, "full updating", None), (2, "fine-tuning", 0.9), (7, "step 7", 1.0)])
def test_a_step_shows_images_a_second_and_what_was_measured_and_fits(capsys, clock, step, name, val_acc):
    bars = Bars(60, 0, shown=True)
    clock[0] = 4000.0
    with bars.step(59, step, 100, 0, num_batches=10, num_samples=1250) as bar:
        for seconds in (0.01, 0.02):
            clock[0] = 4000 + seconds
            bar.advance()  # 125 images in 0.01 seconds
        bar.show(1, 0.25, val_acc)
        bar.ncols, bar.dynamic_ncols = 80, None
        line = str(bar)
    accuracy = "" if val_acc is None else f", val {100 * val_acc:.2f} %"
    assert line.startswith(f"{name} 2/100") and line.endswith(f", 12,500 images/s, loss 0.2500{accuracy}"), line
    assert len(line) <= 80 and "round 59 of 60" in capsys.readouterr().err
    bars.close()


def test_an_evaluation_moves(capsys, clock):
    bars = Bars(4, 0, shown=True)
    with bars.step(2, 1, 3, 0, num_batches=1, num_samples=1), bars.busy("validating") as tick:
        for number in range(5):
            clock[0] = number
            tick()
    err = capsys.readouterr().err
    assert all(f"round 2 of 4, validating, batch {number}" in err for number in range(2, 6)), err
    bars.close()


def test_a_bar_that_is_closed_leaves_nothing(capsys, clock):
    bars = Bars(4, 0, shown=True)
    bars.step(0, 1, 3, 0, num_batches=1, num_samples=1).close()
    bars.close()
    assert capsys.readouterr().err.split("\r")[-2].strip() == "" and not capsys.readouterr().err
