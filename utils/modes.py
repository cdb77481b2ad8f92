"""Every updating method by the name that `--mode` takes. Needs no torch.

An entry says all that tells one method from another; scripts, command line, training and tables read it here. A new
selection criterion is one entry here, and a function with its entry in `utils.contribution.CRITERIA`
(docs/algorithm.md shows both).
"""

from dataclasses import dataclass

DPU, RPU, FU = "multiround_dpu.py", "multiround_rpu.py", "multiround_fu.py"
REFERENCE = "same_init"  # the mode that all others are compared with


@dataclass(frozen=True)
class Mode:
    """What a method does in each round.

    script  the script that runs it
    start   where a round starts: "line", the network that the edge was sent last; "initial", the initial weights;
            "fresh", new random ones
    kind    how its messages name the weights: "sparse", the positions of the selected ones; "random", the seed of a
            random mask; "dense", all weights; "pruned", the nonzero ones
    score   the name in `utils.contribution.CRITERIA` by which a training step ranks the weights; None: a round has
            one step only
    row     what tables call it; None: its name
    paper   with these flags, K its updating ratio, it is a row of the paper's table; None: it is none
    """

    script: str
    start: str
    kind: str
    score: str | None = None
    row: str | None = None
    paper: str | None = None

    @property
    def two_steps(self) -> bool:
        """Whether a round trains, selects weights, and trains again."""
        return self.score is not None

    @property
    def prunes(self) -> bool:
        """Whether it keeps the selected weights and sets the others to zero."""
        return self.kind == "pruned"

    @property
    def restarts(self) -> bool:
        """Whether its messages do not build on the last one."""
        return self.start != "line"

    @property
    def reinitializes(self) -> bool:
        """Whether it starts again when the data has doubled, unless a flag says otherwise."""
        return self.script == DPU


MODES = {
    "dpu": Mode(DPU, "line", "sparse", score="combined", row="DPU", paper="--updating_ratio K --lamda 0.5"),
    "gcpu": Mode(DPU, "line", "sparse", score="global", row="GCPU", paper="--without_reinit --updating_ratio K"),
    "lcpu": Mode(DPU, "line", "sparse", score="local", row="LCPU"),
    "magnitude": Mode(DPU, "line", "sparse", score="magnitude"),
    "fisher": Mode(DPU, "line", "sparse", score="fisher"),
    "movement": Mode(DPU, "line", "sparse", score="movement"),
    "snip": Mode(DPU, "line", "sparse", score="snip"),
    "criterion": Mode(DPU, "line", "sparse", score="own"),  # of a user's file, see utils/criterion.py
    "rpu": Mode(RPU, "line", "random", row="RPU", paper="--updating_ratio K"),
    "same_init": Mode(FU, "initial", "dense", row="FU", paper=""),
    "last_round": Mode(FU, "line", "dense", row="FU last_round"),
    "diff_init": Mode(FU, "fresh", "dense", row="FU diff_init"),
    "pruning": Mode(
        FU, "initial", "pruned", score="magnitude", row="Pruning", paper="--pruning_ratio K --rewind_fixing_ratio 0.8"
    ),
    "lamp": Mode(FU, "initial", "pruned", score="lamp", row="Pruning, LAMP"),
}


PRUNING = " and ".join(name for name, mode in MODES.items() if mode.prunes)  # as help and errors name these modes


def modes_of(script: str) -> list[str]:
    """Return the modes that `script` runs, its default first."""
    return [name for name, mode in MODES.items() if mode.script == script]
