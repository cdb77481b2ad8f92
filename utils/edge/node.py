"""The edge node: it holds a network, and update messages are all that it ever receives.

Its *line* is what new messages build on; *serving* answers queries. They are the same but for a standby
phase: after a re-initialisation the new line may be worse than the network in service, which then stays
until a message says "serve".
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from utils.edge.state_file import join_state, read_schema, read_state, read_tensors, split_state, write_tensors
from utils.message.base import pruned
from utils.message.container import checksum
from utils.message.update import Schema, Update, UpdateFormatError, decode_update, unpack_message


class EdgeNode:
    """A device with the initial network, and what messages have made of it.

    schema, initial: the layout, and the float32 state that the device is shipped with.
    key: if given, only messages signed with it are accepted.
    path: if given, the node lives in this file: every accepted message is on disk before it takes effect.
    """

    def __init__(
        self, schema: Schema, initial: np.ndarray, *, key: bytes | None = None, path: str | Path | None = None
    ):
        if initial.dtype != np.float32 or initial.shape != (schema.size,):
            raise ValueError(f"the initial state is float32 of shape ({schema.size},)")
        self.schema, self.key, self.path = schema, key, path
        self.initial = initial.copy() if initial.flags.writeable else initial
        self.initial.setflags(write=False)  # states are replaced, never changed
        self.line = self.serving = self.initial
        self.round = -1  # of the last message applied
        self.applied: tuple[str, ...] = ()  # checksums of all messages applied
        self.deployed: np.ndarray | None = None  # (I,) bool, the weights of a sparse network; None: all

    @property
    def in_standby(self) -> bool:
        """Whether the line is ahead of what is being served."""
        return self.serving is not self.line

    @property
    def fingerprint(self) -> bytes:
        """Of the line: what the next message must build on."""
        return self.schema.state_fingerprint(self.line)

    def receive(self, data: bytes) -> Update:
        """Apply one message. A bad one raises UpdateFormatError with the reason, and changes nothing."""
        header, _ = unpack_message(data, self.key)
        if checksum(data).hex() in self.applied:
            raise UpdateFormatError(
                f"already applied: this message of round {header.round} was received before"
            )
        if header.round <= self.round and header.schema_fingerprint == self.schema.fingerprint:
            raise UpdateFormatError(
                f"out of order: round {header.round} after round {self.round} was applied"
            )
        node = {"base": self.line, "initial": self.initial, "key": self.key, "deployed": self.deployed}
        update = decode_update(data, self.schema, **node)
        update.result.setflags(write=False)
        serving = update.result if header.serve else self.serving
        after = (update.result, serving, header.round, self.applied + (update.checksum.hex(),), update.deployed)
        if self.path is not None:
            self._write(self.path, *after)
        self.line, self.serving, self.round, self.applied, self.deployed = after
        return update

    def save(self, path: str | Path) -> None:
        """Write the node into a file, atomically."""
        self._write(path, self.line, self.serving, self.round, self.applied, self.deployed)

    def _write(self, path, line, serving, round_, applied, deployed) -> None:
        states = {"initial": self.initial, "line": line}
        if serving is not line:
            states["serving"] = serving
        if deployed is not None:  # 1 for what is there
            states["deployed"] = pruned(np.ones_like(line), deployed)
        tensors = {}
        for name, state in states.items():
            tensors |= split_state(self.schema, state, name + "/")
        metadata = {
            "schema": json.dumps(self.schema.to_plain()),
            "node": json.dumps({"round": round_, "applied": applied}),
            "fingerprints": json.dumps(
                {n: self.schema.state_fingerprint(s).hex() for n, s in states.items()}
            ),
        }
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path, *, key: bytes | None = None) -> EdgeNode:
        """The node in a file; it goes on living there. Raises ValueError if the file is damaged."""
        tensors, metadata = read_tensors(path)
        schema = read_schema(path, metadata)
        try:
            node, fingerprints = json.loads(metadata["node"]), json.loads(metadata["fingerprints"])
            states = {name: join_state(schema, tensors, name + "/") for name in fingerprints}
            if any(schema.state_fingerprint(states[name]).hex() != fingerprints[name] for name in states):
                raise ValueError("the fingerprint of a state differs")
            self = cls(schema, states["initial"], key=key, path=path)
            self.line = states["line"]
            self.serving = states.get("serving", self.line)
            if "deployed" in states:
                self.deployed = states["deployed"][: schema.num_weights] != 0
            self.round, self.applied = int(node["round"]), tuple(node["applied"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not an edge node, or a damaged one ({error})") from None
        return self


def deployed_in_run(folder: Path) -> np.ndarray | None:
    """The weights of a run's sparse network, (I,) bool, by the message that deployed it; None: all weights."""
    for path in sorted((folder / "updates").glob("round_*.dpu"))[:1]:
        data = path.read_bytes()
        if unpack_message(data)[0].deploys:
            schema, initial = read_state(folder / "initial.safetensors")
            return decode_update(data, schema, base=initial, initial=initial).deployed
    return None
