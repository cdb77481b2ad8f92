"""Run folders that somebody else made, damaged at random in hundreds of ways: at most that one run is lost.

No traceback, no wait without end, no escape sequence on the terminal, no other row changed, nothing written into them.
"""

import csv
import errno
import io
import os
import random
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest

from tests.damage import damage_bytes, damage_csv, damage_json, replace_file
from tests.made_up_runs import make_run
from utils.table.pictures.layers import LayerCounts, as_csv, read_layer_counts
from utils.table.program import main
from utils.table.records import NotUsable, find_run_folders, read_record

NAMES = {
    "dpu": "DPU", "rpu": "RPU", "gcpu": "GCPU, rewind_fixing_ratio 0.5, byte_budget 16000, value_bits 4",
    "same_init": "FU, value_bits 4",
}  # fmt: skip
BUDGET = {"byte_budget": 16_000, "value_bits": 4, "rewind_fixing_ratio": 0.5}
FILES = ("config.json", "rounds.csv", "summary.json", "layers.csv")


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in (77, 88):
        for number, mode in enumerate(("dpu", "rpu", "gcpu")):
            more = BUDGET if mode == "gcpu" else {}
            made = make_run(folder, mode, seed, [0.5 + seed / 1000, 0.6 + number / 10], **more)
            updated = [[seed // 10], [number]]
            (made / "layers.csv").write_text(as_csv(LayerCounts(["fc1.weight"], [90], updated)))
        make_run(folder, "same_init", seed, [0.7, 0.8], value_bits=4)
    return folder


def rename_folder(path, rng):
    names = ["\x1b]0;x\x07", "a\nleft out: all", "=1+1", "a|b<i>", "n" * 250, "$\\frac{", os.fsdecode(b"\xff\xfe")]
    path.parent.rename(path.parent.with_name(rng.choice(names)))


DAMAGE = (damage_json, damage_json, damage_json, damage_csv, damage_csv, damage_bytes, replace_file, rename_folder)


def damage(run, rng):
    how = rng.choice(DAMAGE)
    file = rng.choice({damage_json: FILES[::2], damage_csv: FILES[1::2]}.get(how, FILES))
    if (run / file).exists():
        how(run / file, rng)


def rows_of(text):
    return {row["method"]: row for row in csv.DictReader(io.StringIO(text))}


@contextmanager
def limited(seconds):
    """A hang becomes an error."""

    def too_long(*_):
        raise TimeoutError(f"still at work after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def within(seconds, *argv):
    with limited(seconds):
        main([str(word) for word in argv])


def snapshot(folder):
    return sorted((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("seed", range(12))
def test_damage_costs_the_damaged_run_at_most(runs, tmp_path, capsys, seed):
    rng = random.Random(seed)
    main([str(runs), "--format", "csv"])
    expected = rows_of(capsys.readouterr().out)
    assert set(expected) == set(NAMES.values())
    for _ in range(40):
        work = tmp_path / "work"
        shutil.copytree(runs, work)
        victim = rng.choice(sorted(work.iterdir()))
        mode = victim.name.rsplit("-", 2)[0]
        damage(victim, rng)
        before = snapshot(work)
        within(20, work, "--format", "csv")
        found = rows_of(capsys.readouterr().out)
        for method in set(NAMES.values()) - {NAMES[mode]}:
            if mode == "same_init":  # its pairs are lost with it
                assert found[method]["served_mean"]
            else:
                assert found[method] == expected[method]
        within(20, work, "--rounds")
        out, err = capsys.readouterr()
        assert (out + err).replace("\n", "").isprintable()
        assert not any(line.startswith("left out: all") for line in out.splitlines())
        assert snapshot(work) == before
        shutil.rmtree(work)


def test_folders_that_cannot_be_listed_are_named(runs, tmp_path, capsys, monkeypatch):
    (runs / "locked").mkdir()
    main([str(runs)])
    expected = capsys.readouterr().out
    scandir = os.scandir

    def refuse(path):
        if os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    main([str(runs)])
    out = capsys.readouterr().out
    assert out.startswith(expected.rstrip("\n"))
    note = f"left out: {runs}/locked: this folder cannot be listed (Permission denied)"
    assert note in out.replace("\n  ", " ")
    with pytest.raises(SystemExit):
        main([str(runs / "locked")])
    assert "locked: cannot be listed (Permission denied)" in capsys.readouterr().err


def test_links_are_followed_to_run_folders_alone(runs, tmp_path):
    first, *others = sorted(runs.iterdir())
    places = tmp_path / "places"
    places.mkdir()
    (places / "linked").symlink_to(first)
    (places / "twice").symlink_to(first)
    (places / "elsewhere").symlink_to("/")
    (places / "up").symlink_to("..")
    (places / "itself").symlink_to("itself")
    (places / "deep").mkdir()
    (places / "deep" / "up").symlink_to(places)
    assert [path.resolve() for path in find_run_folders([str(places)])] == [first]
    assert len(find_run_folders([str(places), str(runs)])) == 1 + len(others)
    deep = places
    for _ in range(1200):  # more than Python's stack has frames
        deep = deep / "d"
        deep.mkdir()
    assert len(find_run_folders([str(places)])) == 1
    subprocess.run(["rm", "-rf", places], check=True)  # which Python's own way could not


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_damage_ends_no_plot_and_no_export(runs, tmp_path, capsys, seed):
    rng = random.Random(1000 + seed)
    for _ in range(6):
        work = tmp_path / "work"
        shutil.copytree(runs, work)
        for victim in rng.sample(sorted(work.iterdir()), 2):
            damage(victim, rng)
        before = snapshot(work)
        try:
            within(60, work, "--out", tmp_path / "out", "--export", tmp_path / "export")
        except SystemExit as stop:  # what cannot be exported is named
            assert stop.code == 1
        assert {"table.txt", "accuracy.png", "bytes.png"} <= {path.name.replace("-1", "") for path in (tmp_path / "out").iterdir()}
        assert snapshot(work) == before
        out, err = capsys.readouterr()
        assert (out + err).replace("\n", "").isprintable()
        within(20, tmp_path / "export")
        for folder in (work, tmp_path / "out", tmp_path / "export"):
            shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpu", "sparse", "rpu"])
def test_damaged_messages_cost_their_run_the_counts_of_layers(results, tmp_path, name):
    rng = random.Random(name)
    complete = read_layer_counts(read_record(results[name].folder))
    refused = 0
    for _ in range(60):
        work = tmp_path / "work"
        shutil.copytree(results[name].folder, work)
        messages = sorted((work / "updates").iterdir())
        file = rng.choice([work / "config.json", work / "initial.safetensors", *messages])
        how = damage_json if file.name == "config.json" else rng.choice([damage_bytes, replace_file])
        how(file, rng)
        try:
            with limited(20):
                counts = read_layer_counts(read_record(work))
        except NotUsable as reason:
            refused += 1
            assert str(reason).isprintable()
        else:
            assert counts.updated == complete.updated
        shutil.rmtree(work)
    assert refused > 20
