#!/usr/bin/env python3
"""Random partial updating: each round changes randomly chosen weights, the baseline of DPU."""

import sys
from typing import TYPE_CHECKING

from utils.options import build_parser, interrupted, parse

if TYPE_CHECKING:
    from utils.results import RunResult

MODES = ("rpu",)


def main(argv: list[str] | None = None) -> "RunResult":
    """Run the whole experiment; `argv` are the command-line arguments without the program's name."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser("multiround_rpu.py", __doc__, MODES)
    args = parse(parser, argv)
    try:
        from utils.experiment import run_script  # torch is loaded only once the command line is right

        return run_script(args, [parser.prog, *argv], parser.error)
    except KeyboardInterrupt:
        parser.exit(130, interrupted(args.overwrite))


if __name__ == "__main__":
    main()
