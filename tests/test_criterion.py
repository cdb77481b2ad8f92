"""Criteria of users: what they get, what is refused, and runs, sweeps and tables by them."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch

import multiround_dpu
import multiround_fu
from tests.run.test_own_networks import SMALL, killed_and_resumed, replayed
from tests.script_runs import one_line, weights_of, without_time
from utils.contribution import Evidence
from utils.criterion import OFFERED, criterion, load_criterion
from utils.flat import FlatParameters
from utils.system.errors import UsageError
from utils.system.processes import process_kept
from utils.table import program as table_program

EXAMPLE = "examples/own_criterion.py"
FLAGS = ["--hidden_sizes", "16", "--updating_ratio", "0.1", *SMALL]


def run(criterion, *more):
    return multiround_dpu.main(["--criterion", criterion, *FLAGS, *map(str, more)])


@pytest.mark.parametrize(("name", "more"), [
    ("relative_change", "--value_bits 6"), ("total_effect", "--rewind_fixing_ratio 0.5"), ("total_effect", "--byte_budget 700"),
])  # fmt: skip
def test_examples_run_resume_and_replay(name, more, tmp_path, monkeypatch, capsys):
    flags = ["--criterion", f"{EXAMPLE}:{name}", *FLAGS, *more.split()]
    if "budget" in more:
        flags.remove("--updating_ratio"), flags.remove("0.1")
    whole = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "whole")])
    again = killed_and_resumed(multiround_dpu, [*flags, "--output_dir", str(tmp_path / "killed")], monkeypatch)
    assert whole.folder.name.startswith(f"digits-mlp-{name}-") and whole.summary["rounds_sent"] > 0
    assert without_time(whole.folder) == without_time(again.folder) and replayed(whole.folder)
    assert weights_of(whole.folder) == weights_of(again.folder)
    assert f"own_criterion.py:{name}: 2 rounds" in capsys.readouterr().out


SAME = {
    "lcpu": "def f(accumulated): return accumulated",
    "gcpu": "def f(weights, start): return (weights - start) ** 2",
    "snip": "def f(gradient, start): return (gradient * start).abs()",
    "fisher": "def f(squared_gradients): return squared_gradients",
    "movement": "@STEP\ndef f(accumulated): return accumulated",
}


@pytest.mark.parametrize("mode", SAME)
def test_a_built_in_criterion_written_anew_sends_the_same(mode, tmp_path):
    header = "from utils.criterion import criterion\ndef step(gradient, before, after): return -gradient * before\n"
    text = SAME[mode].replace("@STEP\n", "@criterion(step=step)\n")
    (tmp_path / "own.py").write_text(header + ("" if "@" in text else "@criterion\n") + text + "\n")
    more = ("--max_rounds", "1", "--num_epochs", "1", "--output_dir", tmp_path)
    own = run(f"{tmp_path}/own.py:f", *more)
    ours = multiround_dpu.main(["--mode", mode, *FLAGS, *map(str, more)])
    assert weights_of(own.folder) == weights_of(ours.folder)


def test_layers_are_numbered_and_what_is_drawn_belongs_to_the_run(tmp_path):
    flat = FlatParameters(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)))
    assert flat.layer_of_weight().tolist() == [0] * 6 + [1] * 3
    text = "import torch\nfrom utils.criterion import criterion\n"
    text += "@criterion\ndef f(layer): return torch.rand(len(layer)) + (layer == 1)\n"
    (tmp_path / "own.py").write_text(text)
    runs = []
    for folder in ("a", "b"):
        torch.rand(7)
        runs.append(weights_of(run(f"{tmp_path}/own.py:f", "--output_dir", tmp_path / folder).folder))
    assert runs[0] == runs[1]


CHANGES = {
    "gradients": "torch.set_grad_enabled(False)", "type": "torch.set_default_dtype(torch.float64)",
    "threads": "torch.set_num_threads(2)", "folder": "os.chdir('/')",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_own_code_changes_of_the_process_changes_no_run(change, tmp_path, monkeypatch):
    """At import, in a criterion, in its step; and what the caller has set stays as it was."""
    monkeypatch.chdir(tmp_path)
    text = "import os, torch\nfrom utils.criterion import criterion\nCHANGE0\n"
    text += "def step(gradient, before, after):\n    CHANGE1\n    return (gradient * (after - before)).abs().float()\n"
    text += "@criterion(step=step)\ndef f(accumulated):\n    CHANGE2\n    return accumulated\n"
    runs = []
    for number in ("", "0", "1", "2"):
        place = tmp_path / f"of{number}" / "own.py"
        place.parent.mkdir()
        changed = text.replace(f"CHANGE{number}", CHANGES[change]) if number else text
        place.write_text(re.sub(r"CHANGE\d", "pass", changed))
        before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), Path.cwd()
        result = run(f"{place}:f", "--threads", "1", "--output_dir", f"runs{number}")
        assert before == (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(), Path.cwd())
        runs.append(weights_of(tmp_path / result.folder))
    assert all(each == runs[0] for each in runs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("model", ["mlp", "own"])
def test_a_caller_without_gradients_and_with_another_type_changes_no_run(model, mode, tmp_path):
    flags = [*FLAGS, "--max_rounds", "1", "--num_epochs", "1"]
    if model == "own":
        flags = ["--model", "examples/own_network.py:SmallNet", *flags[2:]]
    usual = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "usual")])
    torch.set_default_dtype(torch.float64)
    try:
        with mode():
            other = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "other")])
    finally:
        assert torch.get_default_dtype() is torch.float64
        torch.set_default_dtype(torch.float32)
    assert weights_of(usual.folder) == weights_of(other.folder) and usual.folder.name == other.folder.name


def test_what_a_network_changes_of_the_process_changes_no_run(tmp_path, monkeypatch):
    """As it trains and as it is evaluated, after which the run goes on in the place where it was."""
    monkeypatch.chdir(tmp_path)
    text = "import os, torch\nfrom torch import nn\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
    text += "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n    def forward(self, x):\n        CHANGE\n"
    text += "        return super().forward(x)\n"
    runs = []
    for number, change in enumerate(("pass", "torch.set_default_dtype(torch.float64); os.chdir('/')")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "own.py").write_text(text.replace("CHANGE", change))
        flags = ["--model", f"{number}/own.py:Net", *FLAGS[2:], "--threads", "1", "--output_dir", f"runs{number}"]
        result = multiround_dpu.main(flags)
        runs.append(weights_of(tmp_path / result.folder))
    assert runs[0] == runs[1] and Path.cwd() == tmp_path


@pytest.mark.parametrize("gone", [False, True])
def test_a_working_folder_may_be_renamed_or_deleted(gone, tmp_path):
    """As it is left, the process is where it was, under whatever name; and no error takes another's place."""
    (tmp_path / "here").mkdir()
    before = Path.cwd()
    try:
        os.chdir(tmp_path / "here")
        with pytest.raises(KeyboardInterrupt), process_kept():
            os.rmdir(tmp_path / "here") if gone else os.rename(tmp_path / "here", tmp_path / "there")
            os.chdir("/")
            raise KeyboardInterrupt
        if gone:
            with pytest.raises(FileNotFoundError):
                os.getcwd()
        else:
            assert Path.cwd() == tmp_path / "there"
    finally:
        os.chdir(before)


