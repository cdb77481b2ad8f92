"""Figures of tables and sweeps, what they show and how; and the committed form of runs that they can be drawn from."""

import json
import os
import subprocess
import sys

import pytest

from tests.made_up_runs import make_run
from tests.script_runs import NUM_WEIGHTS, ROOT
from utils.table.collate import Sweep, collate, make_row
from utils.table.output import export, save_plots, without_paths
from utils.table.pictures.curves import accuracy_figure, bytes_figure, collapsed
from utils.table.pictures.layers import LayerCounts, as_csv, read_layer_counts
from utils.table.pictures.shares import layers_figure, read_panels
from utils.table.pictures.style import style
from utils.table.pictures.sweeps import sweep_figure
from utils.table.program import main
from utils.table.records import NotUsable, find_run_folders, read_record
from utils.table.render import render_sweep


def group_in(folder):
    (group,), _ = collate([read_record(path) for path in find_run_folders([str(folder)])])
    return group


@pytest.fixture
def two_seeds(tmp_path):
    make_run(tmp_path, "dpu", 1, [0.50, 0.75], [0, 2000])
    make_run(tmp_path, "dpu", 2, [0.60, 0.85], [0, 4000])
    make_run(tmp_path, "same_init", 1, [0.75, 0.80], [5000, 6000])
    return tmp_path


def test_accuracy_curves_and_bands_by_hand(two_seeds):
    figure = accuracy_figure(group_in(two_seeds))
    (axes,) = figure.axes
    dpu, full = axes.lines
    # Seed 2 has no full updating, so it does not count in the table, nor here.
    assert dpu.get_xdata().tolist() == [1000, 2000] and dpu.get_ydata().tolist() == [50, 75]
    assert full.get_label() == "FU (n = 1)" and dpu.get_label() == "DPU, k = 0.005 (n = 1)"
    assert not axes.collections, "one seed has no band"
    make_run(two_seeds, "same_init", 2, [0.75, 0.80])
    (axes,) = accuracy_figure(group_in(two_seeds)).axes
    assert axes.lines[0].get_ydata() == pytest.approx([55, 80])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(80 + 50**0.5)  # sample standard deviation of 75 and 85
    assert "(%)" in axes.get_ylabel() and axes.get_xlabel()


@pytest.mark.parametrize("curves", [1, 4, 40])
@pytest.mark.parametrize("figure_of", [accuracy_figure, bytes_figure])
def test_a_legend_has_room_for_all_its_names(tmp_path, curves, figure_of):
    for number in range(curves):
        settings = {"byte_budget": 1000 * (number + 1), "updating_ratio": 1.0, "value_bits": "auto"}
        make_run(tmp_path, "dpu", 1, [0.50, 0.75], **settings)
    make_run(tmp_path, "same_init", 1, [0.75, 0.80])
    figure = figure_of(group_in(tmp_path))
    figure.canvas.draw()
    (legend,), whole = figure.legends, figure.bbox
    box = legend.get_window_extent()
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1 and whole.y0 <= box.y0 < box.y1 <= whole.y1
    assert len(legend.get_texts()) == curves + 1
    assert figure.get_figheight() < 1.2 * max(4.8, box.height / figure.dpi), "no higher than it must be"


def test_runs_of_other_epochs_are_told_apart(tmp_path):
    for epochs in (30, 60):
        make_run(tmp_path, "rpu", 1, [0.5], num_epochs=epochs)
        make_run(tmp_path, "same_init", 1, [0.75], num_epochs=epochs)
    group = group_in(tmp_path)
    labels = [line.get_label() for line in accuracy_figure(group).axes[0].lines]
    assert labels == ["RPU, k = 0.005, 30 epochs (n = 1)", "RPU, k = 0.005, 60 epochs (n = 1)",
                      "FU, 30 epochs (n = 1)", "FU, 60 epochs (n = 1)"]  # fmt: skip
    assert read_panels(group)[1] == {
        "sends the same share of every layer": ["RPU, k 0.005, 30 epochs", "RPU, k 0.005, 60 epochs"],
        "sends all weights of every layer": ["FU, k 1, 30 epochs", "FU, k 1, 60 epochs"],
    }


def test_bytes_add_up_from_the_first_message_on(two_seeds):
    (axes,) = bytes_figure(group_in(two_seeds)).axes
    dpu, full = axes.lines
    assert dpu.get_xdata() == pytest.approx([2.0]) and dpu.get_ydata() == pytest.approx([75])
    assert full.get_xdata() == pytest.approx([5.0, 11.0])
    assert axes.get_xscale() == "log" and "kB" in axes.get_xlabel()


