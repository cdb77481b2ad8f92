"""What is sent, served and re-initialised, on scripted rounds with numbers worked out by hand."""

from types import SimpleNamespace

import pytest
import torch

from data.arrival import Arrival
from utils.edge import EdgeNode
from utils.edge.state_file import read_state
from utils.flat import sha256
from utils.link import Link
from utils.message import unpack_message
from utils.message.body import Coding
from utils.message.masks import random_mask
from utils.modes import MODES
from utils.reinit import Reinit
from utils.rounds import EdgeCopy, Plan, Way, run_rounds
from utils.run.checkpoint import pack, unpack
from utils.run.results import COLUMNS, round_row
from utils.schema import Schema
from utils.system.progress import Bars
from utils.training.recipes import recipe_for

INITIAL = torch.zeros(8)
SCHEMA = Schema([("fc.weight", "weight", (2, 3)), ("fc.bias", "rest", (2,))])
# Which weights a mode's candidate changes; the first one is the fake network's accuracy.
CHANGES = {mode: slice(0, 2) for mode in ("dpu", "pruning")}
CHANGES |= {mode: slice(0, 6) for mode in ("same_init", "last_round", "diff_init")}
CHANGES["rpu"] = random_mask([6], 1 / 3, 1)


class FakeTrainer:
    """A network of 6 weights and 2 others whose test accuracy is its first number, in percent."""

    def __init__(self):
        self.vector = torch.zeros(8)
        self.flat = SimpleNamespace(vector=self.vector, num_weights=6, load=self.vector.copy_)
        self.test = None

    def accuracies(self, batches, on_batch):
        return round(self.vector[0].item()) / 100, None


DOUBLING, NEVER = Reinit("doubling"), Reinit("never")


def run(mode, script, reinit=NEVER, sizes=(1000, 1000), monkeypatch=None, tmp_path=None):
    """Run rounds whose training finds what `script` says: (validation accuracy, improved).

    The candidate of round r holds `10 * (r + 1)` where it differs from its start; returns rows, starts and the
    deployment. Messages and edge node are real.
    """
    starts = []

    class FakeTraining:
        def __init__(self, trainer, recipe, point, bars, on_epoch, outgoing, saved):
            start = point.network
            starts.append(int(start[0]))
            self.mask_seed, self.ranking, self.candidates, self.outgoing = 1, None, point.candidates, outgoing
            self.number, self.samples, self.start = point.number, point.samples, start
            self.flat, self.selected = trainer.flat, torch.arange(2)
            self.start_val_acc, self.full_val_acc, self.rewound_val_acc, self.seconds = 0.1, None, None, 1.0
            self.best, self.best_val_acc, self.improved = start, 0.1, False

    def update(training):
        val_acc, improved = script[training.number]
        if improved:
            training.best = torch.cat([training.start[:6], torch.zeros(2)])
            training.best[CHANGES[mode]] = 10.0 * (training.number + 1)
        training.best_val_acc, training.improved = val_acc, improved

    monkeypatch.setattr("utils.rounds.RoundTraining", FakeTraining)
    trainer = FakeTrainer()
    plan = Plan(
        mode=MODES[mode],
        way=Way(update, recipe_for("mlp", True), Coding(MODES[mode].kind, updating_ratio=1 / 3)),
        arrival=Arrival(10_000, *sizes, seed=0),
        num_rounds=len(script),
        reinit=reinit,
        initial=INITIAL,
        fresh=lambda number: torch.full((8,), -1.0 - number),
    )
    bars = Bars(len(script), 0, shown=False)
    edge = EdgeCopy(INITIAL, INITIAL)
    link = Link(SCHEMA, INITIAL, tmp_path)
    link.open([], [])
    for done in run_rounds(plan, trainer, link, edge, bars):
        edge.rows.append(round_row(done, edge))
    check_messages(edge, tmp_path)
    return edge.rows, starts, edge


def check_messages(edge, folder):
    """What the edge serves must follow from the initial network and the messages alone."""
    node = EdgeNode(*read_state(folder / "initial.safetensors"))
    messages = sorted((folder / "updates").iterdir())
    assert [int(path.stem[-3:]) for path in messages] == [row["round"] for row in edge.rows if row["sent"]]
    for path in messages:
        node.receive(path.read_bytes())
        row = edge.rows[int(path.stem[-3:])]
        assert row["message_bytes"] == path.stat().st_size
        assert row["message_bytes"] == sum(row[part + "_bytes"] for part in ("index", "value", "rest", "header"))
    assert node.serving.tolist() == edge.served.tolist()
    assert all(row["message_bytes"] == 0 for row in edge.rows if not row["sent"])


def column(rows, name):
    return [row[name] for row in rows]


def test_each_update_builds_on_the_last_one_sent(monkeypatch, tmp_path):
    rows, starts, edge = run("dpu", [(0.3, True), (0.3, False), (0.4, True)], monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 10]
    assert column(rows, "sent") == [1, 0, 1]
    assert column(rows, "updated_weights") == [2, 0, 2]
    assert column(rows, "test_acc") == [0.1, 0.1, 0.3]
    assert column(rows, "served_test_acc") == [0.1, 0.1, 0.3]
    assert column(rows, "formula_bytes")[1] == 0
    assert edge.line[0] == edge.served[0] == 30


