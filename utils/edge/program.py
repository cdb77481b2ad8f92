"""The edge node as a program. Needs numpy and `constriction`, no torch.

python -m utils.edge init   --initial RUN/initial.safetensors --out node.safetensors
python -m utils.edge apply  --node node.safetensors RUN/updates/round_003.dpu ...
python -m utils.edge status --node node.safetensors
python -m utils.edge show   RUN/updates/round_003.dpu [--node node.safetensors]
python -m utils.edge replay RUN [--out node.safetensors]
python -m utils.edge catch_up RUN --from 3 [--to 9] --out catch_up.dpu
python -m utils.edge bundle DIR
python -m utils.edge predict --node node.safetensors --model-from RUN [IMAGES] [--out classes.csv]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

from utils.edge.commands import Refused, apply, bundle, catch_up, init, refuse_existing, replay, show, status
from utils.edge.node import EdgeNode
from utils.system.errors import packages_needed, path
from utils.system.files import write_atomic
from utils.system.streams import forgiving_streams
from utils.system.terminal import columns, csv_text, printable

_MOST_ROWS = 20  # printed


def predict(args: argparse.Namespace) -> None:
    """Classify images with the network that a node serves. Needs torch, and the code of the network.

    Without images: those that the run is tested on. With labels, or class folders, it says how many are right.
    """
    node = EdgeNode.load(args.node)
    if args.out is not None:
        refuse_existing(args.out)
    with packages_needed("python -m utils.edge predict"):
        try:
            from utils.predict import predict as answers_of
        except ModuleNotFoundError as error:
            if error.name != "utils.predict":
                raise
            raise Refused("predict needs the whole project: a bundle does not have the code of networks") from None
        answers = answers_of(node, args.model_from, args.images, args.model)
    rows = [("image", "class"), *zip(answers.names, answers.classes)]
    if args.out is not None:
        write_atomic(args.out, csv_text(rows).encode(errors="surrogateescape"))
    shown = rows[: _MOST_ROWS + 1]
    print(columns([tuple(map(printable, row)) for row in shown], "<<"))
    if len(shown) < len(rows):
        print(f"and {len(rows) - len(shown):,} more{'' if args.out else ': --out FILE.csv writes all'}")
    right = "" if answers.accuracy is None else f", {answers.accuracy:.2%} right".replace("%", " %")
    print(f"{len(answers.names):,} images{right}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise Refused(f"{message} (see {self.prog} -h)")


def _round(text: str) -> int:
    """Return a round's number; -1 stands for the network as shipped."""
    if text == "shipped":
        return -1
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither the number of a round nor `shipped`")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the program's parser: a command for each function, which `function` names."""
    parser = _Parser(prog="python -m utils.edge", description="An edge node that update messages keep up to date.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable, **files: tuple[bool, str]) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        for flag, (required, help_) in files.items():
            names = dict.fromkeys((f"--{flag}", f"--{flag.replace('_', '-')}"))
            sub.add_argument(*names, type=path, required=required, metavar="FILE", help=help_)
        return sub

    initial = (True, "the initial network, which a run writes as initial.safetensors")
    sign_key = (False, "accept only messages signed, by a keyed MAC, with the key in this file; the node remembers it")
    network = (False, "a node, or initial.safetensors, of the same network; default: the run's own")
    command(init, initial=initial, out=(True, "the node file to make"), sign_key=sign_key)
    for sub in (
        command(apply, node=(True, "the node file; replaced atomically"), sign_key=sign_key),
        command(show, node=network),
    ):
        sub.add_argument("messages", type=path, nargs="+", metavar="FILE.dpu")
    commands.choices["apply"].add_argument("--strict", action="store_true", help="refuse messages that it would skip")
    command(status, node=(True, "the node file; it is only read"))
    sub = command(replay, out=(False, "write the rebuilt node here"), sign_key=sign_key)
    sub.add_argument("run", type=path, metavar="RUN_FOLDER")
    sub = command(catch_up, out=(True, "the file to make"), sign_key=(False, "the key that the run signs with"))
    sub.add_argument("run", type=path, metavar="RUN_FOLDER")
    help_ = "the last round that the node has applied, as `status` says; `shipped`: none"
    sub.add_argument("--from", dest="since", type=_round, required=True, metavar="ROUND", help=help_)
    sub.add_argument("--to", type=_round, metavar="ROUND", help="default: that of the run's last message")
    sub = command(bundle)
    sub.add_argument("to", type=path, metavar="DIR", help="the folder to make")
    model_from = (True, "the run folder whose config.json says how the network is built")
    sub = command(
        predict, node=(True, "the node file"), model_from=model_from, out=(False, "write all classes here, as CSV")
    )
    help_ = "an .npz file with `images` (and `labels`) or a folder; default: what the run is tested on"
    sub.add_argument("images", type=path, nargs="?", metavar="IMAGES", help=help_)
    help_ = "the file of a network of one's own: its code runs here, so no run folder can say which it is"
    sub.add_argument("--model", metavar="FILE.py:NAME", help=help_)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 2 with one line on stderr; 130 if interrupted; see `apply`."""
    with forgiving_streams(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"edge: warning: {message}", file=sys.stderr)
        try:
            args = build_parser().parse_args(argv)
            return args.function(args) or 0
        except (Refused, ValueError) as error:
            print(printable(f"edge: error: {error}"), file=sys.stderr)
            return getattr(error, "status", 2)
        except OSError as error:
            print(printable(f"edge: error: {error.filename or 'a file'}: {error.strerror or error}"), file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("edge: interrupted: what is said to be applied is in the node's file", file=sys.stderr)
            return 130
