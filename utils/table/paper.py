"""The paper's table: its rows as commands of the scripts, its figures, and what is known of their setting."""

from utils.modes import MODES, REFERENCE
from utils.training.recipes import DEFAULTS

# Row -> script, its flags; K stands for the model's updating ratio. Full updating is the last row.
ROWS = {
    mode.row: (mode.script, f"--mode {name} {mode.paper}".strip())
    for name, mode in sorted(MODES.items(), key=lambda item: item[0] == REFERENCE)
    if mode.paper is not None
}
DATASETS = {"mlp": "mnist", "vgg": "cifar10", "resnet56": "cifar100"}

# Average difference to full updating in accuracy over all rounds, percentage points.
PUBLISHED = {
    "mlp": {"DPU": -0.17, "GCPU": -0.72, "RPU": -4.04, "Pruning": -1.45},
    "vgg": {"DPU": 0.33, "GCPU": -1.51, "RPU": -11.35, "Pruning": -4.35},
    "resnet56": {"DPU": -0.42, "GCPU": -3.87, "RPU": -7.78, "Pruning": -2.35},
}
_UNKNOWN = {"vgg": " (1,000 and 1,000 are an example for VGG in its authors' README)", "mlp": ", layers of the MLP"}


def updating_ratio(model: str) -> float:
    """Return the paper's updating ratio k for `model`; pruning keeps the same share."""
    return DEFAULTS[model][3]


def what_is_known(*models: str) -> str:
    """Return which facts of the setting behind the published figures of `models` are known, and which are not."""
    unknown = "".join(more for model, more in _UNKNOWN.items() if model in models)
    return (
        "paper: the difference to FU that it publishes; known of its setting: data, model, k, optimizer, epochs, "
        f"lambda 0.5; not known: sample sizes, rounds, seeds{unknown}"
    )