def test_what_a_step_draws_belongs_to_the_run_wherever_it_goes_on(tmp_path, monkeypatch):
    text = "import numpy as np, random, torch\nfrom utils.criterion import criterion\n"
    text += "def step(gradient, before, after): return torch.rand(len(gradient)) + np.random.rand() * random.random()\n"
    (tmp_path / "own.py").write_text(f"{text}@criterion(step=step)\ndef f(accumulated): return accumulated\n")
    flags = ["--criterion", f"{tmp_path}/own.py:f", *FLAGS]
    whole = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "whole")])
    again = killed_and_resumed(multiround_dpu, [*flags, "--output_dir", str(tmp_path / "killed")], monkeypatch)
    assert weights_of(whole.folder) == weights_of(again.folder)


def test_every_step_has_a_stream_of_its_own():
    @criterion(step=lambda gradient, before, after: torch.rand(len(gradient)))
    def f(accumulated):
        return accumulated

    def drawn(seed, place):
        sums = f.criterion.accumulates(1)
        sums.begin(seed, place)
        values = [0.0]
        for _ in range(2):
            sums.update(*[torch.ones(1)] * 3)
            values.append(sums.value.item())
        return [b - a for a, b in zip(values, values[1:])]

    draws = [drawn(1, (0, 1, 0)), drawn(2, (0, 1, 0)), drawn(1, (0, 1, 1))]
    assert len({value for pair in draws for value in pair}) == 6
    torch.rand(5)
    assert drawn(1, (0, 1, 0)) == draws[0]


