"""Programs whose reader leaves before they print, as `head` does: no traceback, and files are written all the same."""

import io
import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.made_up_runs import make_run
from tests.script_runs import ROOT, SMALL
from utils.system.streams import forgiving_streams


def without_reader(*words):
    """Return exit status and stderr of a process whose stdout nobody reads."""
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    errors = process.stderr.read()
    return process.wait(60), errors


def test_tables_are_written(tmp_path):
    for mode in ("dpu", "same_init"):
        make_run(tmp_path / "runs", mode, 1, [0.5, 0.6])
    out = tmp_path / "out"
    status, errors = without_reader("-m", "utils.table", tmp_path / "runs", "--rounds", "--out", out)
    assert status == 0 and "Broken" not in errors and "Traceback" not in errors
    assert {"table.txt", "accuracy.png", "bytes.png"} <= {path.name for path in out.iterdir()}


def test_lists_of_commands_end_quietly():
    status, errors = without_reader("-m", "utils.table", "--run", "mlp", "--dry_run", "--device", "cpu")
    assert status == 0 and "Broken" not in errors


def test_a_run_goes_on_without_its_reader(tmp_path):
    run = ("multiround_rpu.py", *SMALL, "--output_dir", tmp_path, "--quiet")
    assert without_reader(*run) == (0, "")
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "summary.json").read_text())["rounds"] == 3
    assert without_reader("-m", "utils.edge", "replay", folder) == (0, "")


@pytest.mark.parametrize("closed", ["", ">&-", "2>&-", ">&- 2>&-", "> /dev/full", "2> /dev/full"])
def test_closed_and_full_streams_cost_no_result(tmp_path, closed):
    flags = " ".join([*SMALL, "--output_dir", shlex.quote(str(tmp_path))])
    command = f"{shlex.quote(sys.executable)} multiround_rpu.py --max_rounds 1 --num_epochs 1 {flags} {closed}"
    if closed.endswith("full") and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    result = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.iterdir()
    assert (folder / "summary.json").exists() and "Traceback" not in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_table_that_a_full_disk_does_not_take_is_an_error(tmp_path):
    make_run(tmp_path, "dpu", 1, [0.5, 0.6])
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "utils.table", str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr == "python -m utils.table: error: standard output takes no more (No space left on device)\n"


def test_what_an_encoding_lacks_is_written_as_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    with forgiving_streams():
        print("0.9 \u00b1 0.1 \udcff")
    assert raw.getvalue() == b"0.9 \\xb1 0.1 \\udcff\n"


def test_a_full_disk_is_no_error_in_any_encoding(monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="ascii", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with forgiving_streams():
            print("0.9 \u00b1 0.1")
            print("and more")
        monkeypatch.undo()


def test_streams_come_back(capsys):
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), forgiving_streams():
        print("seen")
        raise KeyError
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr().out == "seen\n"
