"""Finished runs side by side: `python -m utils.table RUN_FOLDER ...`."""

import argparse
import json
import sys
from pathlib import Path

from utils.results import RunFolder, RunResult, aligned


def compare(results: list[RunResult], names: list[str]) -> str:
    """Return the served test accuracy of runs on the same data, a column a run, a row a round."""
    rows = [
        [str(rows[0]["round"]), f"{rows[0]['num_samples']:,}", *(f"{100 * r['served_test_acc']:.2f}" for r in rows)]
        for rows in zip(*(result.rows for result in results), strict=True)
    ]
    averages = [100 * result.summary["average_served_test_acc"] for result in results]
    footer = [["average", "", *(f"{average:.2f}" for average in averages)]]
    if "same_init" in names:
        full = averages[names.index("same_init")]
        footer.append(["to same_init", "", *(f"{average - full:+.2f}" for average in averages)])
    sent = [f"{result.summary['rounds_sent']} of {result.summary['rounds']}" for result in results]
    footer.append(["rounds sent", "", *sent])
    footer.append(["sent kB", "", *(f"{result.summary['message_bytes'] / 1000:,.1f}" for result in results)])
    footer.append(["formula kB", "", *(f"{result.summary['formula_bytes'] / 1000:,.1f}" for result in results)])
    return "served test accuracy, %\n" + aligned(["round", "samples", *names], rows, footer)


def load(paths: list[Path]) -> tuple[list[RunResult], list[str], list[str]]:
    """Return the finished runs among `paths` that share the first one's data, their modes, and what is left out."""
    results, names, left_out = [], [], []
    data = None
    for path in paths:
        folder = RunFolder(path)
        if not folder.finished:
            left_out.append(f"{path}: not a finished run")
            continue
        result = folder.read()
        rounds = (result.summary["fingerprints"], len(result.rows))
        data = data or rounds
        if rounds != data:
            left_out.append(f"{path}: other data or another number of rounds than {results[0].folder}")
            continue
        results.append(result)
        names.append(json.loads(folder.config.read_text())["settings"]["mode"])
    return results, names, left_out


def main(argv: list[str] | None = None) -> None:
    """Print the comparison of the run folders in `argv`."""
    parser = argparse.ArgumentParser(prog="python -m utils.table", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN_FOLDER")
    results, names, left_out = load(parser.parse_args(argv).folders)
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    if not results:
        sys.exit("no finished run to show")
    print(compare(results, names))


if __name__ == "__main__":
    main()
