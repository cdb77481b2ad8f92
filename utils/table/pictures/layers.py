"""How many weights of each layer a run sent in each round: from its messages, or from the layers.csv of an export."""

import csv
import io
from dataclasses import dataclass

from utils.system.files import read_regular
from utils.system.terminal import csv_text, printable
from utils.table.records import NotUsable, Record

FILE = "layers.csv"
_HEADER = ("round", "layer", "weights", "updated")
_MOST_BYTES = 64 << 20  # of layers.csv
_MOST_WEIGHTS = 1 << 26  # of a network whose messages are decoded: 0.5 GB of positions


@dataclass(frozen=True)
class LayerCounts:
    """Updated weights by round and layer; rounds in which nothing was sent have zeros."""

    layers: list[str]
    weights: list[int]  # a layer
    updated: list[list[int]]  # a round, a layer


def read_layer_counts(record: Record) -> LayerCounts:
    """Return the counts of a run. Raises NotUsable if neither its layers.csv nor its messages can be read."""
    path = record.folder / FILE
    try:
        return _parse(read_regular(path, _MOST_BYTES).decode(), len(record.rows))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise NotUsable(f"{path} cannot be read ({error}): delete it") from error
    try:
        return _decode(record)
    except FileNotFoundError as error:  # as in copies of before there was one
        raise NotUsable(f"{record.name} has no {FILE}, nor all messages to make it from") from error
    except Exception as error:  # what cannot go wrong, if anybody can have made the messages and what they are for?
        raise NotUsable(f"{record.name} has no {FILE}, and its messages cannot be read ({error})") from error


def as_csv(counts: LayerCounts) -> str:
    """Return the content of layers.csv."""
    rows = [
        (number, *row)
        for number, updated in enumerate(counts.updated)
        for row in zip(counts.layers, counts.weights, updated)
    ]
    return csv_text([_HEADER, *rows])


def _parse(text: str, num_rounds: int) -> LayerCounts:
    rows = list(csv.DictReader(io.StringIO(text)))
    first = [row for row in rows if row["round"] == "0"]
    names = [row["layer"] for row in first]
    if not names or [(row["round"], row["layer"]) for row in rows] != [
        (str(number), name) for number in range(num_rounds) for name in names
    ]:
        raise ValueError(f"it does not hold each layer in each of {num_rounds} rounds")
    weights, updated = ([int(row[name]) for row in rows] for name in ("weights", "updated"))
    if not all(0 <= count <= size < 1 << 53 and size > 0 for count, size in zip(updated, weights)):
        raise ValueError("more weights updated than a layer has")
    by_round = [updated[start : start + len(names)] for start in range(0, len(rows), len(names))]
    return LayerCounts(list(map(printable, names)), weights[: len(names)], by_round)


def _decode(record: Record) -> LayerCounts:
    # With numpy, which tables do without.
    from utils.edge.run_files import deployed_in_run
    from utils.message.container import most_bytes, unpack_message
    from utils.message.update import sent_by_layer
    from utils.schema import Schema

    schema = Schema(record.config["layers"])
    if schema.num_weights > _MOST_WEIGHTS:
        raise ValueError(f"{schema.num_weights:,} weights are more than {_MOST_WEIGHTS:,}")
    names, sizes = zip(*((printable(layer.name), layer.size) for layer in schema.layers))
    most, deployed, updated = most_bytes(schema.size), None, []
    for row in record.rows:
        if not row["sent"]:
            updated.append([0] * len(schema.layers))
            continue
        message = unpack_message(read_regular(record.folder / "updates" / f"round_{row['round']:03d}.dpu", most))
        updated.append(sent_by_layer(message, schema, deployed).tolist())
        if message.header.deploys:
            read_regular(record.folder / "initial.safetensors", most)  # no pipe, and no gigabytes
            deployed = deployed_in_run(record.folder)
    return LayerCounts(list(names), list(sizes), updated)
