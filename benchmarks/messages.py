"""What messages cost, and how long they take.

    python -m benchmarks.messages RUN_FOLDER ... [--first_round 1]

Replays each run from initial.safetensors and updates/, encodes each of its updates anew with every number
of value bits, and prints the mean bytes beside the targets, the usual formula, and plain ways to send the
same update. Updates of a lossless run are best: what a run with fewer bits sent is quantised already. Times
are wall time of this process.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
import zlib
from pathlib import Path

import numpy as np

from benchmarks.peers import byte_planes, deepCABAC, nncodec_bytes, pcodec_bytes, standalone
from utils.edge import EdgeNode
from utils.edge.run_files import message_files
from utils.edge.state_file import read_state
from utils.message import Coding, Shared, Update, decode_update, draft_update, encode_update
from utils.message.values import VALUE_BITS
from utils.run.argument_types import whole
from utils.run.results import binary_entropy, formula_bytes
from utils.schema import Schema
from utils.system.terminal import columns

# By model: positions / entropy; everything / formula at 32, 6 and 4 bits; seconds to encode and to decode.
TARGETS = {
    "mlp": (0.85, {32: 0.85, 6: 0.37, 4: 0.31}, (0.2, 0.1)),
    "resnet56": (0.90, {32: 0.85, 6: 0.28, 4: 0.21}, (0.6, 0.3)),
    "vgg": (0.90, {32: 0.85, 6: 0.30, 4: 0.25}, (3.0, 2.0)),
}


def layer_entropy(schema: Schema, mask: np.ndarray, deployed: np.ndarray) -> float:
    """Bytes of the mask over the deployed weights, by the binary entropy of each layer's density."""
    parts = [mask[layer.part][deployed[layer.part]] for layer in schema.layers]
    return sum(len(part) * binary_entropy(part.mean()) for part in parts if len(part)) / 8


def plain_choices(schema: Schema, mask: np.ndarray, new: np.ndarray) -> dict[str, int]:
    """Bytes of plain ways to send an update, the rest as float32 included; of pcodec, if it is installed."""
    index = np.flatnonzero(mask)
    values = np.concatenate([new[index], new[schema.num_weights :]])
    gaps, varints = np.diff(index, prepend=-1) - 1, bytearray()
    for gap in gaps.tolist():
        while gap >= 128:
            varints.append(gap & 127 | 128)
            gap >>= 7
        varints.append(gap)
    choices = {
        "int32 indices + float32": 4 * len(index) + values.nbytes,
        "bitmap + float32, zlib": len(zlib.compress(np.packbits(mask).tobytes() + values.tobytes(), 9)),
        "varint gaps + float32, lzma": len(lzma.compress(bytes(varints) + values.tobytes(), preset=9)),
        "varint gaps + byte planes, lzma": len(lzma.compress(bytes(varints), preset=9)) + byte_planes(values),
    }
    if standalone:
        choices["pcodec of gaps and values"] = pcodec_bytes(gaps.astype(np.uint32)) + pcodec_bytes(values)
    return choices


def encode_again(update: Update, shared: Shared, bits: int) -> tuple[dict, float, float, float]:
    """The same update with other value bits: its sizes, seconds to encode and to decode, and nncodec's bytes.

    The last are those of the same levels, to be compared with positions and values; NaN where there are none.
    """
    header = update.header
    coding = Coding("sparse" if header.kind == "random" else header.kind, bits, deploys=header.deploys)
    selected = update.selected if header.deploys else None
    start = time.perf_counter()
    draft = draft_update(shared, update.result, coding, header.base, selected)
    data = encode_update(draft, round=header.round)
    middle = time.perf_counter()
    sizes = decode_update(data, shared).header.sizes
    seconds = middle - start, time.perf_counter() - middle
    if bits > 8 or not deepCABAC:
        return sizes, *seconds, float("nan")
    levels = np.zeros(shared.schema.num_weights, dtype=np.int32)
    levels[draft.selected] = draft.weights.numbers
    return sizes, *seconds, nncodec_bytes([levels[layer.part].reshape(layer.shape) for layer in shared.schema.layers])


def measure(run: Path, first_round: int) -> None:
    """Print the figures of one run."""
    schema, initial = read_state(run / "initial.safetensors")
    node, w = EdgeNode(schema, initial), schema.num_weights
    parts = {bits: [] for bits in VALUE_BITS}
    ratios, formulas, plain = [], [], []
    for path in message_files(run):
        shared = node.shared
        update = node.receive(path.read_bytes())
        if update.header.round < first_round:
            continue
        mask = np.zeros(w, dtype=bool)
        mask[update.selected] = True
        there = np.ones(w, dtype=bool) if shared.deployed is None else shared.deployed
        formulas.append(formula_bytes(len(update.selected) / there.sum(), there.sum()))
        plain.append(plain_choices(schema, mask, update.result))
        for bits in VALUE_BITS:
            sizes, *seconds = encode_again(update, shared, bits)
            parts[bits].append([*sizes.values(), *seconds])
            if bits == 32 and 0 < len(update.selected) < there.sum():
                ratios.append(sizes["index_bytes"] / layer_entropy(schema, mask, there))
    if not formulas:
        raise SystemExit(f"{run}: no message of round {first_round} or later")

    config = json.loads((run / "config.json").read_text()) if (run / "config.json").exists() else {}
    model = config.get("settings", {}).get("model") or next((name for name in TARGETS if name in run.name), "")
    target_ratio, targets, target_seconds = TARGETS.get(model, (None, {}, (None, None)))
    formula, others = np.mean(formulas), 4 * (schema.num_rest + schema.num_buffers)
    print(f"{run}: {len(formulas)} messages, {w:,} weights, on average {formula:,.0f} bytes by the formula")
    if ratios:
        spread = f"mean {np.mean(ratios):.3f}, largest {np.max(ratios):.3f}"
        print(f"  positions / per-layer binary entropy: {spread}"
              + (f", target {target_ratio}" if target_ratio else ""))  # fmt: skip
    titles = "value bits,header,positions,values,rest,total,/ formula,target,encode s,decode s,/ nncodec"
    rows = [tuple(titles.split(","))]
    for bits in VALUE_BITS:
        mean = np.mean(parts[bits], axis=0)
        reference = formula + others * (bits == 32)  # lossless: the rest at 32 bits is part of the comparison
        rows.append((
            bits, *(f"{part:,.0f}" for part in mean[:4]), f"{mean[:4].sum():,.0f}",
            f"{mean[:4].sum() / reference:.3f}",
            targets.get(bits, ""), f"{mean[4]:.3f}", f"{mean[5]:.3f}",
            "" if np.isnan(mean[6]) else f"{(mean[1] + mean[2]) / mean[6]:.3f}",
        ))  # fmt: skip
    rows.append(("target", *[""] * 7, *(seconds or "" for seconds in target_seconds), ""))
    for name in plain[0]:
        size = np.mean([choice[name] for choice in plain])
        rows.append((name, *[""] * 4, f"{size:,.0f}", f"{size / (formula + others):.3f}", "", "", "", ""))
    print(columns(rows, "<" + ">" * 10))
    print("  / formula: at 32 bits, and for the plain choices, against formula + 32 bits for the rest")
    print("  / nncodec: positions and values against nncodec on the same levels, where it is installed\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--first_round", type=whole(0), default=1, help="leave earlier rounds out (default: 1)")
    args = parser.parse_args()
    for run in args.runs:
        try:
            measure(run, args.first_round)
        except (OSError, ValueError) as error:
            parser.error(f"{run} is no run folder with its messages ({error})")


if __name__ == "__main__":
    main()
