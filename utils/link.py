"""The link between server and edge node: every update crosses it as a message, kept as a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.edge.node import EdgeNode
from utils.edge.state_file import write_state
from utils.message.base import pruned
from utils.message.container import checksum
from utils.message.update import edge_state, encode_update
from utils.reinit import shrink_and_perturb
from utils.schema import Schema
from utils.system.errors import UserError
from utils.system.files import write_atomic
from utils.training.device import denormals


@dataclass(frozen=True)
class Coding:
    """How a round's weights are named in its message, and how their values are coded.

    mode        "sparse" (positions of `selected`), "random" (a mask drawn from `mask_seed`), "dense" or "pruned"
    value_bits  32 is lossless
    deploys     "pruned" only: from now on, the weights `selected` are the only ones of the network
    """

    mode: str
    value_bits: int = 32
    updating_ratio: float | None = None
    selected: Tensor | None = None
    mask_seed: int | None = None
    deploys: bool = False

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `encode_update` and `edge_state`."""
        sparse = (self.mode == "sparse" or self.deploys) and self.selected is not None
        return {**vars(self), "selected": self.selected.cpu().numpy() if sparse else None}


@dataclass(frozen=True)
class Base:
    """The network that an update builds on, and how the node finds it: its line as it is, unless one of these is set.

    reinitialize    the initial network
    shrink_perturb  the line times the first factor plus the initial network times the second
    """

    state: Tensor
    reinitialize: bool = False
    shrink_perturb: tuple[float, float] | None = None


@dataclass(frozen=True)
class Delivery:
    """A message that the edge node has applied: weights in it, bytes by part, and the node's line afterwards."""

    num_weights: int
    sizes: dict[str, int]
    line: Tensor


class Link:
    """Sends networks, as vectors (I+J+B,), to an edge node that sees nothing but messages.

    folder  of the run: `initial.safetensors` and `updates/` are written there; None: nothing is written
    """

    def __init__(self, schema: Schema, initial: Tensor, folder: Path | None, sign_key: bytes | None = None):
        self.schema, self.sign_key = schema, sign_key
        self.device = initial.device
        shipped = _to_numpy(initial)
        shipped.setflags(write=False)  # so the node takes it as it is
        self.node = EdgeNode(schema, shipped, key=sign_key)
        self._initial_file = folder and folder / "initial.safetensors"
        self._updates = folder and folder / "updates"

    def open(self, rounds: list[int], applied: list[str]) -> None:
        """Write the network that the edge is shipped with, and check the messages that a saved run has sent.

        rounds, applied  of the messages sent: their rounds and checksums; files of others were never saved and go
        Raises UserError if a message is missing or another one.
        """
        self._updates.mkdir(exist_ok=True)
        write_state(self._initial_file, self.schema, self.node.initial)
        expected = {self._path(number): digest for number, digest in zip(rounds, applied, strict=True)}
        for path, digest in expected.items():
            if not path.is_file() or checksum(path.read_bytes()).hex() != digest:
                raise UserError(f"{path} is missing or damaged: start anew with --overwrite")
        for path in set(self._updates.glob("round_*.dpu")) - set(expected):
            path.unlink()

    def _path(self, number: int) -> Path:
        return self._updates / f"round_{number:03d}.dpu"

    def restore(
        self, line: Tensor, serving: Tensor, last_round: int, applied: list[str], deployed: Tensor | None = None
    ) -> None:
        """Bring the node back to where a saved run had it; `deployed` (D,) are the weights of a sparse network."""
        node = self.node
        node.line = _to_numpy(line)
        node.serving = node.line if torch.equal(line, serving) else _to_numpy(serving)
        node.round, node.applied = last_round, tuple(applied)
        if deployed is not None:
            node.deployed = np.zeros(self.schema.num_weights, dtype=bool)
            node.deployed[deployed.cpu().numpy()] = True

    @property
    def deployed(self) -> Tensor | None:
        """The weights of the node's sparse network, (D,) int64 ascending; None: all weights."""
        mask = self.node.deployed
        return None if mask is None else torch.from_numpy(np.flatnonzero(mask)).to(self.device)

    def pruned(self, network: Tensor) -> Tensor:
        """Return `network` with +0.0 for the weights that the node's sparse network does not have."""
        if self.node.deployed is None:
            return network
        return torch.from_numpy(pruned(_to_numpy(network), self.node.deployed)).to(self.device)

    def as_received(self, base: Tensor, network: Tensor, coding: Coding) -> Tensor:
        """Return what the edge would hold if `network` were sent to it on top of `base`."""
        if coding.value_bits == 32:
            return network
        with denormals(flushed=False):
            what = {**coding.arguments(), "deployed": self.node.deployed}
            state = edge_state(_to_numpy(base), _to_numpy(network), self.schema, **what)
        return torch.from_numpy(state).to(self.device)

    @denormals(flushed=False)
    def shrunk_and_perturbed(self, line: Tensor, factors: tuple[float, float]) -> Base:
        """Return the base that the node will make of its `line` when a message tells it these factors."""
        initial = pruned(self.node.initial, self.node.deployed)
        state = shrink_and_perturb(_to_numpy(line), initial, factors, self.schema.num_buffers)
        return Base(torch.from_numpy(state).to(self.device), shrink_perturb=factors)

    @denormals(flushed=False)
    def send(self, number: int, base: Base, network: Tensor, coding: Coding, serve: bool) -> Delivery:
        """Encode the update of round `number` on top of `base`, keep it as a file, and let the edge node apply it.

        serve       whether the node answers queries with it from now on
        Asserts that the node holds what the server expects: with lossless values `network`, bit for bit.
        """
        wished = _to_numpy(network)
        data = encode_update(
            _to_numpy(base.state),
            wished,
            self.schema,
            round=number,
            initial=self.node.initial,
            reinitialize=base.reinitialize,
            shrink_perturb=base.shrink_perturb,
            deployed=self.node.deployed,
            serve=serve,
            sign_key=self.sign_key,
            **coding.arguments(),
        )
        if self._updates is not None:
            write_atomic(self._path(number), data)
            data = self._path(number).read_bytes()
        update = self.node.receive(data)
        if coding.value_bits == 32 and self.node.line.tobytes() != wished.tobytes():
            raise AssertionError(f"round {number}: the edge node's network is not the server's")
        line = torch.from_numpy(self.node.line.copy()).to(self.device)
        return Delivery(update.selected.size, {"message_bytes": len(data), **update.sizes}, line)


def _to_numpy(vector: Tensor) -> np.ndarray:
    """Return the values; on the CPU they are the tensor's own: networks are replaced, never changed."""
    return vector.detach().cpu().numpy()
