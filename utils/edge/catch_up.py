"""What a node that missed messages is sent in their place: as few bytes as lead it to the same state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy

import numpy as np

from utils.edge.node import EdgeNode
from utils.message.base import Base
from utils.message.body import Coding, differing, draft_update
from utils.message.container import unpack_message
from utils.message.streams import TooCheapError, UpdateFormatError
from utils.message.update import encode_update


def catch_up(node: EdgeNode, missed: Sequence[bytes]) -> bytes:
    """Return messages, one behind another, that bring a copy of `node` to exactly where all of `missed` would.

    A node has at most two networks to catch up with: first the one that it serves in the end, then, where that is on
    standby, the line. To each leads whichever is smallest of: the messages missed, those of them that it takes
    from the last one on that builds on the initial network, and one made here, which holds every weight that differs
    from the node's line or from the initial network, lossless. All are signed with the node's key, if it has one.

    missed  one or more, by round; raises UpdateFormatError if the node cannot apply them
    """
    headers = [unpack_message(data).header for data in missed]
    last = len(missed) - 1
    served = max((i for i, header in enumerate(headers) if header.serve), default=last)
    state, routes, begin = node, [[]], 0
    for end in sorted({served, last}):
        goal = _after(state, missed[begin : end + 1])
        ways = [*_without_detours(state, missed[begin : end + 1]), *_made_anew(state, goal, headers[end].kind)]
        routes = [route + way for route in routes for way in ways]
        state, begin = goal, end + 1
    for data in sorted(map(b"".join, routes), key=len):
        with suppress(UpdateFormatError):  # not all lead there, nor does a node take any number of messages in a file
            if same_state(_after(node, [data]), state):
                return data
    raise UpdateFormatError("no file leads where the messages missed lead; apply them one by one")


def same_state(a: EdgeNode, b: EdgeNode) -> bool:
    """Return whether two nodes hold the same networks, bit for bit, and are at the same round."""
    if a.round != b.round or not np.array_equal(a.deployed, b.deployed):  # None equals None, and no mask
        return False
    return not (differing(a.line, b.line).any() or differing(a.serving, b.serving).any())


def _without_detours(node: EdgeNode, missed: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the messages missed: all, and those from the last one on that builds on the initial network."""
    yield list(missed)
    headers = [unpack_message(data).header for data in missed]
    begin = max((i for i, header in enumerate(headers) if header.base.reinitialize), default=0)
    deploying = [data for data, header in zip(missed[:begin], headers) if header.deploys]
    yield [*deploying, *missed[begin:]]


def _made_anew(node: EdgeNode, goal: EdgeNode, last_kind: str) -> Iterator[list[bytes]]:
    """Yield one message each way that a single lossless one can lead from `node` to the line of `goal`."""
    deploys = goal.deployed is not None and node.deployed is None
    selected = goal.schema.weight_indices(goal.deployed) if deploys else None
    kinds = {"pruned"} if deploys else {"sparse", "pruned"} if last_kind == "pruned" else {"sparse"}
    serve = goal.serving is goal.line
    for coding in (Coding(kind, deploys=deploys) for kind in sorted(kinds)):
        for base in (Base(), Base(reinitialize=True)):
            draft = draft_update(node.shared, goal.line, coding, base, selected)
            try:
                yield [encode_update(draft, round=goal.round, serve=serve, sign_key=node.key)]
            except TooCheapError:
                continue


def _after(node: EdgeNode, messages: Sequence[bytes]) -> EdgeNode:
    """Return what becomes of a copy of `node`, which is in no file."""
    node = copy(node)
    node.path = None
    for data in messages:
        node.receive(data)
    return node
