"""The calls behind `--run` and `--ablate`, as their own scripts would take them."""

import argparse
import contextlib
import io
import shlex

import pytest

from utils.modes import DPU, FU, MODES, RPU, modes_of
from utils.run import argument_types as types
from utils.run.argument_types import link
from utils.run.flags import FLAGS
from utils.run.options import parse
from utils.system.errors import UsageError
from utils.table.ablation import _takes, ablation_commands, describe_epochs
from utils.table.commands import paper_commands, parser_of, split_flags
from utils.table.program import main
from utils.table.views import seconds_on_air


def of_paper(model, flags="", seeds=("1",)):
    return paper_commands(model, seeds, split_flags(flags.split()))


def of_ablation(flag, values, flags="", mode="dpu", seeds=("1",)):
    ablation = ablation_commands([(flag, values)], mode, seeds, split_flags(flags.split()))
    return ablation.swept, ablation.full


def test_the_rows_of_the_paper_word_for_word():
    common = "--model mlp --dataset mnist --dataset_size_subseq 5000 --seed 2"
    assert [str(command) for command in of_paper("mlp", "--dataset_size_subseq 5000", ["2"])] == [
        f"python multiround_dpu.py --mode dpu --updating_ratio 0.005 --lamda 0.5 {common}",
        f"python multiround_dpu.py --mode gcpu --without_reinit --updating_ratio 0.005 {common}",
        f"python multiround_rpu.py --mode rpu --updating_ratio 0.005 {common}",
        f"python multiround_fu.py --mode pruning --pruning_ratio 0.005 --rewind_fixing_ratio 0.8 {common}",
        f"python multiround_fu.py --mode same_init {common}",
    ]


@pytest.mark.parametrize("model, ratio, dataset", [("vgg", 0.01, "cifar10"), ("resnet56", 0.1, "cifar100")])
def test_every_model_has_its_own_k_and_data(model, ratio, dataset):
    commands = of_paper(model, seeds=["1", "2", "3"])
    settings = [command.settings for command in commands]
    assert len(commands) == 15 and {s.seed for s in settings} == {1, 2, 3}
    assert {s.updating_ratio for s in settings if s.mode != "same_init"} == {ratio}
    assert {s.model for s in settings} == {model} and {s.dataset for s in settings} == {dataset}


@pytest.mark.parametrize("model, one_step", [("mlp", 10), ("vgg", 10), ("resnet56", 5)])
def test_epochs_keep_the_recipe_s_proportion(model, one_step):
    epochs = {command.label: command.settings.num_epochs for command in of_paper(model, "--num_epochs=5")}
    assert epochs == {"DPU": 5, "GCPU": 5, "Pruning": 5, "RPU": one_step, "FU": one_step}


