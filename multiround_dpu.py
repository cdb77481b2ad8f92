#!/usr/bin/env python3
"""Deep Partial Updating: retrain a deployed network round after round, changing few of its weights."""

from utils.run.script import run


def main(argv=None, model=None, dataset=None):
    """Run the whole experiment; the arguments, the result and the errors are those of `utils.run.script.run`."""
    return run("multiround_dpu.py", __doc__, argv, model, dataset)


if __name__ == "__main__":
    main()
