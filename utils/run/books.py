"""The books of a run: what rank 0 reads from the run folder at the start, and writes to it as rounds are done."""

import time
from typing import Any

import torch

from utils.flat import FlatParameters, sha256
from utils.link import Link
from utils.rounds import EdgeCopy, pack
from utils.run.checkpoint import Checkpoints
from utils.run.folder import RunFolder, RunResult
from utils.run.results import describe_round, describe_run, summarize
from utils.system.progress import Bars
from utils.training.round import RoundTraining


class Books:
    """Keeps the run folder up to date; `config` is the content of config.json."""

    def __init__(self, folder: RunFolder, config: dict[str, Any]):
        self.folder, self.config = folder, config
        self._checkpoints = Checkpoints(folder.path)
        self._last_saved = time.monotonic()
        self._result: RunResult | None = None

    def where_to_begin(self, device: torch.device) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, empty if there is none; None: the run is finished."""
        if self.folder.finished:
            self._result = self.folder.read()
            return None
        return self._checkpoints.load(device) or {}

    def begin(self, headline: str, edge: EdgeCopy, interrupted: dict[str, Any] | None, link: Link) -> None:
        """Say what is run, and bring the folder to where the rounds go on."""
        print(headline, flush=True)
        if edge.next_round or interrupted:
            epoch = f", epoch {interrupted['epoch']}" if interrupted else ""
            print(f"resuming at round {edge.next_round}{epoch}", flush=True)
        else:
            self.folder.write_config(self.config)
        link.open([row["round"] for row in edge.rows if row["sent"]], edge.applied)
        self.folder.write_rounds(edge.rows)
        self._last_saved = time.monotonic()

    def epoch_done(self, edge: EdgeCopy, training: RoundTraining) -> None:
        """Save a checkpoint if the last one is old enough."""
        if time.monotonic() - self._last_saved >= self.config["settings"]["checkpoint_interval"]:
            self._save(edge, training)

    def round_done(self, edge: EdgeCopy, bars: Bars) -> None:
        """Save a checkpoint and the round's row, then show it."""
        self._save(edge, None)
        self.folder.write_rounds(edge.rows)
        row = edge.rows[-1]
        bars.round_done(describe_round(row, self.config["num_rounds"]), row["served_test_acc"])

    def _save(self, edge: EdgeCopy, training: RoundTraining | None) -> None:
        self._checkpoints.save(pack(edge, training))
        self._last_saved = time.monotonic()

    def finish(self, edge: EdgeCopy, flat: FlatParameters) -> None:
        """Write the served network, the plot and, last, the summary."""
        flat.load(edge.served)
        self.folder.write_model(flat.model.state_dict())
        self.folder.write_plot(edge.rows, self.config["title"])
        self.folder.write_summary(
            {
                **summarize(edge.rows, flat.num_weights, flat.vector.numel()),
                "num_weights": flat.num_weights,
                "num_rest": flat.num_rest,
                "num_buffers": flat.num_buffers,
                **({} if edge.weights is None else {"num_deployed": int(edge.weights.sum())}),
                "line_sha256": sha256(edge.line),
                "served_sha256": sha256(edge.served),
                "fingerprints": self.config["fingerprints"],
            }
        )
        self._checkpoints.keep_one()
        self._result = self.folder.read()

    def close(self, headline: str, ran: bool) -> RunResult:
        """Print the results, of a run that was finished before too, and return them."""
        if not ran:
            print(f"{headline}\nthis run is finished; --overwrite starts it anew", flush=True)
        print(f"\n{describe_run(self._result)}")
        return self._result


class NoBooks:
    """What the other processes of a run have instead."""

    def begin(self, *_) -> None: ...

    def epoch_done(self, *_) -> None: ...

    def round_done(self, *_) -> None: ...

    def finish(self, *_) -> None: ...

    def close(self, *_) -> None: ...
