"""When a round starts again from the initial weights (section 3.4 of the paper)."""


def should_reinitialize(num_samples: int, num_samples_at_last_init: int) -> bool:
    """Return True if the samples have more than doubled since the last (re-)initialization."""
    return num_samples > 2 * num_samples_at_last_init
