"""Run folders that somebody else made, damaged at random in hundreds of ways: at most that one run is lost.

No traceback, no wait without end, no escape sequence on the terminal, no other row changed, nothing written into them.
"""

import csv
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
from contextlib import contextmanager

import pytest

from tests.made_up_runs import make_run
from utils.table.pictures.layers import LayerCounts, as_csv, read_layer_counts
from utils.table.program import main
from utils.table.records import NotUsable, find_run_folders, read_record

NAMES = {"dpu": "DPU", "rpu": "RPU", "gcpu": "GCPU", "same_init": "FU"}
JUNK = [
    None, True, False, 0, 1, -1, 2, 0.5, 2**53, 2**63, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "x", "7",
    "\x1b[2J\x1b]0;title\x07", "a\nleft out: nothing", "=HYPERLINK(1)", "\udcff", "\u202e", "x" * 2_000_000, [], [[]], {},
    {"a": {"b": []}}, [1] * 100_000, ["\x1b[31m"], [None], [float("nan")],
]  # fmt: skip
CELLS = ["", "nan", "inf", "-1", "1e400", "1" * 4000, "9" * 5000, "x", "\0", "1_0", "0x1", "\x1b[1m", "=1+1", "0.5", "2", "1" * 2_000_000, '"']
FILES = ("config.json", "rounds.csv", "summary.json", "layers.csv")


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for seed in (77, 88):
        for number, mode in enumerate(("dpu", "rpu", "gcpu")):
            made = make_run(folder, mode, seed, [0.5 + seed / 1000, 0.6 + number / 10])
            updated = [[seed // 10], [number]]
            (made / "layers.csv").write_text(as_csv(LayerCounts(["fc1.weight"], [90], updated)))
        make_run(folder, "same_init", seed, [0.7, 0.8])
    return folder


def places(tree, path=()):
    """The paths of all values in a JSON tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def damage_json(path, rng):
    tree = json.loads(path.read_text())
    *above, last = rng.choice(list(places(tree)))
    parent = tree
    for key in above:
        parent = parent[key]
    choice = rng.random()
    if choice < 0.2:
        del parent[last]
    elif choice < 0.3 and isinstance(parent, dict):
        parent[rng.choice(["\x1b[7m", "new", ""])] = rng.choice(JUNK)
    else:
        parent[last] = rng.choice(JUNK)
    path.write_text(json.dumps(tree))


def damage_csv(path, rng):
    rows = list(csv.reader(io.StringIO(path.read_text())))
    choice = rng.random()
    if choice < 0.2:
        rng.choice(rows).pop()
    elif choice < 0.3:
        rows.remove(rng.choice(rows))
    elif choice < 0.4:
        rows.append(rng.choice(rows))
    else:
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")


def damage_bytes(path, rng):
    data = bytearray(path.read_bytes())
    choice = rng.randrange(5)
    if choice == 0:
        del data[rng.randrange(len(data)) :]
    elif choice == 1:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif choice == 2:
        data[:0] = b"\xff\xfe"
    elif choice == 3:
        data += rng.randbytes(100)
    else:
        data = b"[" * 100_000 + b"]" * 100_000
    path.write_bytes(data)


def replace_file(path, rng):
    path.unlink()
    choice = rng.randrange(7)
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.mkdir()
    elif choice == 2:
        path.symlink_to(rng.choice(["nowhere", path.name, "/dev/zero", "/dev/full", "..", "/"]))
    elif choice == 3:
        with open(path, "wb") as file:
            file.truncate(3 << 30)  # zeros that take no place
    elif choice == 4:
        path.write_text("")


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