def test_an_equals_sign_in_front_of_several_values(capsys):
    outputs = []
    for words in ("--ablate=lamda 0 1 --seeds=1 2", "--ablate lamda 0 1 --seeds 1 2"):
        main([*words.split(), "--dataset", "digits", "--dry_run", "--quiet"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] and outputs[0].count("multiround_dpu.py") == 4


def test_numbers_of_thousands_of_digits_are_left_to_the_scripts(capsys):
    long = "1" * 5000
    for words in (f"--ablate lamda 0 1 --seeds {long}", f"--ablate mode rpu --seeds 1 --num_epochs {long}"):
        with pytest.raises(SystemExit) as stop:
            main([*words.split(), "--updating_ratio", "0.1", "--dataset", "digits", "--dry_run", "--quiet"])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and err.count("\n") == 1 and "error: " in err


def test_commands_can_be_copied_from_a_shell():
    commands = of_paper("mlp", "--dataset_dir")
    assert shlex.split(str(commands[0]))[-4:] == ["mnist", "--dataset_dir", "--seed", "1"]
    (command, *_) = paper_commands("mlp", ["1"], [["--dataset_dir", "a b;c"]])
    assert "--dataset_dir 'a b;c'" in str(command)
    assert str(command.settings.dataset_dir) == "a b;c"


def test_a_flag_of_the_method_leaves_one_full_updating():
    swept, full = of_ablation("lamda", ["0", "0.5"], "--updating_ratio 0.1 --hidden_sizes 24 32", seeds=["1", "2"])
    assert [(c.label, c.settings.lamda, c.settings.seed) for c in swept] == [
        ("0", 0.0, 1), ("0.5", 0.5, 1), ("0", 0.0, 2), ("0.5", 0.5, 2),
    ]  # fmt: skip
    assert [c.settings.seed for c in full] == [1, 2]
    assert {c.settings.hidden_sizes for c in [*swept, *full]} == {(24, 32)}
    assert {c.settings.updating_ratio for c in swept} == {0.1}


@pytest.mark.parametrize("flag, values, name, expected", [
    ("dataset_size_subseq", ["100", "200"], "dataset_size_subseq", [100, 200]),
    ("hidden_sizes", ["24", "24 32"], "hidden_sizes", [(24,), (24, 32)]),
    ("batch_norm", ["off", "on"], "batch_norm", [False, True]),
    ("num_epochs", ["3", "5"], "num_epochs", [6, 10]),
    ("lr", ["0.1", "0.01"], "lr", [0.1, 0.01]),
    ("train_batch_size", ["8", "16"], "train_batch_size", [8, 16]),
    ("precision", ["fp32", "bf16"], "precision", ["fp32", "bf16"]),
    ("deploy_sparsity", ["0", "0.5"], "deploy_sparsity", [0.0, 0.5]),
])  # fmt: skip
def test_a_flag_that_a_pair_must_share_gives_each_value_its_full_updating(flag, values, name, expected):
    swept, full = of_ablation(flag, values)
    assert [command.label for command in swept] == values
    assert [getattr(command.settings, name) for command in full] == expected


@pytest.mark.parametrize("flag, values", [("value_bits", ["4", "32"]), ("updating_ratio", ["0.1", "0.2"]),
                                          ("without_reinit", ["on", "off"]), ("deploy", ["full", "partial"])])  # fmt: skip
def test_other_flags_leave_full_updating_as_it_is(flag, values):
    swept, full = of_ablation(flag, values)
    assert len({command.flags for command in swept}) == 2 and len(full) == 1
    assert f"--{flag}" not in full[0].flags


def test_what_others_are_compared_with_is_lossless():
    swept, full = of_ablation("lamda", ["0", "1"], "--value_bits 4 --lr 0.1")
    assert {command.settings.value_bits for command in swept} == {4}
    assert [(command.settings.value_bits, command.settings.lr) for command in full] == [(32, 0.1)]
    bits = {command.label: command.settings.value_bits for command in of_paper("mlp", "--value_bits=4")}
    assert bits == {"DPU": 4, "GCPU": 4, "RPU": 4, "Pruning": 4, "FU": 32}


def test_methods_can_be_swept_and_chosen():
    swept, full = of_ablation("mode", ["dpu", "rpu", "pruning"])
    assert [command.script for command in swept] == ["multiround_dpu.py", "multiround_rpu.py", "multiround_fu.py"]
    assert len(full) == 1
    swept, full = of_ablation("mode", ["dpu", "rpu", "last_round"], "--num_epochs 4")
    assert [command.settings.num_epochs for command in [*swept, *full]] == [4, 8, 8, 8]
    swept, full = of_ablation("pruning_ratio", ["0.1", "0.2"], "--num_epochs 4", mode="pruning")
    assert [command.settings.updating_ratio for command in swept] == [0.1, 0.2]
    assert full[0].settings.num_epochs == 8
    assert {c.settings.num_epochs for group in of_ablation("lr", ["0.1"], "--num_epochs 4", mode="rpu") for c in group} == {8}


def of_grid(sweeps, flags="", mode="dpu", seeds=("1",)):
    sweeps = [(flag, values.split()) for flag, values in sweeps.items()]
    return ablation_commands(sweeps, mode, seeds, split_flags(flags.split()))


def test_several_flags_are_a_grid():
    grid = of_grid({"lamda": "0 1", "hidden_sizes": "24 32"}, "--overwrite", seeds=["1", "2"])
    assert [(c.values, c.label, c.settings.seed) for c in grid.swept[:5]] == [
        (("0", "24"), "lamda 0, hidden_sizes 24", 1), (("0", "32"), "lamda 0, hidden_sizes 32", 1),
        (("1", "24"), "lamda 1, hidden_sizes 24", 1), (("1", "32"), "lamda 1, hidden_sizes 32", 1),
        (("0", "24"), "lamda 0, hidden_sizes 24", 2),
    ]  # fmt: skip
    assert [(c.settings.lamda, c.settings.hidden_sizes) for c in grid.swept[1:3]] == [(0, (32,)), (1, (24,))]
    assert len(grid.swept) == 8 and [c.values for c in grid.full[:2]] == [("", "24"), ("", "32")] and len(grid.full) == 4
    assert all(c.settings.overwrite for c in grid.swept) and not any(c.settings.overwrite for c in grid.full)


def test_methods_leave_out_what_is_not_theirs_with_a_word():
    flags = "--updating_ratio 0.1 --deploy full --num_epochs 4"
    grid = of_grid({"mode": "dpu rpu same_init pruning", "lamda": "0 1"}, flags)
    assert [c.values for c in grid.swept] == [("dpu", "0"), ("dpu", "1"), ("rpu", "-"), ("same_init", "-"), ("pruning", "-")]
    assert [c.label for c in grid.swept] == ["dpu, lamda 0", "dpu, lamda 1", "rpu", "same_init", "pruning"]
    assert [c.settings.updating_ratio for c in grid.swept] == [0.1, 0.1, 0.1, 1, 0.005]
    assert [c.settings.deploy for c in grid.swept] == ["full", "full", "full", "partial", "partial"]
    assert grid.notes == [
        "lamda: not a flag of rpu, same_init and pruning, left out there",
        "updating_ratio: not a flag of same_init and pruning, left out there",
        "deploy: not a flag of same_init and pruning, left out there",
    ]  # fmt: skip
    assert describe_epochs(grid.swept) == "epochs a round: dpu and pruning 4 in each step; rpu and same_init 8"
    assert describe_epochs(of_grid({"mode": "dpu rpu"}).swept) is None
    auto = of_grid({"mode": "dpu same_init"}, "--byte_budget 16k --value_bits auto")
    assert [c.settings.value_bits for c in [*auto.swept, *auto.full]] == ["auto", 32, 32]


@pytest.mark.parametrize("mode", MODES)
def test_which_flags_a_method_takes_is_what_its_script_says(mode):
    """One value of each flag: `_takes` says no where the script refuses it whatever else is given, and else yes."""
    values = {"byte_budget": "16k", "reinit_strategy": "every", "deploy": "full", "value_bits": "8"}
    values |= {"optimizer": "sgd", "schedule": "cosine", "criterion": "examples/own_criterion.py:total_effect"}
    parser = parser_of(MODES[mode].script)
    for flag in FLAGS.values():
        if flag.group in ("data", "model", "machine", "output") or flag.name in ("mode", "reinit_every", "shrink", "perturb"):
            continue  # the same for all methods, or with another flag beside them
        if (mode, flag.name) == ("dpu", "criterion"):
            continue  # which then is the mode criterion
        share = flag.kind in (types.ratio, types.share, types.below_one, types.learning_rate)
        value = values.get(flag.name) or ("0.5" if share else "3")
        words = ["--mode", mode, f"--{flag.name}", *([] if flag.kind is bool else [value])]
        words += ["--criterion", values["criterion"]] if mode == "criterion" and flag.name != "criterion" else []
        deploys = flag.name == "deploy_epochs" and MODES[mode].script != FU  # of these methods if they deploy fully
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                parse(parser, [*words, *(["--deploy", "full"] if deploys else [])])
            taken = True
        except SystemExit:
            taken = False
        assert _takes(mode, flag.name, value) == taken, words


def test_every_flag_of_every_script_is_swept_or_refused():
    for script in (DPU, RPU, FU):
        for action in parser_of(script)._actions:
            value = action.choices[0] if action.choices else "on" if action.nargs == 0 else "1"
            try:
                swept, full = of_ablation(action.dest, [str(value)], mode=modes_of(script)[0])
            except UsageError as error:
                assert f"--ablate {action.dest}" in str(error)
            else:
                assert swept and full


def test_split_flags():
    assert split_flags("--a 1 2 --b --c=3".split()) == [["--a", "1", "2"], ["--b"], ["--c=3"]]
    with pytest.raises(UsageError, match="run folders"):
        split_flags(["runs", "--a"])


@pytest.mark.parametrize("flags, needed", [
    ("--run", "expected one argument"),
    ("--run mobilenetv1", "invalid choice: 'mobilenetv1'"),
    ("runs --run mlp", "unrecognized argument runs: run folders do not go with --run or --ablate"),
    ("--run mlp runs", "give one of run folders, --run and --ablate"),
    ("--run mlp --ablate lamda 0", "give one of run folders, --run and --ablate"),
    ("--run mlp --mode dpu", "--mode goes with --ablate"),
    ("--run mlp --model vgg", "--model: give it to --run"),
    ("--run mlp --seed 1", "--seed: give --seeds"),
    ("--run mlp --seeds", "--seeds: expected at least one argument"),
    ("--run mlp --seeds x", "argument --seed: 'x' is not a whole number"),
    ("--run mlp --jobs 0", "--jobs: '0' is not a whole number from 1"),
    ("--run mlp --nosuch 1", "unrecognized arguments: --nosuch 1"),
    ("--run mlp --lamda 0.3", "--lamda: --run makes the paper's rows, each with its own flags"),
    ("--run mlp --byte_budget 16k", "--byte_budget: --run makes the paper's rows, each with its own flags"),
    ("--run mlp --reinit", "--reinit: --run makes the paper's rows, each with its own flags; --ablate takes others"),
    ("--run mlp --num_epochs x", "--num_epochs: 'x' is not a whole number"),
    ("--run mlp --output_dir file", "--output_dir is file, but file is a file"),
    ("--run mlp --out file", "--out is file, but file is a file"),
    ("--run mlp --dataset digits --dataset_size_init 2000", "--dataset_size_init is 2000, but there are 1198"),
    ("--run mlp --dataset digits --max_rounds 99", "--max_rounds is 99, but all the data is there after 6"),
    ("--run mlp --dataset nowhere.npz", "nowhere.npz: no such file"),
    ("--run mlp --device abacus", "--device is 'abacus'"),
    ("--ablate lamda", "--ablate lamda: give one or more values"),
    ("--ablate nosuch 1", "--ablate nosuch: multiround_dpu.py has no such flag"),
    ("--ablate reinit on", "--ablate reinit: multiround_dpu.py has no such flag"),
    ("--ablate seed 1 2", "--ablate seed: give --seeds"),
    ("--ablate output_dir a b", "--ablate output_dir: it changes no result"),
    ("--ablate lamda 0 2", "argument --lamda: '2' is not a number from 0 to 1"),
    ("--ablate lamda 0 --lamda 1", "--lamda: it is what --ablate varies"),
    ("--ablate batch_norm yes", "--ablate batch_norm is a switch, but 'yes' is neither on nor off"),
    ("--ablate mode nosuch", "--mode is 'nosuch': give one of dpu, "),
    ("--ablate lamda 0 --mode rpu", "--ablate lamda: multiround_rpu.py has no such flag"),
    ("--ablate lamda 0 --ablate lamda 1", "--ablate lamda is given more than once"),
    ("--ablate lamda 0 --ablate", "--ablate: expected at least one argument"),
    ("--ablate mode dpu rpu --mode dpu", "--mode: it is what --ablate varies"),
    ("--ablate mode rpu same_init --lamda 1", "unrecognized arguments: --lamda 1"),
    ("--ablate mode rpu same_init --ablate lamda 1", "--ablate lamda: multiround_rpu.py has no such flag"),
    ("--ablate lr 0.1 --model abacus", "invalid choice: 'abacus'"),
])  # fmt: skip
def test_bad_input_is_one_line_before_anything_starts(tmp_path, monkeypatch, capsys, flags, needed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("utils.table.sweep.run_all", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(SystemExit) as stop:
        main(flags.split())
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "") and len(err.splitlines()) == 1, err
    assert needed in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("text, size, seconds", [
    ("8", 3, 3.0), ("16/2/1", 4, 3.0), ("16/2/1", 5, 4.0), ("5470/222/13", 17_169, 8 * (17_169 + 78 * 13) / 5470),
])  # fmt: skip
def test_time_on_air_by_hand(text, size, seconds):
    """5 bytes in frames of 2 take 3 frames, each with 1 byte more: 8 bytes, 64 bits, by 16 a second 4 seconds."""
    assert seconds_on_air(size, link(text)) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "5470/222", "5470/0/13", "a/b/c", "-5", "1e3", "5470/222/13/1"])
def test_what_is_no_link(text):
    with pytest.raises(argparse.ArgumentTypeError, match="bits a second, such as 5470"):
        link(text)
