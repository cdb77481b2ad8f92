"""The commands of the edge node as a program: each takes its parsed flags, prints, and may return an exit status."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import numpy as np

from utils.edge.bundle import device_contents
from utils.edge.catch_up import catch_up as shortest_catch_up
from utils.edge.node import EdgeNode, locked_node
from utils.edge.report import REPLAY_HEADER, describe, describe_layers, describe_node, replay_row
from utils.edge.run_files import Promises, deployed_in_run, message_files, round_of
from utils.edge.state_file import read_schema, read_tensors
from utils.message.container import most_bytes, read_sign_key, split_messages, unpack_message
from utils.message.streams import BaseMissingError, NothingNewError, UpdateFormatError
from utils.message.update import Update, sent_by_layer
from utils.system.files import is_leftover, make_folder, naming, remove_leftovers, write_atomic
from utils.system.terminal import columns

_NOTHING_NEW, _BASE_MISSING = 3, 4  # exit statuses
_MOST_BYTES = 1 << 30  # of a message whose network is not known


class Refused(Exception):
    """What goes to stderr, in one line, and the exit status."""

    def __init__(self, text: str, status: int = 2):
        super().__init__(text)
        self.status = status


def init(args: argparse.Namespace) -> None:
    """Make a node file of the initial network."""
    _save_new(EdgeNode.shipped(args.initial, key=_key(args)), args.out)
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
                update = node.receive(_read(path, node.most_bytes))
            except BaseMissingError as error:
                since = "shipped" if node.round < 0 else node.round
                way = f"catch up: python -m utils.edge catch_up RUN_FOLDER --from {since} --out FILE.dpu"
                raise Refused(f"{path}: {error}; {way}", _BASE_MISSING) from None
            except UpdateFormatError as error:
                if args.strict or not isinstance(error, NothingNewError):
                    raise Refused(f"{path}: {error}") from None
                print(f"{path}: {error}; skipped")
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
    # The messages of a run share them.
    schema_in, deployed_in = cache(lambda file: read_schema(file, read_tensors(file)[1])), cache(_deployed_in)
    for path in args.messages:
        run = path.resolve().parent.parent
        file = args.node or run / "initial.safetensors"
        layers = "  Weights by layer need the network: add --node NODE."
        try:
            schema = schema_in(file) if args.node or file.is_file() else None
            data = _read(path, _MOST_BYTES if schema is None else most_bytes(schema.size))
            for message in map(unpack_message, split_messages(data)):
                header = message.header
                if schema is not None:
                    deployed = deployed_in(file, run) if header.sparse_network and not header.deploys else None
                    layers = describe_layers(schema, sent_by_layer(message, schema, deployed), deployed)
                print(f"{path}\n{describe(header)}\n\n{layers}\n")
        except UpdateFormatError as error:
            raise Refused(f"{path}: {error}") from None


def replay(args: argparse.Namespace) -> None:
    """Rebuild the node from a run's initial network and all its messages; check fingerprints and the run's records."""
    if args.out is not None:
        refuse_existing(args.out)
    messages, promises, node = _open_run(args)
    rows = [REPLAY_HEADER, *(replay_row(path.name, _receive(node, path)) for path in messages)]
    promises.check_served(node.serving)
    print(columns(rows, "<>>><<"))
    total = sum(path.stat().st_size for path in messages)
    print(f"{len(messages)} messages, {total:,} bytes, all fingerprints right; now at {node.fingerprint.hex()}")
    if note := promises.note(messages):
        print(f"note: {note}")
    if args.out is not None:
        _save_new(node, args.out)


def catch_up(args: argparse.Namespace) -> int:
    """Make one file that brings a node which missed messages of a run to where they would have brought it.

    Exit status: 0 made, 3 there is nothing that the node missed.
    """
    messages, _, node = _open_run(args)
    missed = []
    for path in messages:
        if round_of(path) <= args.since:
            _receive(node, path)
        elif args.to is None or round_of(path) <= args.to:
            missed.append(_read(path, node.most_bytes))
    if not missed:
        end = "" if args.to is None else f" up to {_named(args.to)}"
        print(f"{args.run}: nothing was sent after {_named(args.since)}{end}: there is nothing to catch up with")
        return _NOTHING_NEW
    try:
        data = shortest_catch_up(node, missed)
    except UpdateFormatError as error:
        raise Refused(f"{args.run}: a message of it is refused: {error}") from None
    refuse_existing(args.out)
    write_atomic(args.out, data)
    size, last = sum(map(len, missed)), unpack_message(missed[-1]).header
    print(f"{args.out}: from {_named(args.since)} to round {last.round}: {len(data):,} bytes")
    print(f"messages missed: {len(missed)}, {size:,} bytes, of which that is {len(data) / size:.2f}")
    if last.signed and not all(unpack_message(message).header.signed for message in split_messages(data)):
        print("note: the run signs its messages, and this is not signed: nodes with its key need one with --sign_key")
    return 0


def bundle(args: argparse.Namespace) -> None:
    """Copy the files that a device needs into a folder, new or left by a call that was cut short: all but `predict`."""
    contents = device_contents()
    for path in args.to.rglob("*"):  # what a call that was cut short has left may stay
        known = contents.get(path.relative_to(args.to))
        ours = known is not None and path.is_file() and path.read_bytes() == known
        if not (path.is_dir() or ours or is_leftover(path.name)):
            raise Refused(f"{path} is no part of this bundle; choose another folder")
    for file, data in contents.items():
        make_folder((args.to / file).parent)
        write_atomic(args.to / file, data)
    remove_leftovers(args.to)
    size = f"{len(contents)} files, {sum(map(len, contents.values())):,} bytes"
    print(*contents, sep="\n")
    print(f"{args.to}: {size}; pip install -r requirements.txt there, Python 3.10 or newer")


def _save_new(node: EdgeNode, out: Path) -> None:
    refuse_existing(out)  # before a lock is put beside what is no node
    with locked_node(out):
        refuse_existing(out)
        node.save(out)


def refuse_existing(out: Path) -> None:
    """Raise Refused if there is anything at `out`: it may be a node, or a file of a run."""
    if out.exists():
        raise Refused(f"{out} exists; remove it, or choose another --out")


def _open_run(args: argparse.Namespace) -> tuple[list[Path], Promises, EdgeNode]:
    """Return a run's messages, checked against its records, and a node as the run ships it."""
    messages, promises = message_files(args.run), Promises.of(args.run)
    promises.check_kinds(messages)
    node = EdgeNode.shipped(args.run / "initial.safetensors", key=_key(args))
    promises.check_files(messages, node.most_bytes)
    return messages, promises, node


def _named(number: int) -> str:
    return "the network as shipped" if number < 0 else f"round {number}"


def _deployed_in(file: Path, run: Path) -> np.ndarray | None:
    """Return the weights of the sparse network that a message is for: a node's, or else those of the message's run."""
    return EdgeNode.load(file).deployed if "node" in read_tensors(file)[1] else deployed_in_run(run)


def _receive(node: EdgeNode, path: Path) -> Update:
    try:
        return node.receive(_read(path, node.most_bytes))
    except UpdateFormatError as error:
        raise Refused(f"{path}: {error}") from None


def _read(path: Path, most: int) -> bytes:
    """Return what is in a file, but of a longer one just a byte more than `most`: it is refused then, unread."""
    with naming(path), open(path, "rb") as file:
        return file.read(most + 1)


def _key(args: argparse.Namespace) -> bytes | None:
    return None if args.sign_key is None else read_sign_key(args.sign_key)
