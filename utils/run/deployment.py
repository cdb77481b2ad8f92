"""How a run's network comes to the edge, and what stays of it: partial, full and sparse deployment. Needs no torch.

    partial  round 0 updates the initial network as every other round does (the paper's multi-round experiment)
    full     round 0 trains all weights and sends each (the paper's single-round experiment has one more round)
    sparse   round 0 trains all weights, keeps the largest, sets the others to zero, and trains on; from then on
             the network consists of the weights that were kept, whatever values they take
"""

from typing import Any

WAYS = ("partial", "full")


def choose(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `deploy` (where the script has it) and `deploy_sparsity` that a command's `flags` mean.

    Raises ValueError, in one line, for flags that contradict each other or that the mode ignores.
    """
    sparsity, how = flags["deploy_sparsity"], flags.get("deploy")
    if sparsity and flags["mode"] == "pruning":
        chosen = "--mode pruning, which chooses its own nonzero weights in every round"
        raise ValueError(f"--deploy_sparsity is not for {chosen}: leave it out")
    if sparsity and how == "partial":
        whole = "a sparse network is trained and sent as a whole"
        raise ValueError(f"--deploy is partial, but --deploy_sparsity is {sparsity:g}, and {whole}: leave one out")
    settings = {"deploy_sparsity": sparsity}
    if "deploy" in flags:
        settings["deploy"] = how or ("full" if sparsity else "partial")
    return settings


def num_deployed(num_weights: int, sparsity: float) -> int:
    """Return how many weights a network keeps of which `int(sparsity * I)` are pruned."""
    return num_weights - int(sparsity * num_weights)