def test_a_sweep_of_criteria_has_a_row_each(tmp_path, capsys):
    sweep = ["--ablate", "criterion", f"{EXAMPLE}:relative_change", f"{EXAMPLE}:total_effect", "--seeds", "1", *FLAGS]
    sweep.remove("--seed"), sweep.remove("3")
    sweep += ["--output_dir", str(tmp_path)]
    table_program.main([*sweep, "--dry_run"])
    commands = capsys.readouterr().out.splitlines()
    for command in commands:
        _, script, *flags = shlex.split(command)
        {"multiround_dpu.py": multiround_dpu, "multiround_fu.py": multiround_fu}[script].main(flags)
    assert len(commands) == 3
    capsys.readouterr()
    table_program.main(sweep)
    out = capsys.readouterr().out
    assert "own_criterion.py:relative_change  " in out and "own_criterion.py:total_effect  " in out
    assert "several" not in out
    table_program.main([str(tmp_path), "--export", str(tmp_path / "export")])
    out = capsys.readouterr().out
    assert "own_criterion.py:total_effect" in out and "FU" in out and "criterion," not in out and "several" not in out
    exported = "".join(path.read_text() for path in (tmp_path / "export").rglob("config.json"))
    assert '"own_criterion.py:total_effect"' in exported and "examples" not in exported


def test_two_criteria_of_one_name_are_told_apart(tmp_path, capsys):
    other = tmp_path / "own_criterion.py"
    other.write_text(Path(EXAMPLE).read_text())
    sweep = ["--ablate", "criterion", f"{EXAMPLE}:total_effect", f"{other}:total_effect", *FLAGS]
    sweep.remove("--seed"), sweep.remove("3")
    with pytest.raises(SystemExit):
        table_program.main([*sweep, "--dry_run", "--output_dir", str(tmp_path)])
    assert "would have the same run folder" in capsys.readouterr().err