def test_reinitialised_line_is_served_once_it_has_caught_up(monkeypatch, tmp_path):
    # Round 2 (3000 samples) starts again and is worse; round 3 is still worse; round 4 is as good: served.
    script = [(0.5, True), (0.6, True), (0.4, True), (0.55, True), (0.6, True)]
    rows, starts, edge = run("dpu", script, reinit=DOUBLING, monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 0, 30, 40]
    assert column(rows, "reinitialized") == [0, 0, 1, 0, 0]
    assert column(rows, "sent") == [1, 1, 1, 1, 1]
    assert column(rows, "val_acc") == [0.5, 0.6, 0.4, 0.55, 0.6]
    assert column(rows, "served_val_acc") == [0.5, 0.6, 0.6, 0.6, 0.6]
    assert column(rows, "test_acc") == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert column(rows, "served_test_acc") == [0.1, 0.2, 0.2, 0.2, 0.5]
    assert edge.num_samples_at_last_init == 3000


def test_reinitialization_that_finds_nothing_leaves_the_line_and_tries_again(monkeypatch, tmp_path):
    script = [(0.5, True), (0.6, True), (0.1, False), (0.7, True)]
    rows, starts, edge = run("dpu", script, reinit=DOUBLING, monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 0, 0]
    assert column(rows, "reinitialized") == [0, 0, 0, 1]
    assert column(rows, "sent") == [1, 1, 0, 1]
    assert column(rows, "val_acc") == [0.5, 0.6, 0.6, 0.7]
    assert edge.num_samples_at_last_init == 4000


def test_every_so_many_rounds_from_the_initial_network(monkeypatch, tmp_path):
    # Due in round 2, which finds nothing, so again in round 3, and two rounds after that one in round 5.
    script = [(0.5, True), (0.6, True), (0.1, False), (0.7, True), (0.8, True), (0.9, True)]
    every = Reinit("every", reinit_every=2)
    rows, starts, edge = run("dpu", script, every, monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 0, 0, 40, 0]
    assert column(rows, "reinitialized") == [0, 0, 0, 1, 0, 1]
    assert column(rows, "sent") == [1, 1, 0, 1, 1, 1]
    assert edge.round_of_last_init == 5


def test_every_round_from_the_initial_network(monkeypatch, tmp_path):
    script = [(0.5, True), (0.4, True), (0.5, True)]
    rows, starts, _ = run("dpu", script, Reinit("every", 1), monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 0, 0]
    assert column(rows, "reinitialized") == [0, 1, 1]
    assert column(rows, "served_val_acc") == [0.5, 0.5, 0.5]
    assert column(rows, "served_test_acc") == [0.1, 0.1, 0.3], "the new network of round 1 stood by"


def test_shrunk_and_perturbed_line_stands_by_until_it_has_caught_up(monkeypatch, tmp_path):
    """Round 2 (3000 samples) starts from 0.5 * line + 0.25 * initial, the initial network being zeros."""
    script = [(0.5, True), (0.6, True), (0.4, True), (0.6, True)]
    shrink = Reinit("shrink_perturb", shrink=0.5, perturb=0.25)
    rows, starts, edge = run("dpu", script, shrink, monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 10, 30], "half of 20 in round 2"
    assert column(rows, "reinitialized") == [0, 0, 1, 0]
    assert column(rows, "val_acc") == [0.5, 0.6, 0.4, 0.6]
    assert column(rows, "served_val_acc") == [0.5, 0.6, 0.6, 0.6]
    assert column(rows, "served_test_acc") == [0.1, 0.2, 0.2, 0.4]
    assert edge.num_samples_at_last_init == 3000
    header, _ = unpack_message((tmp_path / "updates" / "round_002.dpu").read_bytes())
    assert header.base.shrink_perturb == (0.5, 0.25) and not header.base.reinitialize and not header.serve


@pytest.mark.parametrize("mode", ["same_init", "diff_init", "pruning"])
def test_network_that_stands_alone_is_sent_only_if_no_worse(mode, monkeypatch, tmp_path):
    rows, starts, _ = run(mode, [(0.5, True), (0.4, True), (0.5, True), (0.6, True)], monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == ([0, -2, -3, -4] if mode == "diff_init" else [0, 0, 0, 0])
    assert column(rows, "sent") == [1, 0, 1, 1]
    assert column(rows, "val_acc") == [0.5, 0.4, 0.5, 0.6]
    assert column(rows, "test_acc") == [0.1, 0.2, 0.3, 0.4]
    assert column(rows, "served_test_acc") == [0.1, 0.1, 0.3, 0.4]


def test_full_updating_from_the_last_round(monkeypatch, tmp_path):
    rows, starts, _ = run("last_round", [(0.5, True), (0.5, False), (0.6, True)], monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert starts == [0, 10, 10]
    assert column(rows, "sent") == [1, 0, 1]


def test_rows_name_columns_of_the_table_and_samples_follow_the_arrival(monkeypatch, tmp_path):
    rows, _, _ = run("rpu", [(0.5, True), (0.6, True)], sizes=(700, 400), monkeypatch=monkeypatch, tmp_path=tmp_path)
    assert column(rows, "num_samples") == [700, 1100]
    assert set(rows[0]) <= set(COLUMNS)


def test_packed_state_holds_plain_values_and_comes_back(monkeypatch, tmp_path):
    _, _, edge = run("dpu", [(0.5, True), (0.6, True)], monkeypatch=monkeypatch, tmp_path=tmp_path)
    torch.save(pack(edge), tmp_path / "state")
    again, interrupted = unpack(torch.load(tmp_path / "state", weights_only=True))
    assert interrupted is None
    assert again.rows == [] and again.next_round == 2, "the rows are in rounds.csv"
    assert sha256(again.line) == sha256(edge.line)


def test_network_sha256_by_hand():
    # SHA-256 of four zero bytes, as sha256sum prints it.
    known = "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
    assert sha256(torch.zeros(1)) == known
