"""The edge node as a program. Needs numpy and `constriction`, no torch.

python -m utils.edge init   --initial RUN/initial.safetensors --out node.safetensors
python -m utils.edge apply  --node node.safetensors RUN/updates/round_003.dpu ...
python -m utils.edge status --node node.safetensors
python -m utils.edge show   RUN/updates/round_003.dpu [--node node.safetensors]
python -m utils.edge replay RUN [--out node.safetensors]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from utils.edge.node import EdgeNode, locked_node
from utils.edge.report import REPLAY_HEADER, describe, describe_layers, describe_node, replay_row
from utils.edge.run_files import Promises, deployed_in_run, message_files
from utils.edge.state_file import read_schema, read_tensors
from utils.message.container import most_bytes, read_sign_key, unpack_message
from utils.message.streams import BaseMissingError, NothingNewError, UpdateFormatError
from utils.message.update import Update, sent_by_layer
from utils.schema import Schema
from utils.system.streams import forgiving_streams
from utils.system.terminal import columns

_NOTHING_NEW, _BASE_MISSING = 3, 4  # exit statuses
_MOST_BYTES = 1 << 30  # of a message whose network is not known


class _Refused(Exception):
    """What goes to stderr, in one line, and the exit status; `reason` is why a message was refused."""

    status = 2

    def __init__(self, text: str, reason: UpdateFormatError | None = None):
        super().__init__(text)
        self.reason = reason


def init(args: argparse.Namespace) -> None:
    """Make a node file of the initial network."""
    node = EdgeNode.shipped(args.initial, key=_key(args))
    with locked_node(args.out):
        if args.out.exists():
            raise _Refused(f"{args.out} exists; remove it, or choose another --out")
        node.save(args.out)
    print(f"{args.out}: an edge node with the initial network of {args.initial}")


def apply(args: argparse.Namespace) -> int:
    """Apply messages to a node file in the given order; skip those of rounds that it has, stop at one that is refused.

    Exit status: 0 applied, 3 nothing new, 2 refused, 4 refused because a message before it is missing.
    """
    key, applied = _key(args), 0
    args.node.stat()  # a lock is put beside a node that is there, only
    with locked_node(args.node):
        node = EdgeNode.load(args.node, key=key)
        for path in args.messages:
            try:
                update = _receive(node, path)
            except _Refused as refused:
                if isinstance(refused.reason, BaseMissingError):
                    refused.status = _BASE_MISSING
                if args.strict or not isinstance(refused.reason, NothingNewError):
                    raise
                print(f"{refused}; skipped")
                continue
            state = "serving" if update.header.serve else "standing by"
            print(f"{path}: applied, round {update.header.round}, {update.selected.size:,} weights, {state}")
            applied += 1
    return 0 if applied else _NOTHING_NEW


def status(args: argparse.Namespace) -> None:
    """Print what a node holds: its last round, its network, and whether it serves what the last message made."""
    print(describe_node(EdgeNode.load(args.node)))


def show(args: argparse.Namespace) -> None:
    """Print a readable account of each message."""
    schema_in, deployed_in = cache(_schema_in), cache(_deployed_in)  # the messages of a run share them
    for path in args.messages:
        run = path.resolve().parent.parent
        file = args.node or run / "initial.safetensors"
        layers = "  Weights by layer need the network: add --node NODE."
        try:
            schema = schema_in(file) if args.node or file.is_file() else None
            message = unpack_message(_read(path, _MOST_BYTES if schema is None else most_bytes(schema.size)))
            if schema is not None:
                header = message.header
                deployed = deployed_in(file, run) if header.sparse_network and not header.deploys else None
                layers = describe_layers(schema, sent_by_layer(message, schema, deployed), deployed)
        except UpdateFormatError as error:
            raise _Refused(f"{path}: {error}") from None
        print(f"{path}\n{describe(message.header)}\n\n{layers}\n")


def replay(args: argparse.Namespace) -> None:
    """Rebuild the node from a run's initial network and all its messages; check fingerprints and the run's records."""
    messages, promises = message_files(args.run), Promises.of(args.run)
    promises.check_kinds(messages)
    node = EdgeNode.shipped(args.run / "initial.safetensors", key=_key(args))
    promises.check_files(messages, node.most_bytes)
    rows = [REPLAY_HEADER, *(replay_row(path.name, _receive(node, path)) for path in messages)]
    promises.check_served(node.serving)
    print(columns(rows, "<>>><<"))
    total = sum(path.stat().st_size for path in messages)
    print(f"{len(messages)} messages, {total:,} bytes, all fingerprints right; now at {node.fingerprint.hex()}")
    if note := promises.note(messages):
        print(f"note: {note}")
    if args.out is not None:
        with locked_node(args.out):
            node.save(args.out)


def _schema_in(file: Path) -> Schema:
    return read_schema(file, read_tensors(file)[1])


def _deployed_in(file: Path, run: Path) -> np.ndarray | None:
    """Return the weights of the sparse network that a message is for: a node's, or else those of the message's run."""
    return EdgeNode.load(file).deployed if "node" in read_tensors(file)[1] else deployed_in_run(run)


def _receive(node: EdgeNode, path: Path) -> Update:
    try:
        return node.receive(_read(path, node.most_bytes))
    except UpdateFormatError as error:
        raise _Refused(f"{path}: {error}", error) from None


def _read(path: Path, most: int) -> bytes:
    """Return what is in a file, but of a longer one just a byte more than `most`: it is refused then, unread."""
    with open(path, "rb") as file:
        return file.read(most + 1)


def _key(args: argparse.Namespace) -> bytes | None:
    return None if args.sign_key is None else read_sign_key(args.sign_key)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise _Refused(f"{message} (see {self.prog} -h)")


def build_parser() -> argparse.ArgumentParser:
    """Return the program's parser: a command for each function above, which `function` names."""
    parser = _Parser(prog="python -m utils.edge", description="An edge node that update messages keep up to date.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable, **files: tuple[bool, str]) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        for flag, (required, help_) in files.items():
            sub.add_argument(f"--{flag}", type=Path, required=required, metavar="FILE", help=help_)
        return sub

    initial = (True, "the initial network, which a run writes as initial.safetensors")
    sign_key = (False, "accept only messages signed, by a keyed MAC, with the key in this file; the node remembers it")
    network = (False, "a node, or initial.safetensors, of the same network; default: the run's own")
    command(init, initial=initial, out=(True, "the node file to make"), sign_key=sign_key)
    for sub in (
        command(apply, node=(True, "the node file; replaced atomically"), sign_key=sign_key),
        command(show, node=network),
    ):
        sub.add_argument("messages", type=Path, nargs="+", metavar="FILE.dpu")
    commands.choices["apply"].add_argument("--strict", action="store_true", help="refuse messages that it would skip")
    command(status, node=(True, "the node file; it is only read"))
    sub = command(replay, out=(False, "write the rebuilt node here"), sign_key=sign_key)
    sub.add_argument("run", type=Path, metavar="RUN_FOLDER")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 2 with one line on stderr; 130 if interrupted; see `apply`."""
    with forgiving_streams(), warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"edge: warning: {message}", file=sys.stderr)
        try:
            args = build_parser().parse_args(argv)
            return args.function(args) or 0
        except (_Refused, ValueError) as error:
            print(f"edge: error: {error}", file=sys.stderr)
            return getattr(error, "status", 2)
        except OSError as error:
            print(f"edge: error: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("edge: interrupted: what is said to be applied is in the node's file", file=sys.stderr)
            return 130
