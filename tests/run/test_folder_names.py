"""Run folders keep their names: a command of yesterday finds the run that it began yesterday.

The names below were recorded at commit 19c03a4, before there were other criteria and re-initializations.
"""

import pytest

from tests.script_runs import RUNS, SMALL

TINY = "--dataset digits --device cpu --hidden_sizes 24 --updating_ratio 0.1"


def name_of(script, flags, monkeypatch) -> str:
    """The name of the folder that a command would work in; nothing is run and nothing written."""

    class Found(Exception):
        pass

    def claimed(folder, overwrite):
        raise Found(folder.path.name)

    monkeypatch.setattr("utils.run.folder.RunFolder.claimed", claimed)
    with pytest.raises(Found) as found:
        script.main(flags)
    return str(found.value)


RECORDED = {
    "dpu": "digits-mlp-dpu-k0.1-seed3-b73051f2",
    "gcpu": "digits-mlp-gcpu-k0.1-seed3-7673429c",
    "lcpu": "digits-mlp-lcpu-k0.1-seed3-0a4d87c9",
    "rpu": "digits-mlp-rpu-k0.5-seed3-2c841a1f",
    "rpu_reinit": "digits-mlp-rpu-k0.5-seed3-ddac6839",
    "same_init": "digits-mlp-same_init-k1-seed3-72c60419",
    "last_round": "digits-mlp-last_round-k1-seed3-e7c88e40",
    "diff_init": "digits-mlp-diff_init-k1-seed3-c5157c23",
    "pruning": "digits-mlp-pruning-k0.2-seed3-e09bd2fd",
}
RECORDED_PARTIAL = [
    ("dpu", "", "digits-mlp-dpu-k0.1-seed0-46d8ab32"),
    ("dpu", "--without_reinit", "digits-mlp-dpu-k0.1-seed0-3876f2cd"),
    ("dpu", "--mode gcpu", "digits-mlp-gcpu-k0.1-seed0-d76b5b46"),
    ("dpu", "--mode gcpu --without_reinit", "digits-mlp-gcpu-k0.1-seed0-4c58bd6f"),
    ("dpu", "--mode lcpu", "digits-mlp-lcpu-k0.1-seed0-93476c6e"),
    ("dpu", "--mode lcpu --without_reinit --value_bits 6 --seed 7", "digits-mlp-lcpu-k0.1-seed7-80ec134b"),
    ("rpu", "", "digits-mlp-rpu-k0.1-seed0-63c95cf5"),
    ("rpu", "--reinit", "digits-mlp-rpu-k0.1-seed0-80719e37"),
    ("rpu", "--reinit --value_bits 4 --batch_norm", "digits-mlp-rpu-k0.1-seed0-61aeb8c8"),
]


@pytest.mark.parametrize("name", RECORDED)
def test_names_of_the_scripts_runs(name, monkeypatch):
    script, flags = RUNS[name]
    assert name_of(script, [*flags.split(), *SMALL, "--device", "cpu"], monkeypatch) == RECORDED[name]


@pytest.mark.parametrize(("script", "flags", "name"), RECORDED_PARTIAL, ids=[" ".join(row[:2]) for row in RECORDED_PARTIAL])
def test_names_of_partial_updating(script, flags, name, monkeypatch):
    assert name_of(RUNS[script][0], [*TINY.split(), *flags.split()], monkeypatch) == name


@pytest.mark.parametrize("script", ["dpu", "rpu", "fu"])
def test_deployment_and_rewinding(script, monkeypatch):
    """What says the same as before has the folder of before; what is new has one of its own."""
    module, tiny = (RUNS["same_init"][0], TINY.replace("--updating_ratio 0.1", "")) if script == "fu" else (RUNS[script][0], TINY)

    def name(flags=""):
        return name_of(module, [*tiny.split(), *flags.split()], monkeypatch)

    assert name() == name("--deploy_sparsity 0") == name("--deploy_sparsity 0.0")
    new = ["", "--deploy_sparsity 0.5", "--deploy_sparsity 0.25"]
    if script != "fu":
        assert name() == name("--deploy partial") == name("--deploy partial --deploy_sparsity 0")
        assert name("--deploy full --deploy_sparsity 0.5") == name("--deploy_sparsity 0.5")
        new.append("--deploy full")
    if script == "dpu":
        assert name() == name("--rewind_fixing_ratio 1")
        new.append("--rewind_fixing_ratio 0.2")
    assert len({name(flags) for flags in new}) == len(new)
