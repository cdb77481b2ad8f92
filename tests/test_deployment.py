"""Deployment: what the flags mean, full and sparse deployment in real runs, and what stays zero."""

import json

import numpy as np
import pytest
import torch

import multiround_dpu
import multiround_fu
import multiround_rpu
from tests.script_runs import NUM_WEIGHTS, SMALL
from utils.edge.node import EdgeNode
from utils.edge.program import main as edge_main
from utils.edge.run_files import deployed_in_run
from utils.edge.state_file import read_state
from utils.message import unpack_message
from utils.message.base import pruned
from utils.run.checks import check_deployment, num_deployed
from utils.run.results import formula_bytes
from utils.table.names import row_key
from utils.table.pictures.layers import read_layer_counts
from utils.table.records import read_record
from utils.training.loop import Trainer

SPARSE = ("sparse", "sparse_gcpu", "sparse_rpu", "sparse_fu")
KEPT = NUM_WEIGHTS - int(0.5 * NUM_WEIGHTS)  # 888


@pytest.mark.parametrize(
    ("num_weights", "sparsity", "kept"), [(1000, 0.9, 100), (1000, 0.0, 1000), (7, 0.5, 4), (3, 0.99, 1)]
)
def test_number_of_deployed_weights(num_weights, sparsity, kept):
    assert num_deployed(num_weights, sparsity) == kept


def test_pruned_by_hand():
    state = np.float32([1, -2, 3, -4, 5])
    assert pruned(state, np.array([True, False, True])).tolist() == [1, 0, 3, -4, 5]
    assert pruned(state, None) is state and state[1] == -2
    assert not np.signbit(pruned(state, np.array([True, False, True]))[1])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"deploy": None, "deploy_sparsity": 0.0}, {"deploy": "partial", "deploy_sparsity": 0.0}),
        ({"deploy": "full", "deploy_sparsity": 0.0}, {"deploy": "full", "deploy_sparsity": 0.0}),
        ({"deploy": None, "deploy_sparsity": 0.5}, {"deploy": "full", "deploy_sparsity": 0.5}),
        ({"deploy_sparsity": 0.5}, {"deploy_sparsity": 0.5}),  # multiround_fu.py
    ],
)
def test_what_flags_mean(flags, expected):
    settings = dict(flags)
    check_deployment(settings, {"mode": "dpu", **flags})
    assert settings == expected


def states_of(folder):
    """The node after every message of a run."""
    node = EdgeNode(*read_state(folder / "initial.safetensors"))
    for path in sorted((folder / "updates").iterdir()):
        before = node.deployed
        update = node.receive(path.read_bytes())
        yield node, update, before


@pytest.mark.parametrize("name", SPARSE)
def test_zeros_stay_zero_bit_for_bit(results, name):
    """Over all rounds, with a re-initialization in the last one; line and served network."""
    told = list(states_of(results[name].folder))
    assert len(told) > 1
    mask = told[0][1].deployed
    assert mask.sum() == KEPT
    for node, update, before in told:
        for state in (update.result, node.serving):
            assert not state[:NUM_WEIGHTS][~mask].tobytes().strip(b"\0")
        assert mask[update.selected].all() and node.deployed is mask
        assert update.header.sparse_network and update.header.deploys == (before is None)
    # The largest weights after the first step stayed, so what stayed is larger than typical initial weights.
    initial = read_state(results[name].folder / "initial.safetensors")[1][:NUM_WEIGHTS]
    assert np.median(abs(told[0][1].result[:NUM_WEIGHTS][mask])) > np.median(abs(initial))


@pytest.mark.parametrize(("name", "rounds"), [("sparse", 2), ("sparse_gcpu", 2), ("sparse_rpu", 2)])
def test_starting_again_starts_from_what_is_deployed(results, name, rounds):
    """Round 2 builds on the initial weights under the mask, or on a mixture with them: weights that were not sent say so."""
    told = list(states_of(results[name].folder))
    mask, (_, update, _) = told[0][1].deployed, told[rounds]
    initial = read_state(results[name].folder / "initial.safetensors")[1][:NUM_WEIGHTS]
    line = told[rounds - 1][1].result[:NUM_WEIGHTS]
    base = np.float32(0.4) * line + np.float32(0.1) * initial if name == "sparse_gcpu" else initial
    kept = mask.copy()
    kept[update.selected] = False
    assert results[name].rows[rounds]["reinitialized"] and kept.sum() > 0.3 * KEPT
    assert update.result[:NUM_WEIGHTS][kept].tobytes() == base[kept].tobytes()


