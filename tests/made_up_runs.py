"""Finished runs that nobody made: run folders with a few rounds whose figures are worked out by hand."""

from pathlib import Path

from utils.run.folder import RunFolder
from utils.run.results import summarize

SETTINGS = {
    "dataset": "mnist", "dataset_dir": "somewhere", "dataset_size_init": 1000, "dataset_size_subseq": 1000,
    "max_rounds": None, "val_dataset_size": 3000, "augment": False, "model": "mlp", "hidden_sizes": [512, 512],
    "batch_norm": False, "updating_ratio": 0.005, "lamda": None, "value_bits": 32, "lr": 0.005,
    "train_batch_size": 128, "precision": "fp32", "threads": 1, "output_dir": "elsewhere", "reinitialize": False,
}  # fmt: skip
TWO_STEPS = ("dpu", "gcpu", "lcpu", "pruning", "lamp")


def make_run(
    parent: Path,
    mode: str,
    seed: int,
    accuracies: list[float],
    message_bytes: list[int] | None = None,
    formula_bytes: list[int] | None = None,
    data: str = "d0",
    commits: tuple[str, ...] = (),
    **settings,
) -> Path:
    """Write a finished run; bytes of 0 stand for rounds in which nothing was sent, `commits` for its starts."""
    two_steps, full = mode in TWO_STEPS, mode in ("same_init", "last_round", "diff_init")
    usual = {"mode": mode, "seed": seed, "num_epochs": 30 if two_steps else 60}
    usual |= {"lamda": 0.5, "reinitialize": True} if mode == "dpu" else {}
    usual |= {"updating_ratio": 1.0} if full else {}
    usual |= {"rewind_fixing_ratio": 0.8} if mode == "pruning" else {}
    settings = {**SETTINGS, **usual, **settings}
    message_bytes = message_bytes or [1000] * len(accuracies)
    formula_bytes = formula_bytes or [800 if size else 0 for size in message_bytes]
    rows = []
    for number, (accuracy, message, formula) in enumerate(zip(accuracies, message_bytes, formula_bytes, strict=True)):
        samples = settings["dataset_size_init"] + number * settings["dataset_size_subseq"]
        rows.append({
            "round": number, "num_samples": samples, "reinitialized": 0, "start_val_acc": 0.1,
            "full_val_acc": 0.5 if two_steps else None, "rewound_val_acc": 0.4 if two_steps else None,
            "val_acc": 0.5, "test_acc": 0.3, "served_val_acc": 0.5, "served_test_acc": accuracy,
            "updated_weights": 10 if message else 0, "sent": int(message > 0), "message_bytes": message,
            "index_bytes": 0, "value_bytes": 0, "rest_bytes": 0, "header_bytes": message,
            "formula_bytes": formula, "seconds": 1.0,
        })  # fmt: skip
    path = parent / f"{mode}-{seed}-{len(list(parent.glob('*'))) if parent.exists() else 0}"
    path.mkdir(parents=True)
    folder = RunFolder(path)
    fingerprints = {"dataset": data, "arrival": f"a{seed}", "validation_split": f"v{seed}"}
    folder.write_config({
        "settings": settings, "recipe": {"num_epochs": settings["num_epochs"]}, "num_rounds": len(rows),
        "fingerprints": fingerprints, "layers": [["fc1.weight", "weight", [10, 9]], ["fc1.bias", "rest", [10]]],
        "platform": "a machine", "command": ["multiround.py", "--dataset_dir", "somewhere", "--seed", str(seed)],
        **({"starts": [{"git_commit": commit, "date": "2026-11-25"} for commit in commits]} if commits else {}),
    })  # fmt: skip
    folder.write_rounds(rows)
    counts = {"num_weights": 90, "num_rest": 10, "num_buffers": 0}
    folder.write_summary({**summarize(rows, 90, 100), **counts, "fingerprints": fingerprints})
    return path
