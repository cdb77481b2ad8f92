"""What the paper's table holds: its rows as commands of the scripts, its settings and its published figures."""

from utils.training.recipes import DEFAULTS

# Row -> script, its flags; K stands for the model's updating ratio.
ROWS = {
    "DPU": ("multiround_dpu.py", "--mode dpu --updating_ratio K --lamda 0.5"),
    "GCPU": ("multiround_dpu.py", "--mode gcpu --without_reinit --updating_ratio K"),
    "RPU": ("multiround_rpu.py", "--mode rpu --updating_ratio K"),
    "Pruning": ("multiround_fu.py", "--mode pruning --pruning_ratio K"),
    "FU": ("multiround_fu.py", "--mode same_init"),
}
DATASETS = {"mlp": "mnist", "vgg": "cifar10", "resnet56": "cifar100"}
SIZES = (1000, 1000)  # samples in round 0, samples that each further round adds

# Average difference to full updating in accuracy over all rounds, percentage points.
PUBLISHED = {
    "mlp": {"DPU": -0.17, "GCPU": -0.72, "RPU": -4.04, "Pruning": -1.45},
    "vgg": {"DPU": 0.33, "GCPU": -1.51, "RPU": -11.35, "Pruning": -4.35},
    "resnet56": {"DPU": -0.42, "GCPU": -3.87, "RPU": -7.78, "Pruning": -2.35},
}


def updating_ratio(model: str) -> float:
    """Return the paper's updating ratio k for `model`; pruning keeps the same share."""
    return DEFAULTS[model][3]
