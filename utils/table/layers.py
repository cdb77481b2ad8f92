"""How many weights of each layer a run sent in each round: `layers.csv`, read from a run's messages once."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from utils.system.files import write_atomic
from utils.table.records import NotUsable, Record

COLUMNS = ("round", "layer", "weights", "updated")
FILE = "layers.csv"


@dataclass(frozen=True)
class LayerCounts:
    """Updated weights by round and layer; rounds in which nothing was sent have zeros."""

    layers: list[str]
    weights: list[int]  # a layer
    updated: list[list[int]]  # a round, a layer


def read_layer_counts(record: Record) -> LayerCounts:
    """Return the counts of a run from its layers.csv, else from its messages; the latter are kept as layers.csv.

    Raises NotUsable if the run folder has neither.
    """
    path = record.folder / FILE
    try:
        return _parse(path.read_text(), len(record.rows))
    except FileNotFoundError:
        counts = _decode(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotUsable(f"{path} cannot be read ({error}): delete it") from error
    try:
        write_atomic(path, as_csv(counts))
    except OSError:
        pass  # a folder that may only be read; decoding takes seconds, no more
    return counts


def as_csv(counts: LayerCounts) -> str:
    """Return the content of layers.csv."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, updated in enumerate(counts.updated):
        writer.writerows([number, *row] for row in zip(counts.layers, counts.weights, updated))
    return text.getvalue()


def _parse(text: str, num_rounds: int) -> LayerCounts:
    rows = list(csv.DictReader(io.StringIO(text)))
    first = [row for row in rows if row["round"] == "0"]
    names = [row["layer"] for row in first]
    if not names or [(row["round"], row["layer"]) for row in rows] != [
        (str(number), name) for number in range(num_rounds) for name in names
    ]:
        raise ValueError(f"it does not hold each layer in each of {num_rounds} rounds")
    updated = [int(row["updated"]) for row in rows]
    by_round = [updated[start : start + len(names)] for start in range(0, len(rows), len(names))]
    return LayerCounts(names, [int(row["weights"]) for row in first], by_round)


def _decode(record: Record) -> LayerCounts:
    from utils.edge.node import deployed_in_run  # with numpy, which tables do without
    from utils.message.container import unpack_message
    from utils.message.streams import UpdateFormatError
    from utils.message.update import sent_by_layer
    from utils.schema import Schema

    try:
        schema = Schema(record.config["layers"])
        layers, deployed, updated = schema.layers, deployed_in_run(record.folder), []
        for row in record.rows:
            counts = [0] * len(layers)
            if row["sent"]:
                message = unpack_message(_message(record.folder, row["round"]))
                made = message.header.deploys
                counts = sent_by_layer(message, schema, None if made else deployed).tolist()
            updated.append(counts)
    except (OSError, KeyError, TypeError, ValueError, UpdateFormatError) as error:
        raise NotUsable(f"{record.name} has no {FILE}, and its messages cannot be read ({error})") from error
    return LayerCounts([layer.name for layer in layers], [layer.size for layer in layers], updated)


def _message(folder: Path, number: int) -> bytes:
    return (folder / "updates" / f"round_{number:03d}.dpu").read_bytes()
