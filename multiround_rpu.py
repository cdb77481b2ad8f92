#!/usr/bin/env python3
"""Random partial updating: each round changes randomly chosen weights, the baseline of DPU."""

from utils.run.script import run


def main(argv=None, model=None, dataset=None):
    """Run the whole experiment; the arguments, the result and the errors are those of `utils.run.script.run`."""
    return run("multiround_rpu.py", __doc__, argv, model, dataset)


if __name__ == "__main__":
    main()