def test_a_changed_formula_is_other_code(tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("from utils.criterion import criterion\n@criterion\ndef f(weights): return weights.abs()\n")
    more = ("--max_rounds", "1", "--num_epochs", "1", "--output_dir", tmp_path / "runs")
    run(f"{own}:f", *more)
    own.write_text(own.read_text().replace("abs()", "square()"))
    run(f"{own}:f", *more)
    assert "this run is finished, by other code (own.py differs); --overwrite" in one_line(capsys)
    own.write_text(own.read_text() + "@criterion\ndef g(start): return start.abs()\n")
    run(f"{own}:g", *more)
    table_program.main([str(tmp_path / "runs")])
    assert "own.py:f against own.py:g: made by different versions of own.py" in one_line(capsys)


def test_partials_and_objects_are_functions_too(tmp_path):
    """They have no name of their own, which errors and rows need."""
    lines = [
        "from functools import partial",
        "from utils.criterion import criterion",
        "class Step:",
        "    def __call__(self, gradient, before, after): return (gradient * before).abs()",
        "def scaled(factor, gradient, before, after): return factor * (gradient * before).abs()",
        "def total(accumulated): return accumulated",
        "f = criterion(partial(total), step=Step())",
        "def power(accumulated, exponent): return accumulated ** exponent",
        "g = criterion(partial(power, exponent=1), step=partial(scaled, 1.0))",
    ]
    (tmp_path / "own.py").write_text("\n".join(lines))
    one, other = (run(f"{tmp_path}/own.py:{name}", "--output_dir", tmp_path / "runs") for name in "fg")
    assert weights_of(one.folder) == weights_of(other.folder)
    with pytest.raises(TypeError, match="cannot be marked"):
        criterion(type("Bound", (), {"plain": lambda self, weights: weights})().plain)
    with pytest.raises(TypeError, match="criterion Unknown asks for weight: it can have"):
        criterion(type("Unknown", (), {"__call__": lambda self, weight: weight})())


IMPORT = "import torch\nfrom utils.criterion import criterion\n"
REFUSED = {
    "no criterion": ("def f(weights): return weights\n", "own.py:f is no criterion: write @criterion"),
    "name": ("@criterion\ndef ff(weights): return weights\n", "own.py has no f: did you mean ff?"),
    "argument": (
        "@criterion\ndef f(weight): return weight\n",
        f"own.py, line 3, in <module>: TypeError: criterion f asks for weight: it can have {', '.join(OFFERED)}",
    ),
    "shape": ("@criterion\ndef f(weights): return weights[1:]\n", "returned torch.float32 of shape (1183,) for 1,184 weights"),
    "number": ("@criterion\ndef f(weights): return 3.0\n", "returned a value of type float for 1,184 weights: it must return a number for"),
    "not finite": (
        "@criterion\ndef f(weights): return torch.where(weights > 9, weights, torch.nan)\n",
        "own.py:f gave 1,184 of 1,184 weights a score that is no finite number",
    ),
    "error": ("@criterion\ndef f(weights): return weights / undefined\n", "own.py, line 4, in f: NameError: name 'undefined'"),
    "step shape": (
        "def s(gradient, before, after): return 1\n@criterion(step=s)\ndef f(accumulated): return accumulated\n",
        "step, called as s(gradient, before, after) returned a value of type int for 1,184 weights",
    ),
    "step in place": (
        "def s(gradient, before, after): return before.sub_(after)\n@criterion(step=s)\ndef f(accumulated): return accumulated\n",
        "own.py:f: step changes before in place: make a new tensor",
    ),
    "step unused": (
        "def s(gradient, before, after): return after\n@criterion(step=s)\ndef f(weights): return weights\n",
        "criterion f has a step, but no argument that is called accumulated",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_any_work(case, tmp_path, capsys):
    text, words = REFUSED[case]
    (tmp_path / "own.py").write_text(IMPORT + text)
    with pytest.raises(SystemExit) as stop:
        run(f"{tmp_path}/own.py:f", "--output_dir", tmp_path / "runs")
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "runs").exists()


def test_flags_that_contradict_a_criterion(capsys):
    for flags, words in (
        (["--criterion", f"{EXAMPLE}:total_effect", "--mode", "gcpu"], "--criterion and --mode gcpu both say how weights"),
        (["--criterion", f"{EXAMPLE}:total_effect", "--lamda", "0.5"], "--lamda is for --mode dpu; criterion ignores it"),
        (["--mode", "criterion"], "--mode is criterion, but there is none: give --criterion FILE.py:NAME"),
        (["--criterion", "total_effect"], "argument --criterion: 'total_effect' is not FILE.py:NAME"),
        (["--criterion", "examples/own_criterio.py:f"], "no file examples/own_criterio.py; did you mean examples/own_crit"),
    ):
        with pytest.raises(SystemExit) as stop:
            multiround_dpu.main(["--dataset", "digits", *flags])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and words in err and len(err.splitlines()) == 1, err


def test_scores_in_another_type_and_a_score_later_that_is_not_finite():
    flat = FlatParameters(torch.nn.Linear(2, 3))

    @criterion
    def ranks(weights):
        return torch.arange(len(weights))

    assert ranks.criterion.accumulates is None and ranks(torch.zeros(3)).tolist() == [0, 1, 2]
    checked = load_criterion(f"{EXAMPLE}:relative_change", flat)
    evidence = Evidence(torch.full((6,), torch.inf), torch.zeros(6), None, None)
    with pytest.raises(UsageError, match="own_criterion.py:relative_change gave 6 of 6 weights a score"):
        checked.score(evidence)
