"""The edge node: it holds a network, and update messages are all that it ever receives.

Its *line* is what new messages build on; *serving* answers queries. They are the same but for a standby phase: after a
re-initialisation the new line may be worse than the network in service, which then stays until a message says "serve".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path

import numpy as np

from utils.edge.state_file import (
    join_state,
    parse_json,
    read_schema,
    read_shipped,
    read_tensors,
    split_state,
    write_tensors,
)
from utils.message.base import Shared, pruned
from utils.message.container import checksum, key_fingerprint, most_bytes, split_messages, unpack_message
from utils.message.streams import NothingNewError, UpdateFormatError
from utils.message.update import Update, decode_message
from utils.schema import Schema
from utils.system.files import remove_leftovers, short_name
from utils.system.locks import locked


class EdgeNode:
    """A device with the initial network, and what messages have made of it.

    schema, initial   the layout, and the float32 state that the device is shipped with
    key               if given, only messages signed with it are accepted; the node's file remembers that one is needed
    run               names the run that these messages must be signed for
    path              if given, the node lives in this file: every accepted message is on disk before it takes effect
    inputs            what inference must know of images, as text; the node only keeps it

    .line, .serving   the states that messages build on, and that answers queries; the same object but in standby
    .key_needed       a fingerprint of the key without which no message is accepted; None: none is needed
    .round            of the last message applied, -1 before the first
    .applied          the checksum of the last message applied, if any; those before it are refused by their rounds
    .deployed         (I,) bool, the weights of a sparse network; None: all
    """

    def __init__(
        self,
        schema: Schema,
        initial: np.ndarray,
        *,
        key: bytes | None = None,
        run: str = "",
        path: str | Path | None = None,
        inputs: str = "",
    ):
        if initial.dtype != np.float32 or initial.shape != (schema.size,):
            raise ValueError(f"the initial state is float32 of shape ({schema.size},)")
        self.schema, self.key, self.run, self.path, self.inputs = schema, key, run, path, inputs
        self.key_needed = None if key is None else key_fingerprint(key)
        self.initial = initial.copy() if initial.flags.writeable else initial
        self.initial.setflags(write=False)  # states are replaced, never changed
        self.line = self.serving = self.initial
        self.round = -1
        self.applied: tuple[str, ...] = ()
        self.deployed: np.ndarray | None = None

    @property
    def shared(self) -> Shared:
        """What the server knows of this node, too, before it sends the next message."""
        return Shared(self.schema, self.initial, self.line, self.deployed, self.run)

    @property
    def fingerprint(self) -> bytes:
        """Of the line: what the next message must build on."""
        return self.schema.state_fingerprint(self.line)

    @property
    def most_bytes(self) -> int:
        """No message for this node has more: see `receive`."""
        return most_bytes(self.schema.size)

    def receive(self, data: bytes) -> Update:
        """Apply a message, or several that lie one behind another as `catch_up` makes them: all of them, or none.

        Of several, the first may be of rounds that the node has. Returns the last one's update. A bad one raises
        UpdateFormatError with the reason, and changes nothing.
        """
        if self.key_needed not in (None, self.key and key_fingerprint(self.key)):
            fault = "without it nothing is accepted" if self.key is None else "the one given is another key"
            raise UpdateFormatError(f"this node was set up with a key, and {fault}")
        if len(data) > self.most_bytes:
            raise UpdateFormatError(f"more than {self.most_bytes:,} bytes, which no message for this network has")
        after, update = copy(self), None  # so that a full disk or a power cut leaves this one as it was
        for message in (messages := split_messages(data)):
            try:
                update = after._apply(message)
            except NothingNewError:
                if update is not None:
                    raise UpdateFormatError("several messages in one, and not in the order of their rounds") from None
                if message is messages[-1]:
                    raise
        if self.path is not None:
            after.save(self.path)
        vars(self).update(vars(after))
        return update

    def _apply(self, data: bytes) -> Update:
        message, digest = unpack_message(data, self.key, self.run), checksum(data).hex()
        header = message.header
        if digest in self.applied:
            raise NothingNewError(f"already applied: this message of round {header.round} was received before")
        if header.round <= self.round and header.schema_fingerprint == self.schema.fingerprint:
            raise NothingNewError(f"out of order: round {header.round} after round {self.round} was applied")
        update = decode_message(message, self.shared)
        update.result.setflags(write=False)
        self.line = update.result
        self.serving = update.result if header.serve else self.serving
        self.round, self.applied, self.deployed = header.round, (digest,), update.deployed
        return update

    def save(self, path: str | Path) -> None:
        """Write the node into a file, atomically. Hold `locked_node(path)` where other processes may use it."""
        states = {"initial": self.initial, "line": self.line}
        if self.serving is not self.line:
            states["serving"] = self.serving
        if self.deployed is not None:  # 1 for the weights that the network has
            states["deployed"] = pruned(np.ones_like(self.line), self.deployed)
        tensors, fingerprints = {}, {}
        for name, state in states.items():
            tensors |= split_state(self.schema, state, name + "/")
            fingerprints[name] = self.schema.state_fingerprint(state).hex()
        node = {"round": self.round, "applied": self.applied}
        node |= {name: value for name, value in (("run", self.run), ("key", self.key_needed)) if value}
        parts = {"schema": self.schema.to_plain(), "node": node, "fingerprints": fingerprints}
        metadata = {name: json.dumps(part) for name, part in parts.items()}
        write_tensors(path, tensors, metadata | ({"inputs": self.inputs} if self.inputs else {}))

    @classmethod
    def shipped(cls, path: str | Path, *, key: bytes | None = None) -> EdgeNode:
        """Return a node as a run ships it, `initial.safetensors`. Raises ValueError if the file is damaged."""
        schema, initial, run, inputs = read_shipped(path)
        return cls(schema, initial, key=key, run=run, inputs=inputs)

    @classmethod
    def load(cls, path: str | Path, *, key: bytes | None = None) -> EdgeNode:
        """Return the node in a file; it goes on living there. Raises ValueError if the file is damaged.

        Hold `locked_node(path)` until the last message is applied where other processes may do the same.
        """
        tensors, metadata = read_tensors(path)
        schema = read_schema(path, metadata)
        try:
            node, fingerprints = parse_json(metadata["node"]), parse_json(metadata["fingerprints"])
            states = {name: join_state(schema, tensors, name + "/") for name in fingerprints}
            if any(schema.state_fingerprint(states[name]).hex() != fingerprints[name] for name in states):
                raise ValueError("the fingerprint of a state differs")
            run, inputs = node.get("run", ""), metadata.get("inputs", "")
            if type(node["round"]) is not int or {type(run), type(node.get("key", ""))} != {str}:
                raise ValueError("its round, run or key is of another type")
            self = cls(schema, states["initial"], key=key, run=run, path=path, inputs=inputs)
            self.key_needed = node.get("key", self.key_needed)
            self.line = states["line"]
            self.serving = states.get("serving", self.line)
            if "deployed" in states:
                self.deployed = states["deployed"][: schema.num_weights] != 0
            self.round, self.applied = node["round"], tuple(node["applied"][-1:])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            way = "" if "node" in metadata else ": `init` makes one of initial.safetensors"
            raise ValueError(f"{path}: not an edge node, or a damaged one ({error}){way}") from None
        return self


@contextmanager
def locked_node(path: str | Path) -> Iterator[None]:
    """Keep other processes from a node's file while the block runs; waits until none has it.

    Without this, of two that load, apply and save at once, the second would undo what the first did.
    """
    target = Path(os.path.realpath(path))
    with locked(target.with_name(f".{short_name(target.name)}.lock"), wait=True):
        remove_leftovers(target)
        yield
