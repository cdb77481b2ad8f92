"""The books of a run: what rank 0 reads from the run folder at the start, and writes to it as rounds are done."""

import time
import warnings
from collections.abc import Callable
from functools import partial
from textwrap import fill
from typing import Any

from torch import Tensor

from utils.flat import FlatParameters, sha256
from utils.link import Link, read_initial
from utils.rounds import EdgeCopy
from utils.run.checkpoint import CheckpointError, Checkpoints, fits, pack
from utils.run.folder import ResultsError, RunFolder, RunResult, config_digest, digest_of
from utils.run.results import describe_round, describe_run, made_by_other_code, summarize
from utils.schema import Schema
from utils.system.errors import UsageError
from utils.system.lines import JsonLines
from utils.system.own_code import recorded_sources
from utils.system.processes import StopRequest
from utils.system.progress import Bars
from utils.training.round import RoundTraining


class Books:
    """Keeps the run folder up to date.

    config  the content of config.json for a run that begins now
    start   what is recorded of this start of the run: code, versions, machine
    stop    whether a signal has asked the run to end
    resume_changed  whether an unfinished run that other code began may go on
    """

    def __init__(
        self, folder: RunFolder, config: dict[str, Any], start: dict[str, Any], stop: StopRequest, resume_changed: bool
    ):
        self.folder, self.config = folder, config
        self._start, self._stop = start, stop
        self._interval = config["settings"]["checkpoint_interval"]  # of this start: a resumed run may have another
        self._resume_changed = resume_changed
        self._checkpoints = Checkpoints(folder.path)
        self._last_saved = time.monotonic()
        self._metrics = JsonLines(folder.metrics, partial(warnings.warn, stacklevel=2))
        self._result: RunResult | None = None
        self._initial: str | None = None  # the digest of the network that the edge is shipped with
        self._place: str | None = None  # where the latest checkpoint stands, in words

    def where_to_begin(self, drawn: Tensor) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, or of a run that begins now; None: the run is finished.

        drawn  the initial network as it is drawn here; in the state is the one that the edge was shipped with
        Raises ResultsError for a finished run whose files are not as it left them, CheckpointError for a checkpoint
        that is not this run's.
        """
        if self.folder.finished:
            self._result = self.folder.read()
            self.folder.check_files(self._result.summary)
            try:
                describe_run(self._result)
            except (ArithmeticError, KeyError, TypeError, ValueError) as error:
                problem = f"lacks what is printed of a run ({type(error).__name__}: {error})"
                raise ResultsError(f"{self.folder.summary} {problem}: start anew with --overwrite") from error
            if (config := self.folder.read_config()) is not None:
                self.folder.check_config(config, self._result.summary)
            return None
        state = self._checkpoints.load(drawn.device)
        if state is None:
            self._initial = sha256(drawn)
            return {"initial": drawn}
        whose, digest, code, initial = (state.pop(name, None) for name in ("run", "rows", "code", "initial"))
        same = whose == self.folder.path.name
        suits = same and fits(state, Schema(self.config["layers"]))
        if same:
            self._check_code(code, suits)
        if not suits:
            problem = "lacks what this run needs" if same else f"is of another run ({whose})"
            raise CheckpointError(f"{self._checkpoints.latest} {problem}: start anew with --overwrite")
        # The rows of the rounds that the checkpoint knows; what rounds.csv has beyond them was never saved.
        count = state["edge"]["next_round"]
        rows = self.folder.read_rounds(count) if count else []
        if len(rows) < count or digest != digest_of(rows):
            problem = "does not have the rows that the checkpoint knows"
            raise ResultsError(f"{self.folder.rounds} {problem}: start anew with --overwrite")
        state["edge"]["rows"] = rows
        state["initial"] = self._shipped(drawn, initial)
        self._initial = sha256(state["initial"])
        return state

    def _shipped(self, drawn: Tensor, digest: str | None) -> Tensor:
        """Return the network that the edge was shipped with: other processors and versions of torch may draw another.

        digest  of that network; None: the checkpoint, of earlier code, does not say
        """
        for network in (read_initial(self.folder.initial, Schema(self.config["layers"]), drawn.device), drawn):
            if network is not None and digest in (None, sha256(network)):
                return network
        problem = "is missing or damaged, and another initial network is drawn here"
        raise CheckpointError(f"{self.folder.initial} {problem}: put the file back, or start anew with --overwrite")

    def _check_code(self, fingerprint: str | None, suits: bool) -> None:
        """Raise UsageError if the checkpoint is of other code, unless the command line says to go on.

        suits  whether it holds what this run needs: a network of another size cannot go on
        """
        other = self._other_code([fingerprint] if fingerprint else None)
        if other and not (suits and self._resume_changed):
            way = "go on with --resume_changed" if suits else "put the files back: what it holds is of another size"
            raise UsageError(f"{self.folder.path} was begun by {other}: start anew with --overwrite, or {way}")

    def _other_code(self, fingerprints: list[str] | None) -> str | None:
        """Return in words that other code than this made the run in the folder; None if it did not."""
        return made_by_other_code(
            fingerprints, recorded_sources(self.folder.read_config() or {}), self.config.get("own_sources")
        )

    @property
    def checkpoint(self) -> str | None:
        """Where the latest checkpoint stands, in words; None: there is none."""
        newest = "its first checkpoint" if self._checkpoints.latest.exists() else None  # Ctrl-C as it was written
        return self._place or newest

    def begin(self, headline: str, edge: EdgeCopy, interrupted: dict[str, Any] | None, link: Link) -> None:
        """Say what is run, and bring the folder to where the rounds go on."""
        print(headline, flush=True)
        if edge.next_round or interrupted:
            self._place = _place(edge, interrupted)
            print(f"resuming at {self._place}", flush=True)
        earlier = self.folder.read_config() if edge.next_round or interrupted else None
        earlier = {name: value for name, value in (earlier or {}).items() if name in self._start or name == "starts"}
        starts = [*earlier.get("starts", []), {"round": edge.next_round, **self._start}]
        self.config = {**self.config, **earlier, "starts": starts}  # the facts of the run follow from the command
        self.folder.write_config(self.config)
        link.open([row["round"] for row in edge.rows if row["sent"]], edge.applied)
        self.folder.write_rounds(edge.rows)
        self._metrics.open_after(_until(edge, interrupted))
        self._last_saved = time.monotonic()

    def epoch_done(self, edge: EdgeCopy, training: RoundTraining) -> None:
        """Note the epoch, and save a checkpoint if the last one is old enough, or if the run is asked to stop."""
        facts = {name: _short(value) for name, value in vars(training.last_epoch).items()}
        self._metrics.add({"round": training.number, **facts})
        if self._stop.number is not None or time.monotonic() - self._last_saved >= self._interval:
            self._save(edge, training)
        self._stop.check()

    def round_done(self, edge: EdgeCopy, bars: Bars) -> None:
        """Append the round's row, save a checkpoint, then show the row."""
        row = edge.rows[-1]
        self.folder.append_round(row)
        self._save(edge, None)
        bars.round_done(describe_round(row, self.config["num_rounds"]), row["served_test_acc"])
        self._stop.check()

    def _save(self, edge: EdgeCopy, training: RoundTraining | None) -> None:
        about = {"run": self.folder.path.name, "rows": digest_of(edge.rows), "code": self._start["code"]}
        state = {**about, "initial": self._initial, **pack(edge, training)}
        self._metrics.sync()  # so that no line is missing before the place from which a resumed run goes on
        self._checkpoints.save(state)
        self._place = _place(edge, state["training"])
        self._last_saved = time.monotonic()

    def finish(self, edge: EdgeCopy, flat: FlatParameters) -> None:
        """Write the served network and the summary, after which the run is finished."""
        self._metrics.close()
        flat.load(edge.served)
        everything = {entry.name: flat.vector[entry.part].view(entry.shape) for entry in flat.schema.entries}
        # Without the first, buffers that are not persistent, but that training changes, would be missing.
        self.folder.write_model({**everything, **flat.model.state_dict()})
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
                "config_digest": config_digest(self.config),
                "code": list(dict.fromkeys(start.get("code") for start in self.config["starts"])),
                "git_commits": list(dict.fromkeys(start.get("git_commit") for start in self.config["starts"])),
            }
        )
        self._checkpoints.previous.unlink(missing_ok=True)  # a finished run needs the latest at most
        self._result = self.folder.read()

    def close(self, headline: str, ran: bool) -> RunResult:
        """Print the results, of a run that was finished before too, draw them, and return them."""
        if not ran:
            other = self._other_code(self._result.summary.get("code"))
            by, above = (f", by {other}", ". The lines above tell of today's code.") if other else ("", "")
            finished = f"this run is finished{by}; --overwrite starts it anew{above}"
            print(headline, fill(finished, 80, subsequent_indent="  ", break_on_hyphens=False), sep="\n", flush=True)
        if self.folder.read_config() is None:  # lost; what it says of the settings follows from the command
            try:
                self.folder.write_config(self.config)
            except OSError as error:
                warnings.warn(f"{self.folder.config} cannot be written ({error.strerror})", stacklevel=2)
        if problem := self.folder.draw(self._result.rows, self.config["title"]):
            warnings.warn(problem, stacklevel=2)
        print(f"\n{describe_run(self._result)}")
        return self._result


def _place(edge: EdgeCopy, interrupted: dict[str, Any] | None) -> str:
    """Return in words where a checkpoint stands."""
    within = f", epoch {interrupted['epoch']} of step {interrupted['step']}" if interrupted else ""
    return f"round {edge.next_round}{within}"


def _until(edge: EdgeCopy, interrupted: dict[str, Any] | None) -> Callable[[dict[str, Any]], bool]:
    """Return what tells whether a line of metrics.jsonl follows on the one before, and the checkpoint knows it."""
    names = ("round", "step", "epoch")
    last = (-1, 0, 0)
    end = (edge.next_round, interrupted["step"], interrupted["epoch"]) if interrupted else (edge.next_round, 0, 0)

    def belongs(line: dict[str, Any]) -> bool:
        nonlocal last
        before, last = last, tuple(line[name] for name in names)
        return before < last <= end

    return belongs


def _short(value: Any) -> Any:
    """Return a number with as many digits as anybody draws."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


class NoBooks:
    """What the other processes of a run have instead."""

    checkpoint = None

    def _nothing(self, *_) -> None: ...

    begin = epoch_done = round_done = finish = close = _nothing
