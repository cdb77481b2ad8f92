"""The paper's table from finished runs, in run folders or folders of them.

--run MODEL makes the runs that are missing first; --ablate FLAG VALUE ... sweeps a flag of the scripts instead. All
other flags of the scripts are passed on to each run.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from utils.run.argument_types import link as link_of
from utils.run.argument_types import whole
from utils.run.checks import check_folder
from utils.run.options import Parser
from utils.system.errors import UsageError, UserError, filled, path
from utils.system.streams import forgiving_streams
from utils.system.terminal import printable
from utils.table import paper
from utils.table.ablation import ablation_commands, describe_epochs
from utils.table.commands import flag_of, joined, number_in, paper_commands, split_flags
from utils.table.output import FORMATS, present, present_sweep
from utils.table.records import NotUsable, find_run_folders, folder_label, read_record
from utils.table.sweep import collect, find_jobs, list_commands, read_finished, run_missing


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m utils.table", description=__doc__, usage="%(prog)s [RUN_FOLDER ...] [flags]")
    folders = "run folders, folders of them, or what --export made of them"
    parser.add_argument("folders", nargs="*", type=filled, metavar="RUN_FOLDER", help=folders)
    g = parser.add_argument_group("output")
    g.add_argument("--format", choices=FORMATS, default="text", help="of the table that is printed")
    g.add_argument("--side_by_side", action="store_true", help="a column for each table: difference to full updating")
    g.add_argument("--rounds", action="store_true", help="the accuracy of every round behind the table")
    link = "how long messages are on the air: bits a second, or with the bytes of a frame for the message and beside it"
    g.add_argument("--link", type=link_of, metavar="RATE[/PAYLOAD/OVERHEAD]", help=link)
    where = "write table.txt, .md, .csv and plots here (default for --ablate: OUTPUT_DIR/ablate-FLAG)"
    g.add_argument("--out", type=path, metavar="DIR", help=where)
    g.add_argument("--export", type=path, metavar="DIR", help="copy what tables and plots need of each run here")
    g = parser.add_argument_group("runs to make")
    what = "run what is missing of the paper's table: DPU, GCPU, RPU, pruning and full updating, each seed"
    g.add_argument("--run", choices=paper.DATASETS, help=what)
    what = "sweep a flag of the scripts, without its dashes; given again, all combinations; switches take on and off"
    g.add_argument("--ablate", nargs="+", action="append", metavar=("FLAG", "VALUE"), help=what)
    g.add_argument("--mode", help="--ablate: the method (default: dpu)")
    g.add_argument("--seeds", nargs="+", metavar="N", help="(default: 1 2 3)")
    jobs = (
        "runs at a time (default: 1); with several on a CPU give --threads, too, CPU cores / jobs or less, but for a "
        "small mlp, which takes one"
    )
    g.add_argument("--jobs", type=whole(1), metavar="N", help=jobs)
    g.add_argument("--dry_run", action="store_true", help="print the commands of missing runs, and do no more")
    g.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


@forgiving_streams("python -m utils.table")
def main(argv: Sequence[str] | None = None) -> None:
    """Make the table that `argv` asks for; exits with status 2 for bad input, 1 if a run or an export failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        try:
            if not {"-h", "--help"} & set(argv) and any(word.split("=")[0] in ("--run", "--ablate") for word in argv):
                _sweep(parser, argv)
            else:
                _collate(parser, argv)
        except (UserError, NotUsable) as error:
            parser.error(str(error))
        except OSError as error:
            parser.error(f"{error.filename or 'a file'} cannot be used ({error.strerror})")
        except KeyboardInterrupt:
            parser.exit(130, "\ninterrupted\n")


def _collate(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    args = parser.parse_args(argv)
    for name in ("mode", "seeds", "jobs", "dry_run", "quiet"):
        if getattr(args, name):
            parser.error(f"--{name} goes with --run or --ablate")
    if not args.folders:
        parser.error("give run folders, --run or --ablate; -h says more")
    _check_output(args)
    records, left_out = [], []

    def unlisted(error: OSError) -> None:
        left_out.append(printable(f"{error.filename}: this folder cannot be listed ({error.strerror})"))

    for folder in find_run_folders(args.folders, unlisted):
        try:
            records.append(read_record(folder))
        except NotUsable as reason:
            left_out.append(f"{folder_label(folder)}: {reason}")
    if not records:
        more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        raise NotUsable(f"no finished run to show ({left_out[0]}{more})")
    if not present(args, records, left_out):
        sys.exit(1)


def _sweep(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    pieces = split_flags(argv)
    tables = {action.dest for action in parser._actions}  # argparse has no other way to ask
    args = parser.parse_args(joined([_spaced(piece) for piece in pieces if flag_of(piece) in tables]))
    rest = [piece for piece in pieces if flag_of(piece) not in tables]
    if args.folders or (args.run and args.ablate):
        parser.error("give one of run folders, --run and --ablate")
    if args.side_by_side:
        parser.error("--side_by_side goes with run folders")
    if args.run and args.mode:
        parser.error("--mode goes with --ablate; --run has all rows of the paper's table")
    _check_output(args)
    seeds = [(seed, number_in(seed)) for seed in args.seeds or ("1", "2", "3")]
    seeds = list(dict.fromkeys(seed if number is None else str(number) for seed, number in seeds))  # 01 is 1
    if args.run:
        ablation, commands = None, paper_commands(args.run, seeds, rest)
    else:
        ablation = ablation_commands(_sweeps(parser, args), args.mode or "dpu", seeds, rest)
        commands = [*ablation.swept, *ablation.full]
    if not args.quiet:
        about = [*(ablation.notes if ablation else ()), describe_epochs(commands)]
        print(*filter(None, about), sep="\n", end="\n" if any(about) else "", file=sys.stderr)
    if args.dry_run:
        list_commands(commands)
        return
    jobs = find_jobs(commands)
    failures = run_missing(jobs, args.jobs or 1, args.quiet)
    records, left_out = read_finished(jobs, failures, "all" if args.run else "the swept ones")
    written = True
    if ablation is None and records:
        written = present(args, list(records.values()), left_out)
    elif ablation and any(job.folder in records for job in jobs[: len(ablation.swept)]):
        args.out = args.out or jobs[0].folder.parent / f"ablate-{'-'.join(ablation.flags)}"
        written = present_sweep(args, collect(ablation, jobs, records), left_out)
    if failures or not written:
        sys.exit(1)


def _spaced(piece: list[str]) -> list[str]:
    """Return --ablate=FLAG VALUE as --ablate FLAG VALUE: argparse takes one value behind the sign."""
    return [*piece[0].split("=", 1), *piece[1:]] if len(piece) > 1 else piece


def _sweeps(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Return each flag of --ablate with its values; exits for one without."""
    sweeps = []
    for flag, *values in args.ablate:
        if not values:
            parser.error(f"--ablate {flag}: give one or more values behind it")
        sweeps.append((flag, list(dict.fromkeys(values))))
    if args.mode and "mode" in dict(sweeps):
        parser.error("--mode: it is what --ablate varies")
    return sweeps


def _check_output(args: argparse.Namespace) -> None:
    for name in ("out", "export"):
        if getattr(args, name):
            check_folder(f"--{name}", getattr(args, name))
    for name in ("rounds", "link"):
        if args.format == "csv" and getattr(args, name):
            raise UsageError(f"--{name} prints another table, which is no part of --format csv: leave one out")
