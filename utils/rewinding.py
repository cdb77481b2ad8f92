"""How many weights a round selects, by how many rewindings it comes to that, and how long it trains in between.

Needs no torch.
"""


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


def num_steps(two_steps: bool, num_weights: int, updating_ratio: float, fixing_ratio: float = 1.0) -> int:
    """Return how many steps a round trains: one, or with `two_steps`, one more than it has rewindings."""
    return 1 + len(rewinding_sizes(num_weights, updating_ratio, fixing_ratio)) if two_steps else 1


def epochs_of_steps(total_epochs: int, steps: int) -> list[int]:
    """Return how many epochs each step of a round trains, `total_epochs` together.

    Where they cannot be equal the last steps, which train the weights that are sent, have one more than the first.
    """
    least, longer = divmod(total_epochs, steps)
    return [least + (step >= steps - longer) for step in range(steps)]
