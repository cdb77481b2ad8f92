"""The server's end of the link: every update crosses it as a message, kept as a file."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from utils.edge.node import EdgeNode
from utils.edge.state_file import read_state, write_state
from utils.message.base import Base, pruned
from utils.message.body import Coding, Draft, differing, draft_update
from utils.message.budget import message_size, most_that_fit
from utils.message.container import is_message
from utils.message.update import Update, encode_update
from utils.schema import Schema
from utils.system.errors import UserError
from utils.system.files import write_atomic
from utils.training.device import denormals


@dataclass(frozen=True)
class Candidate:
    """A network that may be sent: what the edge would hold (I+J+B,), and the update that makes it so."""

    network: Tensor
    draft: Draft


class Link:
    """Sends networks, as vectors (I+J+B,), to an edge node that sees nothing but messages.

    folder  of the run: `initial.safetensors` and `updates/` are written there; None: nothing is written
    inputs  what the node must know of images besides, as text
    """

    def __init__(
        self, schema: Schema, initial: Tensor, folder: Path | None, sign_key: bytes | None = None, inputs: str = ""
    ):
        self.sign_key, self.device = sign_key, initial.device
        shipped = to_numpy(initial)
        shipped.setflags(write=False)  # so the node takes it as it is
        run = folder.name if folder and sign_key else ""  # signatures hold for this run alone
        self.node = EdgeNode(schema, shipped, key=sign_key, run=run, inputs=inputs)
        self._initial_file = folder and folder / "initial.safetensors"
        self._updates = folder and folder / "updates"

    def open(self, rounds: list[int], applied: list[str]) -> None:
        """Write the network that the edge is shipped with, and check the messages that a saved run has sent.

        rounds, applied  of the messages sent: their rounds and checksums; files of others were never saved and go
        Raises UserError if a message is missing or another one.
        """
        self._updates.mkdir(exist_ok=True)
        node = self.node
        write_state(self._initial_file, node.schema, node.initial, node.run, node.inputs)
        if len(rounds) != len(applied):
            reason = f"rounds.csv has {len(rounds)} messages, the checkpoint {len(applied)}"
            raise UserError(f"{self._updates.parent}: {reason}: start anew with --overwrite")
        expected = {self._path(number): digest for number, digest in zip(rounds, applied, strict=True)}
        for path, digest in expected.items():
            if not path.is_file() or not is_message(path.read_bytes(), digest):
                raise UserError(f"{path} is missing or damaged: start anew with --overwrite")
        for path in set(self._updates.glob("round_*.dpu")) - set(expected):
            path.unlink()

    def _path(self, number: int) -> Path:
        return self._updates / f"round_{number:03d}.dpu"

    def restore(
        self, line: Tensor, serving: Tensor, last_round: int, applied: list[str], deployed: Tensor | None = None
    ) -> None:
        """Bring the node back to where a saved run had it; `deployed` (I,) bool are the weights of a sparse network."""
        node = self.node
        node.line = to_numpy(line)
        node.serving = node.line if torch.equal(line, serving) else to_numpy(serving)
        node.round, node.applied = last_round, tuple(applied[-1:])
        node.deployed = None if deployed is None else to_numpy(deployed)

    @property
    def deployed(self) -> Tensor | None:
        """The weights of the node's sparse network, (I,) bool; None: all weights."""
        return None if self.node.deployed is None else self.to_tensor(self.node.deployed)

    @property
    def candidates(self) -> Tensor | None:
        """The weights that a round may select, (D,) int64 ascending: those deployed; None: all weights."""
        return None if self.node.deployed is None else self.to_tensor(np.flatnonzero(self.node.deployed))

    def pruned(self, network: Tensor) -> Tensor:
        """Return `network` with +0.0 for the weights that the node's sparse network does not have."""
        return network if self.node.deployed is None else self.to_tensor(pruned(to_numpy(network), self.node.deployed))

    def to_tensor(self, array: np.ndarray) -> Tensor:
        """Return an array's values on the server's device."""
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def deliver(self, number: int, data: bytes) -> Update:
        """Keep a message as a file, and let the edge node apply what the file holds."""
        if self._updates is not None:
            write_atomic(self._path(number), data)
            data = self._path(number).read_bytes()
        return self.node.receive(data)


