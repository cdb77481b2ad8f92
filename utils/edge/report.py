"""Readable accounts of update messages, for `python -m utils.edge show` and `replay`."""

from __future__ import annotations

import numpy as np

from utils.edge.node import EdgeNode
from utils.message.container import Header
from utils.message.update import Update
from utils.schema import Schema
from utils.system.terminal import columns

_PARTS = {"header_bytes": "header", "index_bytes": "positions", "value_bytes": "values", "rest_bytes": "rest"}
_KINDS = {
    "sparse": "sparse: the positions of updated weights are coded",
    "random": "random: the positions follow from a seed",
    "dense": "dense: all weights",
    "pruned": "pruned: nonzero weights and their positions, all others become zero",
}
REPLAY_HEADER = ("message", "round", "weights", "bytes", "fingerprint, checked", "")


def describe(header: Header) -> str:
    """Return a message in words: what it does, and its size by part."""
    origin = "the initial weights (re-initialisation)" if header.base.reinitialize else "the state of the last message"
    if header.base.shrink_perturb is not None:
        shrink, perturb = header.base.shrink_perturb
        origin = f"{shrink:g} x {origin} + {perturb:g} x the initial weights"
    stands_by = "the result stands by; the edge serves what it served"
    facts = [
        ("round", header.round),
        ("kind", _KINDS[header.kind]),
        ("values", "32 bits, lossless" if header.value_bits == 32 else f"{header.value_bits} bits"),
        ("builds on", f"{origin}, fingerprint {header.base_fingerprint.hex()}"),
        ("leads to", f"fingerprint {header.result_fingerprint.hex()}"),
        ("afterwards", "the result is served" if header.serve else stands_by),
        ("signed", "yes" if header.signed else "no"),
        ("network", f"schema {header.schema_fingerprint.hex()}"),
    ]
    if header.deploys:
        facts.append(("sparse network", "the weights sent are its only ones from now on"))
    elif header.sparse_network:
        facts.append(("sparse network", "its deployed weights alone"))
    total = header.message_bytes
    parts = [("part", "bytes", "share")]
    parts += [(_PARTS[name], f"{size:,}", f"{size / total:.1%}") for name, size in header.sizes.items()]
    parts.append(("total", f"{total:,}", "100.0%"))
    return "\n\n".join((columns(facts, "<<"), columns(parts, "<>>")))


def describe_layers(schema: Schema, sent: np.ndarray, deployed: np.ndarray | None) -> str:
    """Return a table of the weights that a message carries, `sent` by layer.

    deployed  (I,) bool, the weights of a sparse network, of which shares are then given
    """
    sizes = schema.layer_sizes(deployed)
    shapes = ["x".join(map(str, layer.shape)) for layer in schema.layers]
    lines = [*zip([layer.name for layer in schema.layers], shapes, sizes, sent)]
    lines.append(("all layers", "", sizes.sum(), sent.sum()))
    rows = [("layer", "shape", "weights", "sent", "share")]
    rows += [(name, shape, f"{size:,}", f"{n:,}", f"{n / max(size, 1):.2%}") for name, shape, size, n in lines]
    rows.append(("rest and statistics", "", f"{schema.num_rest + schema.num_buffers:,}", "all", "100.00%"))
    return columns(rows, "<<>>>")


def describe_node(node: EdgeNode) -> str:
    """Return what a node holds, in words."""
    schema, deployed = node.schema, node.deployed
    serves = "the line" if node.serving is node.line else "an older network; the line stands by"
    facts = [
        ("round", "none yet" if node.round < 0 else node.round),
        ("network", f"schema {schema.fingerprint.hex()}, {schema.num_weights:,} weights"),
        ("line", f"fingerprint {node.fingerprint.hex()}"),
        ("serves", serves),
        ("signed", "not needed" if node.key_needed is None else f"needed, by key {node.key_needed}"),
    ]
    if deployed is not None:
        facts.append(("sparse network", f"{np.count_nonzero(deployed):,} weights"))
    return columns(facts, "<<")


def replay_row(name: str, update: Update) -> tuple:
    """Return one line of a replay."""
    header = update.header
    notes = ["shrunk and perturbed"] * (header.base.shrink_perturb is not None)
    notes += ["sparse network deployed"] * header.deploys
    notes += ["re-initialised"] * header.base.reinitialize + ["standby"] * (not header.serve)
    numbers = header.round, f"{update.selected.size:,}", f"{header.message_bytes:,}"
    return (name, *numbers, header.result_fingerprint.hex(), ", ".join(notes) or "served")