def test_curves_differ_without_colour():
    looks = [(str(style(i)["linestyle"]), style(i)["marker"]) for i in range(40)]
    assert len(set(looks)) == 40
    assert len({look[0] for look in looks[:5]}) == len({look[1] for look in looks[:5]}) == 5


def test_sweep_figure_by_hand(tmp_path):
    runs = {seed: make_run(tmp_path, "dpu", seed, [0.5], [1000 * seed]) for seed in (1, 3)}
    full = {seed: make_run(tmp_path, "same_init", seed, [0.6]) for seed in (1, 3)}
    runs, full = ([read_record(path) for path in folders.values()] for folders in (runs, full))
    sweep = sweep_of(["lamda"], {("0.5",): (runs, full), ("0",): (runs[:1], full)})
    above, below = sweep_figure(sweep, "a title").axes
    assert above.lines[0].get_xdata().tolist() == [0, 0.5] and above.lines[0].get_ydata() == pytest.approx([-10, -10])
    assert below.lines[0].get_ydata() == pytest.approx([1, 2])
    assert "n = 1 or 2 seeds" in below.get_xlabel() and "logarithmic" not in below.get_xlabel()
    assert not bars_of(above), "nothing is drawn for one seed, nor where both seeds are the same"
    assert len(bars_of(below)) == 1, "of 1,000 and 3,000 bytes"
    sweep = sweep_of(["batch_norm"], {("on",): (runs, full), ("off",): (runs, full)})
    above, _ = sweep_figure(sweep, "a title").axes
    assert above.lines[0].get_linestyle() == "None", "there is nothing between words"


def sweep_of(flags, rows, full=()):
    """A sweep whose rows are runs and full updating, by values."""
    made = [make_row(" ".join(values), *runs) for values, runs in rows.items()]
    for row, values in zip(made, rows, strict=True):
        row.values = values
    beside = [make_row("FU", list(full), list(full))] if full else []
    for row in beside:
        row.values = ("",) * len(flags)
    return Sweep(tuple(flags), made, beside, [])


def bars_of(axes):
    bars = [bar for container in axes.containers for bar in container.lines[2][0].get_segments()]
    return [bar for bar in bars if len(bar) and bar[0][1] == bar[0][1]]  # NaN is not drawn


def test_a_grid_has_a_curve_a_value_and_accuracy_against_bytes(tmp_path):
    def run(ratio, size, **settings):
        return [read_record(make_run(tmp_path, "dpu", 1, [0.5], [size], updating_ratio=ratio, **settings))]

    full = [read_record(make_run(tmp_path, "same_init", 1, [0.6], [9000]))]
    sweep = sweep_of(["lamda", "updating_ratio"], {
        ("0", "0.001"): (run(0.001, 100, lamda=0.0), full), ("0", "0.1"): (run(0.1, 2000, lamda=0.0), full),
        ("1", "0.001"): (run(0.001, 110), full), ("2", "0.1"): (run(0.1, 2100), full),
    }, full)  # fmt: skip
    text = render_sweep(sweep, "text").splitlines()
    assert text[0].startswith("lamda x updating_ratio: DPU, mnist, mlp 512-512, ") and text[3].split()[:2] == list(sweep.flags)
    assert [line.split()[:2] for line in text[5:10]] == [
        ["0", "0.001"], ["0", "0.1"], ["1", "0.001"], ["2", "0.1"], ["FU", "60"],
    ]  # fmt: skip
    csv = [line.split(",") for line in render_sweep(sweep, "csv").splitlines()]
    assert [row[-2:] for row in csv] == [["lamda", "updating_ratio"], *(list(row.values) for row in sweep.rows), ["", ""]]
    figure = sweep_figure(sweep, "a title")
    above, below, against = figure.axes
    curves = [container.lines[0].get_xdata().tolist() for container in above.containers]
    assert curves == [[0.001, 0.1], [0.001], [0.1]], "a curve for each value of the flag that is not about bytes"
    assert below.get_xscale() == "log" and "updating_ratio, logarithmic" in below.get_xlabel()
    assert against.lines[0].get_xdata() == pytest.approx([0.1, 2]) and against.get_xscale() == "log"
    assert "kB, logarithmic" in against.get_xlabel()
    assert [text.get_text() for text in against.texts] == ["0.001", "0.1", "0.001", "0.1", "FU"]
    over = [text.xyann[1] > 0 for text in against.texts]
    assert over == [True, True, False, True, False], "curves that lie close do not write over one another"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    sweep = sweep_of(["mode", "lamda"], {("dpu", "0"): (run(0.1, 9), full), ("rpu", "-"): (run(0.1, 7), full)})
    above, below = sweep_figure(sweep, "a title").axes
    assert below.lines[-1].get_ydata() == pytest.approx([0.007, 0.007]), "a method without the flag is a line"