def test_counts_and_formula_count_deployed_weights(results):
    """888 of 1,776 weights, H(1/2) = 1: (32 * 888 + 1776) / 8 = 3774 bytes; 0.2 of 888 are 177."""
    rows = results["sparse"].rows
    assert [row["formula_bytes"] for row in rows] == [3774] + 2 * [formula_bytes(0.2, 888)]
    assert formula_bytes(0.2, 888) == 791  # (32 * 177.6 + 0.7219 * 888) / 8
    assert [row["updated_weights"] for row in rows] == [888, 177, 177]
    rows = results["sparse_fu"].rows
    assert [(row["formula_bytes"], row["updated_weights"]) for row in rows if row["sent"]][1:] == [(4 * 888, 888)] * 2
    assert all(row["index_bytes"] == 0 for row in rows[1:])
    folder = results["sparse_rpu"].folder
    sizes = [deployed_in_run(folder)[:1536].sum(), deployed_in_run(folder)[1536:].sum()]
    for row in results["sparse_rpu"].rows[1:]:
        assert row["updated_weights"] == sum(round(0.5 * size) for size in sizes) and row["index_bytes"] == 12
    assert results["sparse"].summary["num_deployed"] == 888 and "num_deployed" not in results["dpu"].summary


def test_the_same_deployment_for_methods_that_are_compared(results, tmp_path):
    """DPU's two steps of 3 epochs and RPU's one of 6 make the same first message, the network that pruning makes."""
    flags = [*SMALL, "--max_rounds", "1", "--output_dir", str(tmp_path)]
    random = multiround_rpu.main([*flags, "--deploy_sparsity", "0.5", "--updating_ratio", "0.5", "--num_epochs", "6"])
    ours, theirs = (r.folder / "updates" / "round_000.dpu" for r in (results["sparse"], random))
    assert ours.read_bytes() == theirs.read_bytes()
    prunes = multiround_fu.main([*flags, "--mode", "pruning", "--pruning_ratio", "0.5"])
    assert prunes.rows[0]["val_acc"] == results["sparse"].rows[0]["val_acc"]
    assert prunes.rows[0]["updated_weights"] == 888


def test_full_deployment_trains_as_many_epochs_as_a_round(results, tmp_path):
    """Round 0 is that of full updating over 6 epochs where DPU has 3 in each of its two steps."""
    rows = results["full"].rows
    flags = [*SMALL, "--mode", "last_round", "--max_rounds", "1", "--num_epochs", "6", "--output_dir", str(tmp_path)]
    full = multiround_fu.main(flags)
    assert full.summary["line_sha256"] != results["full"].summary["line_sha256"]
    first, theirs = (r.folder / "updates" / "round_000.dpu" for r in (results["full"], full))
    assert first.read_bytes() == theirs.read_bytes()
    assert rows[0]["formula_bytes"] == 4 * NUM_WEIGHTS and rows[0]["updated_weights"] == NUM_WEIGHTS
    assert [row["updated_weights"] for row in rows[1:]] == [int(0.1 * NUM_WEIGHTS)] * 2
    config = json.loads((results["full"].folder / "config.json").read_text())
    assert (config["recipe"]["num_epochs"], config["deployment_recipe"]["num_epochs"]) == (3, 6)
    assert config["settings"]["deploy"] == "full"


def test_single_round_experiment(tmp_path):
    """Two rounds: a full deployment, and one update of it; for random updating, too."""
    flags = [*SMALL, "--max_rounds", "2", "--deploy", "full", "--updating_ratio", "0.5", "--num_epochs", "2"]
    rows = multiround_rpu.main([*flags, "--output_dir", str(tmp_path)]).rows
    assert [row["updated_weights"] for row in rows] == [NUM_WEIGHTS, round(0.5 * 1536) + 120]


@pytest.mark.parametrize("more", ["--mode last_round", "--mode diff_init --num_epochs 12", "--value_bits 6", "--value_bits 16"])
def test_other_ways_to_update_a_sparse_network(tmp_path, more):
    flags = [*SMALL, "--deploy_sparsity", "0.3", "--output_dir", str(tmp_path), *more.split()]
    result = multiround_fu.main(flags)
    (first, *_), *later = states_of(result.folder)
    assert later and first.deployed.sum() == NUM_WEIGHTS - int(0.3 * NUM_WEIGHTS)
    for node, update, _ in later:
        assert set(np.flatnonzero(update.result[:NUM_WEIGHTS])) <= set(np.flatnonzero(node.deployed))
        assert update.selected.tolist() == np.flatnonzero(node.deployed).tolist()


@pytest.mark.parametrize("epochs, steps", [(5, [2, 3]), (4, [2, 2]), (2, [1, 1])])
def test_a_sparse_deployment_trains_as_many_epochs_as_asked(tmp_path, epochs, steps):
    flags = [*SMALL, "--max_rounds", "1", "--deploy_sparsity", "0.5", "--deploy_epochs", str(epochs)]
    folder = multiround_fu.main([*flags, "--output_dir", str(tmp_path)]).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [sum(line["step"] == step for line in lines) for step in (1, 2)] == steps


