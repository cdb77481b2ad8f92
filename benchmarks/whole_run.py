"""How long a whole run would take, from a few rounds of it: by default the paper's first command.

    python -m benchmarks.whole_run [--measured_rounds 4] [--rounds 50] [flags of multiround_dpu.py]

A round's time is taken as a + b * samples, fitted to the measured rounds but the first, which warms up.
"""

import argparse
import sys
import tempfile
from statistics import fmean, linear_regression

import multiround_dpu
from benchmarks.targets import WHOLE_RUN_MINUTES
from utils.run.argument_types import whole

PAPERS_FIRST = (
    "--mode dpu --updating_ratio 0.01 --lamda 0.5 --model vgg --dataset cifar10 "
    "--dataset_size_init 1000 --dataset_size_subseq 1000"
).split()


def fit(samples: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return a and b, not below 0, of `seconds = a + b * samples` by least squares."""
    b = max(linear_regression(samples, seconds).slope, 0.0) if len(samples) > 1 else 0.0
    return fmean(seconds) - b * fmean(samples), b


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.whole_run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--measured_rounds", type=whole(3), default=4, help="rounds that are run (default: 4)")
    parser.add_argument("--rounds", type=whole(1), default=50, help="rounds of the whole run (default: 50)")
    parser.add_argument("--dataset_dir", default="data/downloads")
    args, flags = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as out:
        run = [*PAPERS_FIRST, *flags, "--dataset_dir", args.dataset_dir, "--max_rounds", str(args.measured_rounds)]
        rows = multiround_dpu.main([*run, "--quiet", "--output_dir", out]).rows
    samples, seconds = [row["num_samples"] for row in rows], [row["seconds"] for row in rows]
    a, b = fit(samples[1:], seconds[1:])
    added = samples[1] - samples[0]
    later = [samples[0] + added * number for number in range(len(samples), args.rounds)]
    total = sum(seconds) + sum(a + b * n for n in later)
    print(f"\n{len(rows)} rounds took {sum(seconds):.0f} s: {a:.2f} s a round and {1000 * b:.3f} ms a sample")
    print(f"{args.rounds} rounds would take {total / 60:.1f} minutes, extrapolated by samples", end="")
    print(f"; target on one H200: at most {WHOLE_RUN_MINUTES}" if not flags else "")


if __name__ == "__main__":
    main(sys.argv[1:])