def test_what_collapses_is_cut_off_with_a_mark(tmp_path):
    # Distances to the best of each round: 0 of FU; 5, 2, 1; 60, 50, 40 of what collapses. The median is 22.5; or, of
    # curves that are all near each other, the least that is cut off is 10.
    assert collapsed([[90, 95, 97], [85, 93, 96], [30, 45, 57]]) == [[False] * 3] * 3
    near = [[90 - i, 95, 97] for i in range(5)]
    assert collapsed([*near, [30, 45, 96]]) == [[False] * 3] * 5 + [[True, True, False]]
    for number, curve in enumerate(near):
        make_run(tmp_path, "same_init" if not number else "dpu", 1, [a / 100 for a in curve], lr=0.005 + number)
    make_run(tmp_path, "pruning", 1, [0.3, 0.45, 0.96])
    for figure in (accuracy_figure(group_in(tmp_path)), bytes_figure(group_in(tmp_path))):
        (axes,) = figure.axes
        bottom, top = axes.get_ylim()
        assert 80 < bottom < 86 and 97 < top < 99
        (marks,) = [line for line in axes.lines if line.get_marker() == 7]
        assert set(marks.get_ydata()) == {bottom} and len(marks.get_xdata()) == 2
        assert any("▼ cut off: 30.0 to 45.0 %" in text.get_text() for text in figure.legends[0].get_texts())


def test_layers_are_read_from_messages_and_nothing_is_written(results):
    record = read_record(results["dpu"].folder)
    before = sorted(record.folder.rglob("*"))
    counts = read_layer_counts(record)
    assert counts.layers == ["fc1.weight", "fc2.weight"] and counts.weights == [64 * 24, 240]
    for row, updated in zip(record.rows, counts.updated, strict=True):
        assert sum(updated) == row["updated_weights"]
    assert sorted(record.folder.rglob("*")) == before
    full = read_layer_counts(read_record(results["same_init"].folder))
    assert sum(full.updated[0]) == NUM_WEIGHTS


def test_layers_that_cannot_be_read_are_named(tmp_path):
    record = read_record(make_run(tmp_path, "dpu", 1, [0.5, 0.6]))
    with pytest.raises(NotUsable, match="no layers.csv, nor all messages to make it from"):
        read_layer_counts(record)
    (record.folder / "updates").mkdir(exist_ok=True)
    (record.folder / "updates" / "round_000.dpu").write_bytes(b"DPU")
    with pytest.raises(NotUsable, match="no layers.csv, and its messages cannot be read"):
        read_layer_counts(record)
    (record.folder / "layers.csv").write_text(as_csv(LayerCounts(["fc1.weight"], [90], [[1]])))
    with pytest.raises(NotUsable, match="each layer in each of 2 rounds"):
        read_layer_counts(record)
    panels, without, problems = read_panels(group_in(tmp_path))
    assert not panels and len(problems) == 1 and without == {"its messages cannot be read, or do not fit": ["DPU"]}


