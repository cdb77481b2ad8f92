"""How many weights a round selects, by how many rewindings it comes to that, and how long it trains in between.

Needs no torch.
"""

from collections.abc import Mapping
from typing import Any

from utils.message.values import fewest_bits


def num_selected(num_weights: int, updating_ratio: float) -> int:
    """Return `int(k * I)`, the number of weights that one round updates."""
    return int(updating_ratio * num_weights)


def rewinding_sizes(num_weights: int, updating_ratio: float, fixing_ratio: float = 1.0) -> list[int]:
    """Return how many weights are still selected after each rewinding of a round; the last is `int(k * I)`.

    Each rewinding returns `int(fixing_ratio * n)` of the n weights still selected, at least one, and none too many;
    at 1 there is one rewinding.
    """
    target = num_selected(num_weights, updating_ratio)
    sizes = [max(target, num_weights - max(1, int(fixing_ratio * num_weights)))]
    while sizes[-1] > target:
        sizes.append(max(target, sizes[-1] - max(1, int(fixing_ratio * sizes[-1]))))
    return sizes


def ratio_in_budget(num_weights: int, byte_budget: int, value_bits: int | str) -> float:
    """Return the updating ratio of which the values alone, of `value_bits` ("auto": the fewest), fill `byte_budget`.

    What fits in a round is known after its first step; this says before, by how many rewindings it comes to that.
    """
    return min(1.0, 8 * byte_budget / (fewest_bits(value_bits) * num_weights))


def size_in_budget(size: int, fits: int, rewindings: int) -> int:
    """Return how many of `size` selected weights the first of so many rewindings leaves, if `fits` may be sent.

    Each of them rewinds the same share, and the last one leaves `fits`; none before it leaves no weight.
    """
    return fits if rewindings == 1 else round(size * (max(1, fits) / size) ** (1 / rewindings))


def num_steps(two_steps: bool, num_weights: int, settings: Mapping[str, Any]) -> int:
    """Return how many steps a round of a run trains: one, or with `two_steps`, one more than it has rewindings."""
    if not two_steps:
        return 1
    ratio, budget = settings["updating_ratio"], settings.get("byte_budget")  # old runs have no budget
    if budget is not None:
        ratio = ratio_in_budget(num_weights, budget, settings["value_bits"])
    return 1 + len(rewinding_sizes(num_weights, ratio, settings.get("rewind_fixing_ratio", 1.0)))


def epochs_of_steps(total_epochs: int, steps: int) -> list[int]:
    """Return how many epochs each step of a round trains, `total_epochs` together.

    Where they cannot be equal the last steps, which train the weights that are sent, have one more than the first.
    """
    least, longer = divmod(total_epochs, steps)
    return [least + (step >= steps - longer) for step in range(steps)]
