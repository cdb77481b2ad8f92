#!/usr/bin/env python3
"""Full updating: each round changes all weights, or keeps only the largest (pruning by magnitude)."""

from typing import TYPE_CHECKING, Any

from utils.run.script import run

if TYPE_CHECKING:
    from utils.run.folder import RunResult


def main(argv: list[str] | None = None, model: Any = None, dataset: Any = None) -> "RunResult":
    """Run the whole experiment; `argv` are the command-line arguments without the program's name.

    From Python, in place of --model and --dataset: `model`, a module or what makes one, and `dataset`, a
    data.datasets.Dataset.
    """
    return run("multiround_fu.py", __doc__, argv, model, dataset)


if __name__ == "__main__":
    main()
