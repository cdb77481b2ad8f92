#!/usr/bin/env python3
"""Full updating: each round changes all weights, or keeps only the largest (pruning by magnitude)."""

from utils.run.script import run


def main(argv=None, model=None, dataset=None):
    """Run the whole experiment; the arguments, the result and the errors are those of `utils.run.script.run`."""
    return run("multiround_fu.py", __doc__, argv, model, dataset)


if __name__ == "__main__":
    main()
