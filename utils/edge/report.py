"""Readable accounts of update messages, for `python -m utils.edge show` and `replay`."""

from __future__ import annotations

import numpy as np

from utils.message.update import Header, Schema
from utils.system.terminal import columns

_PARTS = {"header_bytes": "header", "index_bytes": "positions", "value_bytes": "values", "rest_bytes": "rest"}
_MODES = {
    "sparse": "sparse: the positions of updated weights are coded",
    "random": "random: the positions follow from a seed",
    "dense": "dense: all weights",
    "pruned": "pruned: nonzero weights and their positions, all others become zero",
}


def describe(
    header: Header, schema: Schema | None, counts: np.ndarray | None, deployed: np.ndarray | None = None
) -> str:
    """A message in words: what it does, its size by part and, given the network, its weights by layer.

    deployed: (I,) bool, the weights of a sparse network, of which shares are then given.
    """
    bits = "32 bits, lossless" if header.value_bits == 32 else f"{header.value_bits} bits"
    base = "the initial weights (re-initialisation)" if header.reinitialize else "the state of the last message"
    if header.shrink_perturb is not None:
        base = f"{header.shrink_perturb[0]:g} x {base} + {header.shrink_perturb[1]:g} x the initial weights"
    facts = [
        ("round", header.round),
        ("mode", _MODES[header.mode]),
        ("values", bits),
        ("builds on", f"{base}, fingerprint {header.base_fingerprint.hex()}"),
        ("leads to", f"fingerprint {header.result_fingerprint.hex()}"),
        (
            "afterwards",
            "the result is served"
            if header.serve
            else "the result stands by; the edge serves what it served",
        ),
        ("signed", "yes" if header.signed else "no"),
        ("network", f"schema {header.schema_fingerprint.hex()}"),
    ]
    if header.sparse_network:
        what = "the weights sent are its only ones from now on" if header.deploys else "its deployed weights alone"
        facts.append(("sparse network", what))
    total = header.message_bytes
    parts = [("part", "bytes", "share")]
    parts += [(_PARTS[name], f"{size:,}", f"{size / total:.1%}") for name, size in header.sizes.items()]
    parts.append(("total", f"{total:,}", "100.0%"))
    text = [columns(facts, "<<"), columns(parts, "<>>")]
    if schema is not None:
        rows = [("layer", "shape", "weights", "sent", "share")]
        sizes = [layer.size if deployed is None else int(deployed[layer.part].sum()) for layer in schema.layers]
        for layer, size, count in zip(schema.layers, sizes, counts, strict=True):
            shape = "x".join(map(str, layer.shape))
            rows.append((layer.name, shape, f"{size:,}", f"{count:,}", f"{count / max(size, 1):.2%}"))
        weights = sum(sizes)
        rows.append(
            ("all layers", "", f"{weights:,}", f"{counts.sum():,}", f"{counts.sum() / max(weights, 1):.2%}")
        )
        rows.append(
            ("rest and statistics", "", f"{schema.num_rest + schema.num_buffers:,}", "all", "100.00%")
        )
        text.append(columns(rows, "<<>>>"))
    return "\n\n".join(text)


def replay_row(name: str, header: Header, selected: int) -> tuple:
    """One line of a replay."""
    notes = ["re-initialised"] * header.reinitialize + ["standby"] * (not header.serve)
    notes = ["sparse network deployed"] * header.deploys + notes
    notes = ["shrunk and perturbed"] * (header.shrink_perturb is not None) + notes
    fingerprint = header.result_fingerprint.hex()
    return (
        name,
        header.round,
        f"{selected:,}",
        f"{header.message_bytes:,}",
        fingerprint,
        ", ".join(notes) or "served",
    )


REPLAY_HEADER = ("message", "round", "weights", "bytes", "fingerprint, checked", "")
