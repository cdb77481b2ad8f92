"""Programs whose reader leaves before they print, as `head` does: no traceback, and files are written all the same."""

import subprocess
import sys

from tests.made_up_runs import make_run
from tests.script_runs import ROOT, SMALL


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
    assert without_reader("-m", "utils.table", "--run", "mlp", "--dry_run", "--device", "cpu")[0] == 1


def test_scripts_end_quietly_and_their_runs_go_on(tmp_path):
    run = ("multiround_rpu.py", *SMALL, "--output_dir", tmp_path, "--quiet")
    assert without_reader(*run) == (1, "")
    subprocess.run([sys.executable, *map(str, run)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    (folder,) = tmp_path.iterdir()
    assert without_reader("-m", "utils.edge", "replay", folder) == (1, "")