def test_convolutional_network(tmp_path):
    """33 samples in two batches; weight decay and BatchNorm are there, and zeros stay."""
    flags = "--dataset digits --model resnet56 --dataset_size_init 33 --dataset_size_subseq 33 --train_batch_size 17"
    more = "--max_rounds 2 --num_epochs 1 --deploy_sparsity 0.5 --updating_ratio 0.1 --threads 1 --lr 0.01"
    result = multiround_rpu.main([*flags.split(), *more.split(), "--output_dir", str(tmp_path)])
    told = list(states_of(result.folder))
    mask = told[0][1].deployed
    assert mask.sum() == len(mask) - int(0.5 * len(mask)) == result.summary["num_deployed"]
    for _, update, _ in told:
        assert not update.result[: len(mask)][~mask].tobytes().strip(b"\0")


def test_the_served_network_is_sparse_for_others_too(results):
    state = torch.load(results["sparse"].folder / "model.pt", weights_only=True)
    weights = torch.cat([tensor.flatten() for tensor in state.values() if tensor.dim() > 1])
    assert (weights == 0).sum() == NUM_WEIGHTS - KEPT


def test_the_program_follows_a_sparse_run(results, tmp_path, capsys):
    folder, node = results["sparse"].folder, tmp_path / "node.safetensors"
    assert edge_main(["init", "--initial", str(folder / "initial.safetensors"), "--out", str(node)]) == 0
    updates = sorted(str(path) for path in (folder / "updates").iterdir())
    for update in updates:  # the node lives in its file between messages
        assert edge_main(["apply", "--node", str(node), update]) == 0
    assert edge_main(["replay", str(folder), "--out", str(tmp_path / "replayed")]) == 0
    assert (tmp_path / "replayed").read_bytes() == node.read_bytes()
    capsys.readouterr()
    shown = []
    for more in ([], ["--node", str(node)], ["--node", str(folder / "initial.safetensors")]):
        assert edge_main(["show", updates[1], *more]) == 0
        shown.append(capsys.readouterr().out)
    assert len(set(shown)) == 1
    assert "sparse network  its deployed weights alone" in shown[0] and " 888   177   19.93%" in shown[0]
    assert edge_main(["show", updates[0]]) == 0
    assert "its only ones from now on" in capsys.readouterr().out
    dense = tmp_path / "dense.safetensors"
    assert edge_main(["init", "--initial", str(folder / "initial.safetensors"), "--out", str(dense)]) == 0
    assert edge_main(["show", updates[1], "--node", str(dense)]) == 2
    assert "for a sparse network, which this node does not have" in capsys.readouterr().err


@pytest.mark.parametrize("name", SPARSE)
def test_layers_of_sparse_runs(results, name):
    record = read_record(results[name].folder)
    for row, updated in zip(record.rows, read_layer_counts(record).updated, strict=True):
        assert sum(updated) == row["updated_weights"]


def test_header_is_no_longer_than_others(results):
    for name in ("sparse", "dpu"):
        for path in (results[name].folder / "updates").iterdir():
            assert unpack_message(path.read_bytes())[0].header_bytes == 85




def test_rows_of_the_table(results):
    """Of RPU and full updating, too, the deployment alone had two steps."""
    shown = {name: read_record(results[name].folder) for name in (*SPARSE, "full", "rewinding", "dpu")}
    assert {name: record.steps for name, record in shown.items() if record.steps == 1} == {"sparse_rpu": 1, "sparse_fu": 1}
    names = {name: row_key(record)[0] for name, record in shown.items()}
    assert names["sparse"] == "DPU, deploy_sparsity 0.5" and names["sparse_fu"] == "FU, deploy_sparsity 0.5"
    assert names["full"] == "DPU, deploy full" and names["rewinding"] == "DPU, rewind_fixing_ratio 0.5"
    assert names["dpu"] == "DPU, lamda 0.25"


@pytest.mark.parametrize("script, more", [(multiround_dpu, ["--deploy", "full", "--updating_ratio", "0.1"]), (multiround_fu, [])])
def test_deploy_epochs_are_those_of_round_0_alone(script, more, tmp_path, monkeypatch):
    """Full updating takes the flag, too, so that it can be compared: its round 0 is a full deployment."""
    epochs, plain = [], Trainer.epoch

    def counted(self, optimizer, samples, place, *rest):
        epochs.append(place[0])
        return plain(self, optimizer, samples, place, *rest)

    monkeypatch.setattr(Trainer, "epoch", counted)
    flags = [*SMALL, *more, "--max_rounds", "2", "--num_epochs", "2", "--deploy_epochs", "5"]
    script.main([*flags, "--output_dir", str(tmp_path)])
    assert [epochs.count(number) for number in (0, 1)] == [5, 4 if more else 2]