class Outgoing:
    """The message of round `number`, from the network that it builds on to its delivery.

    .start   that network (I+J+B,), made of what server and node both hold
    .coding  how the message names weights and codes their values
    """

    # Training flushes denormals to zero. The node does not, so nothing that both sides work out may, either.
    @denormals(flushed=False)
    def __init__(self, link: Link, number: int, coding: Coding, base: Base):
        self._link, self._number, self.coding, self._base = link, number, coding, base
        self._shared = link.node.shared
        self.start = link.to_tensor(self._shared.state(base))

    @property
    def lossless(self) -> bool:
        """Whether every network arrives as it is."""
        return self.coding.value_bits == 32

    def is_finite(self, network: Tensor) -> bool:
        """Return whether all of `network` is finite, and stays so where values are rounded: below 2^126 they do."""
        finite = bool(network.isfinite().all())
        if not finite or (self.lossless and self.most_bytes is None):
            return finite
        within = all(float(vector.abs().max()) < 2.0**126 for vector in (network, network - self.start))
        if not within:
            warnings.warn(f"round {self._number}: a value or its change is too large to be rounded", stacklevel=2)
        return within

    @property
    def most_bytes(self) -> int | None:
        """What the message may have at most; None: any number."""
        return self.coding.most_bytes

    def use_bits(self, value_bits: int) -> None:
        """Code values in so many bits from here on."""
        self.coding = replace(self.coding, value_bits=value_bits)

    def best_bits(
        self, network: Tensor, ranking: Tensor, bits: Sequence[int], accuracy: Callable[[Tensor], float]
    ) -> int:
        """Return which of `bits` a value to use: with as many weights as then fit, `accuracy` is best."""
        accuracies = {}
        for value_bits in bits:
            self.use_bits(value_bits)
            kept = ranking[: self.as_many_as_fit(network, ranking)]
            candidate = self.candidate(self.only(network, kept), kept.sort().values, None, kept)
            if candidate is not None:
                accuracies[value_bits] = accuracy(candidate.network)
        return max(accuracies, key=accuracies.get, default=bits[0])

    @denormals(flushed=False)
    def candidate(
        self, network: Tensor, selected: Tensor | None, mask_seed: int | None = None, ranking: Tensor | None = None
    ) -> Candidate | None:
        """Return `network` as the edge would hold it, were it sent now; None if its rest alone is over the budget.

        selected   (S,) int64, the weights that may differ from those of `start`; None: all
        mask_seed  of a random selection
        ranking    (S,) `selected`, the first the most important: if the message is too large, the last ones are not
                   sent; None: the order of `selected`
        """
        draft = self._draft(network, selected, mask_seed)
        most, size = self.most_bytes, None
        if most is not None and (size := message_size(draft, self._link.sign_key)) > most:
            draft = self._shortened(network, selected if ranking is None else ranking, mask_seed, size)
            if draft is None:
                return None
        unchanged = self.lossless and (size is None or size <= most)
        return Candidate(network if unchanged else self._link.to_tensor(draft.result), draft)

    @denormals(flushed=False)
    def as_many_as_fit(self, network: Tensor, ranking: Tensor) -> int:
        """Return how many weights of `network`, in the order of `ranking`, a message within the budget can bring."""

        def size(count: int) -> int:
            return self._of_first(count, network, ranking)[1]

        if size(0) > self.most_bytes:
            return 0
        return most_that_fit(size, self.most_bytes, len(ranking), self.most_bytes // 4)

    def _shortened(self, network: Tensor, ranking: Tensor, mask_seed: int | None, size: int) -> Draft | None:
        """Return the draft of `network` without the last weights of `ranking`, so that it fits; None if none does."""
        (draft, least), count = self._of_first(0, network, ranking, mask_seed), len(ranking)
        if least > self.most_bytes:
            return None
        while size > self.most_bytes:
            # As many as would fit if all cost the same, and always fewer than before.
            count = min(count - 1, int(count * (self.most_bytes - least) / (size - least)))
            draft, size = self._of_first(count, network, ranking, mask_seed)
        return draft

    def _of_first(
        self, count: int, network: Tensor, ranking: Tensor, mask_seed: int | None = None
    ) -> tuple[Draft, int]:
        """Return the draft of `network` with its first `count` weights of `ranking` alone, and the message's bytes."""
        kept = ranking[:count].sort().values
        draft = self._draft(self.only(network, kept), kept, mask_seed)
        return draft, message_size(draft, self._link.sign_key)

    def only(self, network: Tensor, kept: Tensor) -> Tensor:
        """Return `network` with its weights at `kept` alone, the others as they are where none is sent."""
        num_weights, pruned = self._shared.schema.num_weights, self.coding.kind == "pruned"
        network_of_kept = network.clone()
        network_of_kept[:num_weights] = 0 if pruned else self.start[:num_weights]
        network_of_kept[kept] = network[kept]
        return network_of_kept

    def _draft(self, network: Tensor, selected: Tensor | None, mask_seed: int | None) -> Draft:
        indices = None
        if selected is not None and (self.coding.kind == "sparse" or self.coding.deploys):
            indices = to_numpy(selected)
        return draft_update(self._shared, to_numpy(network), self.coding, self._base, indices, mask_seed)

    @denormals(flushed=False)
    def send(self, candidate: Candidate, serve: bool) -> Update:
        """Send a candidate; `serve`: the edge answers queries with it from now on. Returns what the edge node received.

        Asserts that the node then holds the candidate, bit for bit: with lossless values, the trained network.
        """
        data = encode_update(candidate.draft, round=self._number, serve=serve, sign_key=self._link.sign_key)
        if self.most_bytes is not None and len(data) > self.most_bytes:
            raise AssertionError(f"round {self._number}: a message of {len(data)} bytes is over the budget")
        update = self._link.deliver(self._number, data)
        if differing(update.result, to_numpy(candidate.network)).any():
            raise AssertionError(f"round {self._number}: the edge node's network is not the server's")
        return update


def read_initial(file: Path, schema: Schema, device: torch.device) -> Tensor | None:
    """Return the network (I+J+B,) in a run's initial.safetensors; None if there is none of this layout."""
    try:
        layout, state = read_state(file)
    except (OSError, ValueError):
        return None
    return torch.from_numpy(state).to(device) if layout.fingerprint == schema.fingerprint else None


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return the values; on the CPU they are the tensor's own: networks are replaced, never changed."""
    return tensor.detach().cpu().numpy()
