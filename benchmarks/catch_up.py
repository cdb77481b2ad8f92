"""What a node that missed messages costs: `python -m benchmarks.catch_up RUN_FOLDER ... [--missed 2 5 10 20]`.

For each number of messages missed, up to 8 places in the run, evenly spaced: bytes of the catch-up message divided by
those of the messages missed, mean, smallest and largest. Bytes do not depend on the machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from utils.edge import EdgeNode
from utils.edge.catch_up import catch_up
from utils.edge.run_files import message_files
from utils.edge.state_file import read_state
from utils.run.argument_types import whole
from utils.system.terminal import columns

MOST_PLACES = 8


def ratios(run: Path, num_missed: int) -> list[float]:
    """Return bytes of the catch-up / bytes missed, for up to `MOST_PLACES` nodes that missed `num_missed` messages."""
    messages = [path.read_bytes() for path in message_files(run)]
    num_places = max(0, len(messages) - num_missed + 1)
    firsts = set(np.linspace(0, num_places - 1, min(num_places, MOST_PLACES)).round().astype(int).tolist())
    node, found = EdgeNode(*read_state(run / "initial.safetensors")), []
    for first in range(num_places):
        if first in firsts:
            missed = messages[first : first + num_missed]
            found.append(len(catch_up(node, missed)) / sum(map(len, missed)))
        node.receive(messages[first])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--missed", nargs="+", type=whole(1), default=[2, 5, 10, 20], metavar="N")
    args = parser.parse_args()
    for run in args.runs:
        rows = [("missed", "places", "mean", "smallest", "largest")]
        try:
            by_number = {num_missed: ratios(run, num_missed) for num_missed in args.missed}
        except (OSError, ValueError) as error:
            parser.error(f"{run} is no run folder with its messages ({error})")
        for num_missed, found in by_number.items():
            if found:
                figures = np.mean(found), min(found), max(found)
                rows.append((num_missed, len(found), *(f"{figure:.2f}" for figure in figures)))
        print(f"{run}\n{columns(rows, '>' * 5)}\n")


if __name__ == "__main__":
    main()
