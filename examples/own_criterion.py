"""Two criteria of one's own: python multiround_dpu.py --criterion examples/own_criterion.py:relative_change ..."""

from utils.criterion import criterion


@criterion
def relative_change(weights, start):
    """How far a weight went in step 1, measured by its size at the start."""
    return (weights - start).abs() / (start.abs() + 0.01)


def absolute_step(gradient, before, after):
    """What one optimizer step adds to `accumulated`."""
    return (gradient * (after - before)).abs()


@criterion(step=absolute_step)
def total_effect(accumulated):
    """How much each weight moved the loss, up or down."""
    return accumulated
