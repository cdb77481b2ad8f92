"""What the three scripts share: from their arguments to a finished run."""

import sys
from typing import TYPE_CHECKING

from utils.run.options import build_parser, interrupted, parse

if TYPE_CHECKING:
    from utils.run.results import RunResult


def run(prog: str, description: str, argv: list[str] | None) -> "RunResult":
    """Run the whole experiment of the script `prog` with the arguments `argv` (None: those of the process).

    Exits with status 2 and one line on stderr for what the user can put right, with 130 on Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(prog, description)
    args = parse(parser, argv)
    try:
        from utils.run.experiment import run_script  # torch is loaded only once the command line is right

        return run_script(args, [prog, *argv], parser.error)
    except KeyboardInterrupt:
        parser.exit(130, interrupted(args.overwrite))