def test_heat_map_by_hand(tmp_path):
    for seed, updated in ((1, [[9], [0]]), (2, [[27], [18]])):
        run = make_run(tmp_path, "dpu", seed, [0.5, 0.6])
        (run / "layers.csv").write_text(as_csv(LayerCounts(["fc1.weight"], [90], updated)))
    make_run(tmp_path, "same_init", 1, [0.5, 0.6])
    make_run(tmp_path, "same_init", 2, [0.5, 0.6])
    make_run(tmp_path, "rpu", 1, [0.5, 0.6])
    panels, without, problems = read_panels(group_in(tmp_path))
    figure = layers_figure(group_in(tmp_path), panels, without)
    assert figure.get_supxlabel() == (
        "No panel for RPU: sends the same share of every layer.\nNo panel for FU: sends all weights of every layer."
    )
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [pytest.approx([20, 10])]
    assert not problems
    paths, _ = save_plots(group_in(tmp_path), tmp_path, "-1")
    assert [path.name for path in paths] == ["accuracy-1.png", "bytes-1.png", "layers-1.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_sweep_of_one_seed_has_no_bars(tmp_path):
    run, full = (read_record(make_run(tmp_path, mode, 1, [0.5])) for mode in ("dpu", "same_init"))
    figure = sweep_figure(sweep_of(["lamda"], {("0",): ([run], [full]), ("1",): ([run], [])}), "a title")
    assert "(one seed)" in figure.axes[1].get_xlabel()
    assert not any(map(bars_of, figure.axes))


SETTINGS = [
    ({"MPLBACKEND": "module://not.here"}, "", True),
    ({"MPLBACKEND": "qtagg"}, "", True),
    ({}, "text.usetex: True\nsavefig.dpi: 3\nbackend: nonsense\n", True),
    ({}, None, False),  # a matplotlib that does not import
]


@pytest.mark.parametrize("variables, settings, drawn", SETTINGS)
def test_plots_depend_on_no_settings_and_cost_no_table(tmp_path, variables, settings, drawn):
    make_run(tmp_path / "runs", "dpu", 1, [0.5, 0.6])
    make_run(tmp_path / "runs", "same_init", 1, [0.5, 0.6])
    (tmp_path / "matplotlib").mkdir()
    if settings is None:
        (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('libfreetype.so.6: cannot open')")
        variables = {"PYTHONPATH": str(tmp_path)}
    else:
        (tmp_path / "matplotlib" / "matplotlibrc").write_text(settings)
        variables = {**variables, "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "utils.table", tmp_path / "runs", "--out", out]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True)
    assert result.returncode == 0 and "Traceback" not in result.stderr
    assert (out / "table.txt").read_text() == result.stdout
    assert (out / "accuracy.png").exists() == (out / "bytes.png").exists() == drawn
    assert ("accuracy.png cannot be drawn (libfreetype.so.6: cannot open)" in result.stderr) != drawn
    if drawn:
        size = [int.from_bytes((out / "accuracy.png").read_bytes()[start : start + 4]) for start in (16, 20)]
        assert size == [1350, 720], "9 x 4.8 inches of 150 dots"


def test_a_plot_that_fails_costs_no_other(two_seeds, monkeypatch):
    def fail(_):
        raise RuntimeError("no\nfonts")

    monkeypatch.setattr("utils.table.output.accuracy_figure", fail)
    paths, problems = save_plots(group_in(two_seeds), two_seeds)
    assert [path.name for path in paths] == ["bytes.png"]
    assert f"warning: {two_seeds / 'accuracy.png'} cannot be drawn (no fonts)" in problems


def test_names_are_no_formulas(tmp_path):
    make_run(tmp_path, "dpu", 1, [0.5], dataset="$\\frac{$ a$x$b", reinit_every="$\\nosuch{$")
    _, problems = save_plots(group_in(tmp_path), tmp_path)
    assert not [problem for problem in problems if "cannot be drawn" in problem]


def test_export_makes_the_same_table_without_weights_or_paths(results, tmp_path, capsys):
    folders = [str(result.folder) for result in results.values()]
    main([*folders, "--export", str(tmp_path / "committed")])
    text = capsys.readouterr().out
    main([str(tmp_path / "committed"), "--out", str(tmp_path / "out")])
    printed, err = capsys.readouterr()
    assert printed == text
    assert (tmp_path / "out" / "layers.png").exists() and "no shares" not in err
    for folder in (tmp_path / "committed").iterdir():
        assert {path.name for path in folder.iterdir()} == {"config.json", "rounds.csv", "summary.json", "layers.csv"}
        assert str(results["dpu"].folder.parent) not in (folder / "config.json").read_text()


def test_paths_go_from_settings_and_command():
    command = "multiround_dpu.py --dataset=/data/my.npz --dataset_dir /data --model_dir=/x --seed 3 --sign_key /k".split()
    settings = {"dataset": "/data/my.npz", "dataset_dir": "/data", "output_dir": "/x", "sign_key": "/k", "seed": 3}
    clean = without_paths({"settings": settings, "command": command, "platform": "p", "title": "t"})
    assert clean == {
        "settings": {"dataset": "my.npz", "seed": 3}, "title": "t",
        "command": ["multiround_dpu.py", "--dataset", "my.npz", "--seed", "3"],
    }  # fmt: skip
    assert "/" not in json.dumps(clean)


def test_export_loses_no_run_of_the_same_name_and_none_with_odd_words(tmp_path, capsys):
    for parent, mode in (("a", "dpu"), ("b", "rpu"), ("c", "gcpu")):
        run = make_run(tmp_path / parent, mode, 1, [0.5])
        (run / "layers.csv").write_text(as_csv(LayerCounts(["fc1.weight"], [90], [[1]])))
        run.rename(run.with_name("same-name" if parent != "c" else "odd"))
    config = json.loads((tmp_path / "c" / "odd" / "config.json").read_text())
    (tmp_path / "c" / "odd" / "config.json").write_text(json.dumps({**config, "command": ["x.py", "stray", "--seed", "1"]}))
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c"), "--export", str(tmp_path / "to")])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert f"not exported: {tmp_path}/b/same-name has the name of {tmp_path}/a/same-name" in err
    assert "not exported: odd: " in err
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["same-name"]


def test_export_of_a_run_without_messages_is_refused(tmp_path):
    with pytest.raises(NotUsable):
        export(read_record(make_run(tmp_path, "dpu", 1, [0.5])), tmp_path / "to")
    assert not (tmp_path / "to").exists()
