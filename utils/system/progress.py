"""Progress bars on stderr, and lines on stdout that do not break them."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_STEP_NAMES = {1: "full updating", 2: "fine-tuning"}


class Bars:
    """A bar over the rounds and one over the epochs of the current step, if `shown`. Both fit 80 columns."""

    def __init__(self, num_rounds: int, first_round: int, shown: bool):
        self._hidden = not shown
        self._num_rounds = num_rounds
        self._refreshed = 0.0
        self._name = "rounds"
        self._rounds = tqdm(
            total=num_rounds,
            initial=first_round,
            desc=self._name,
            disable=self._hidden,
            dynamic_ncols=True,
            bar_format="{desc:<32}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]{postfix}",
        )

    def step(
        self, number: int, step: int, num_epochs: int, first_epoch: int, num_batches: int, num_samples: int
    ) -> "StepBar":
        """Return the bar of one step of round `number`; use it in a `with`."""
        self._name = f"round {number} of {self._num_rounds}"
        self._say(self._name)
        name = _STEP_NAMES.get(step, f"step {step}")  # iterative rewinding fine-tunes several times
        return StepBar(name, num_epochs, first_epoch, num_batches, num_samples, self._hidden)

    @contextmanager
    def busy(self, activity: str) -> Iterator[Callable[[], None]]:
        """Show an activity other than training; gives a function to call after each of its batches."""
        batches = 0

        def tick() -> None:
            nonlocal batches
            batches += 1
            self._say(f"{self._name}, {activity}, batch {batches}", patience=0.2)

        yield tick
        self._say(self._name)

    def _say(self, text: str, patience: float = 0.0) -> None:
        if not self._hidden and time.monotonic() - self._refreshed >= patience:
            self._rounds.set_description_str(text)
            self._refreshed = time.monotonic()

    def round_done(self, line: str, test_acc: float) -> None:
        """Print the round's line on stdout and advance."""
        with tqdm.external_write_mode(file=sys.stdout):
            print(line, flush=True)
        self._rounds.set_postfix_str(f"test {100 * test_acc:.2f} %", refresh=False)
        self._rounds.update()

    def close(self) -> None:
        """Remove the bars."""
        self._rounds.leave = False
        self._rounds.close()


def watched_check(done: Iterable[int], total: int, shown: bool) -> Iterator[int]:
    """Pass on `done`, numbers of image files that have been checked, of `total`; say so, and show a bar."""
    print(f"checking {total:,} image files, which is done once", flush=True)
    with tqdm(total=total, unit="files", disable=not shown, leave=False, dynamic_ncols=True) as bar:
        for number in done:
            bar.update(number)
            yield number


class StepBar(tqdm):
    """The bar of one step: it advances by batch and shows epoch, images a second, loss and accuracy."""

    advance = tqdm.update

    def __init__(self, name: str, num_epochs: int, first_epoch: int, num_batches: int, num_samples: int, hidden: bool):
        self._name, self._num_epochs, self._images = name, num_epochs, num_samples / num_batches  # a batch
        super().__init__(
            desc=self._text(first_epoch),
            total=num_epochs * num_batches,
            initial=first_epoch * num_batches,
            leave=False,
            disable=hidden,
            dynamic_ncols=True,
            bar_format="{desc:<20}{percentage:3.0f}%|{bar}| {remaining}, {speed}{postfix}",
        )

    @property
    def format_dict(self) -> dict:
        facts = super().format_dict
        done = facts["n"] - facts["initial"]
        rate = facts["rate"] or (done / facts["elapsed"] if facts["elapsed"] else 0)
        return {**facts, "speed": f"{rate * self._images:,.0f} images/s"}

    def show(self, epochs_done: int, loss: float, val_acc: float | None) -> None:
        """Show the mean loss of the last epoch and, where it was measured, its validation accuracy."""
        accuracy = "" if val_acc is None else f", val {100 * val_acc:.2f} %"
        self.set_postfix_str(f"loss {loss:.4f}{accuracy}", refresh=False)
        self.set_description_str(self._text(epochs_done), refresh=False)

    def _text(self, epochs_done: int) -> str:
        return f"{self._name} {min(epochs_done + 1, self._num_epochs)}/{self._num_epochs}"
