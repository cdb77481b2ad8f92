"""Bad input: every script refuses it in one line, with exit status 2, before any work and without a trace.

Most cases call a script's `main`; the last ones start real processes, to see what a shell sees.
"""

import contextlib
import errno
import io
import math
import os
import shlex
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import multiround_dpu
import multiround_fu
import multiround_rpu
from tests.made_up_data import made_up_arrays, write_npz
from utils.run.options import build_parser, parse

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"dpu": multiround_dpu, "rpu": multiround_rpu, "fu": multiround_fu}
SMALL = "--dataset digits --device cpu --num_epochs 1 --max_rounds 1 --quiet"  # for what is not refused, too


def files_in(folder):
    """Everything in a folder: relative path -> bytes, or where a link leads, or None for a folder."""

    def content(path):
        return os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


@pytest.fixture
def machine_settings():
    """Put back what a script sets for its whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture
def refusal(tmp_path, monkeypatch, capfd, machine_settings):
    """Runs a script in `tmp_path` on flags that it must refuse, and returns the line that it prints."""
    monkeypatch.chdir(tmp_path)

    def run(script, flags, leaves=()):
        before = files_in(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr("utils.run.experiment.run_rounds", lambda *_, **__: pytest.fail("the work has begun"))
            with pytest.raises(SystemExit) as stop:
                SCRIPTS[script].main(shlex.split(f"{SMALL} {flags}"))
        out, err = capfd.readouterr()
        assert_refused(script, stop.value.code, out, err)
        assert {path: content for path, content in files_in(tmp_path).items() if path not in leaves} == before
        return err

    return run


def assert_refused(script, status, out, err):
    assert (status, out) == (2, "")
    assert err.startswith(f"multiround_{script}.py: error: ")
    assert err.endswith("\n") and len(err.splitlines()) == 1, err
    assert "Traceback" not in err


# Flags: the script, the flags, and what the line must say.

RATIO = "is not a number above 0 and at most 1"
SHARE = "is not a number from 0 to 1"
WHOLE_NUMBER = "is not a whole number from 1 to 2147483647"
UNKNOWN = "unrecognized arguments: --"
NOT_THERE = "which this machine does not have: use auto, cpu"
ONE_SAMPLE = "--train_batch_size is 1: BatchNorm needs batches of 2 or more"
FLAGS = [
    *[
        ("dpu", f"--updating_ratio {x}", f"--updating_ratio: '{x}' {RATIO}")
        for x in ("0", "-1", "1.5", "nan", "inf", "abc")
    ],
    ("dpu", "--updating_ratio=-inf", f"--updating_ratio: '-inf' {RATIO}"),
    ("dpu", "--updating_ratio 1e-400", f"--updating_ratio: '1e-400' {RATIO}"),
    ("dpu", "--updating_ratio", "--updating_ratio: expected one argument"),
    ("rpu", "--updating_ratio 0", f"--updating_ratio: '0' {RATIO}"),
    ("fu", "--mode pruning --pruning_ratio 0", f"--pruning_ratio: '0' {RATIO}"),
    ("dpu", "--updating_ratio 1e-7", "--updating_ratio is 1e-07, which selects none of 300,032 weights"),
    ("dpu", "--updating_ratio 1e-300", "--updating_ratio is 1e-300, which selects none of 300,032 weights"),
    ("dpu", "--mode gcpu --updating_ratio 3e-6", "--updating_ratio is 3e-06, which selects none"),
    # rpu rounds layer by layer: the layers have 512, 64 and 80 weights, and none of them gets half of one
    ("rpu", "--hidden_sizes 8 8 --updating_ratio 9e-4", "--updating_ratio is 0.0009, which selects none"),
    ("rpu", "--hidden_sizes --updating_ratio 7e-4", "--updating_ratio is 0.0007, which selects none of 640"),
    ("fu", "--mode pruning --pruning_ratio 1e-7", "--pruning_ratio is 1e-07, which selects none of 300,032"),
    *[("dpu", f"--lamda {x}", f"--lamda: '{x}' {SHARE}") for x in "-0.1 1.1 nan inf half".split()],
    ("dpu", "--mode gcpu --lamda 0.5", "--lamda is for --mode dpu; gcpu ignores it: leave it out"),
    ("dpu", "--mode lcpu --lamda 0", "--lamda is for --mode dpu; lcpu ignores it: leave it out"),
    ("rpu", "--lamda 0.5", f"{UNKNOWN}lamda 0.5; multiround_rpu.py -h lists what it takes"),
    ("dpu", "--byte_budget 5G", "--byte_budget: '5G' is not a number of bytes, such as 16000, 16k or 16KiB"),
    ("dpu", "--byte_budget 9k --updating_ratio 0.1", "--byte_budget and --updating_ratio both say how much is sent: leave one out"),
    ("fu", "--byte_budget 9k", "--byte_budget is for partial updates, not --mode same_init: leave it out"),
    ("dpu", "--byte_budget 9k --deploy full", "--byte_budget is for every message, a deployment's, too: leave it out, or"),
    ("dpu", "--output_dir ''", "--output_dir/--model_dir: '' names nothing"),
    ("dpu", "--dataset MNIST", "MNIST: no such data set or folder (did you mean mnist?); give mnist, cifar10"),
    ("dpu", "--dataset ''", "--dataset: '' names nothing"),
    ("dpu", "--num_workers 4", "--num_workers is for streamed images"),
    ("rpu", "--hidden_sizes 16 --byte_budget 188", "biases alone take up to 189 bytes with --value_bits 32: give more than that"),
    ("rpu", "--hidden_sizes 16 --byte_budget 189", "--byte_budget is 189, in which no weight fits: give more"),
    ("dpu", "--value_bits x", "--value_bits: invalid choice: 'x' (choose from 32, 16, 8, 6, 5, 4"),
    ("dpu", "--value_bits auto", "--value_bits is auto, which is for --byte_budget and methods of two steps: give a number"),
    ("rpu", "--value_bits auto --byte_budget 9k", "--value_bits is auto, which is for --byte_budget and methods of two"),
    ("dpu", "--byte_budget 100", "--byte_budget is 100, but biases alone take up to "),
    ("dpu", "--updating_rate 0.1 --datset=x", f"{UNKNOWN}updating_rate 0.1 --datset=x; did you mean --updating_ratio, --dataset?"),
    ("fu", "--lamda 0.5", f"{UNKNOWN}lamda 0.5; multiround_fu.py -h lists what it takes"),
    ("fu", "--updating_ratio 0.1", f"{UNKNOWN}updating_ratio 0.1"),
    ("dpu", "--pruning_ratio 0.1", f"{UNKNOWN}pruning_ratio 0.1"),
    *[
        ("fu", f"--mode {mode} --pruning_ratio 0.1", f"--pruning_ratio is for --mode pruning and lamp, not {mode}")
        for mode in ("same_init", "last_round", "diff_init")
    ],
    ("dpu", "--reinit", f"{UNKNOWN}reinit"),
    ("fu", "--reinit_strategy never", f"{UNKNOWN}reinit_strategy never"),
    ("dpu", "--reinit_strategy sometimes", "--reinit_strategy: invalid choice: 'sometimes' (choose from"),
    *[
        ("dpu", f"--without_reinit --reinit_strategy {name}", f"--without_reinit means --reinit_strategy never, but --reinit_strategy is {name}: leave one out")
        for name in ("doubling", "every", "shrink_perturb")
    ],
    *[
        ("rpu", f"--reinit --reinit_strategy {name}", f"--reinit means --reinit_strategy doubling, but --reinit_strategy is {name}: leave one out")
        for name in ("never", "every", "shrink_perturb")
    ],
    ("dpu", "--reinit_every 2", "--reinit_every is for --reinit_strategy every, not doubling: leave it out"),
    ("dpu", "--without_reinit --reinit_every 2", "--reinit_every is for --reinit_strategy every, not never"),
    ("rpu", "--shrink 0.4", "--shrink is for --reinit_strategy shrink_perturb, not never: leave it out"),
    ("dpu", "--reinit_strategy every --perturb 0", "--perturb is for --reinit_strategy shrink_perturb, not every"),
    ("dpu", "--reinit_strategy shrink_perturb --reinit_every 2", "--reinit_every is for --reinit_strategy every, not shrink_perturb"),
    ("dpu", "--reinit_strategy every --reinit_every 0", f"--reinit_every: '0' {WHOLE_NUMBER}"),
    *[
        ("rpu", f"--reinit_strategy shrink_perturb --{flag} {x}", f"--{flag}: '{x}' {SHARE}")
        for flag in ("shrink", "perturb")
        for x in ("1.1", "nan", "much")
    ],
    ("dpu", "--reinit_strategy shrink_perturb --shrink 0 --perturb 1e-50", "which leaves a network of zeros: raise one"),
    *[
        ("dpu", f"--deploy_sparsity {x}", f"--deploy_sparsity: '{x}' is not a number of at least 0 and below 1")
        for x in ("1", "-0.1", "nan", "half")
    ],
    *[("dpu", f"--rewind_fixing_ratio {x}", f"--rewind_fixing_ratio: '{x}' {RATIO}") for x in ("0", "1.1", "nan")],
    ("rpu", "--rewind_fixing_ratio 0.2", f"{UNKNOWN}rewind_fixing_ratio 0.2"),
    ("fu", "--rewind_fixing_ratio 0.2", "--rewind_fixing_ratio is not for --mode same_init: leave it out"),
    ("dpu", "--total_epochs 6 --num_epochs 3", "--total_epochs and --num_epochs both say how long a round trains"),
    ("dpu", "--deploy_epochs 6", "--deploy_epochs is for --deploy full or --deploy_sparsity: leave it out"),
    ("dpu", "--width 0.5", "--width is for convolutional networks, not mlp: leave it out"),
    ("fu", "--deploy_sparsity 0.5 --deploy_epochs 1", "--deploy_epochs is 1, but a sparse deployment has 2 steps: give at least that"),
    ("fu", "--deploy full", f"{UNKNOWN}deploy full"),
    ("rpu", "--deploy whole", "--deploy: invalid choice: 'whole' (choose from"),
    ("rpu", "--deploy partial --deploy_sparsity 0.5", "--deploy is partial, but --deploy_sparsity is 0.5, and a sparse network is trained and sent as a whole: leave one out"),
    ("fu", "--mode lamp --deploy_sparsity 0.5", "--deploy_sparsity is not for --mode lamp, which chooses its own"),
    ("fu", "--mode pruning --deploy_sparsity 0.5", "--deploy_sparsity is not for --mode pruning, which chooses its own nonzero weights in every round: leave it out"),
    # 1 of 300,032 weights stays after int(0.999999 * 300032) = 300031 are pruned; layers of 512 and 80 keep at most 3 of 592
    ("dpu", "--deploy_sparsity 0.999999", "--updating_ratio is 0.005, which selects none of 1 deployed weights: give more"),
    ("rpu", "--hidden_sizes 8 --deploy_sparsity 0.995 --updating_ratio 0.1", "--updating_ratio is 0.1, which selects none of 3 deployed weights"),
    *[
        ("dpu", f"--mode {mode} --lamda 0.5", f"--lamda is for --mode dpu; {mode} ignores it: leave it out")
        for mode in ("magnitude", "fisher", "movement", "snip")
    ],
    ("fu", "--mode magnitude", "--mode: 'magnitude' is a mode of multiround_dpu.py"),
    ("rpu", "--without_reinit", f"{UNKNOWN}without_reinit"),
    ("dpu", "--updating", f"{UNKNOWN}updating"),  # no abbreviations
    ("dpu", "--no_such_flag 'two\nlines'", f"{UNKNOWN}no_such_flag two lines"),
    ("dpu", "stray", "unrecognized arguments: stray"),
    ("dpu", "--mode=--", "--mode: '--' is not a value"),
    ("dpu", "--lr==--", "--lr: '=--' is not a number above 0"),
    ("dpu", "--mode rpu", "--mode: 'rpu' is a mode of multiround_rpu.py"),
    ("rpu", "--mode dpu", "--mode: 'dpu' is a mode of multiround_dpu.py"),
    ("fu", "--mode pruned", "--mode: invalid choice: 'pruned' (choose from"),
    ("dpu", "--model resnet", "--model: invalid choice: 'resnet' (choose from"),
    ("dpu", "--precision fp16", "--precision: invalid choice: 'fp16' (choose from"),
    ("dpu", "--augment maybe", "--augment: invalid choice: 'maybe' (choose from"),
    # the model
    ("dpu", "--hidden_sizes 0", "--hidden_sizes: '0' is not a whole number from 1 to"),
    ("dpu", "--hidden_sizes 64 -1", "--hidden_sizes: '-1' is not a whole number from 1 to"),
    ("dpu", "--hidden_sizes 1048577", "--hidden_sizes: '1048577' is not a whole number from 1 to 1048576"),
    ("dpu", "--model vgg --hidden_sizes 64", "--hidden_sizes is for --model mlp, not vgg: leave it out"),
    ("dpu", "--model vgg --hidden_sizes", "--hidden_sizes is for --model mlp, not vgg: leave it out"),
    ("fu", "--model resnet56 --batch_norm", "--batch_norm is for --model mlp, not resnet56: leave it out"),
    ("dpu", "--model mobilenetv1", "--model: model mobilenetv1: input 1x8x8 is too small"),
    ("dpu", "--batch_norm --train_batch_size 1", ONE_SAMPLE),
    ("rpu", "--model vgg --train_batch_size 1", ONE_SAMPLE),
    ("dpu", "--batch_norm --dataset_size_init 1", "--dataset_size_init is 1: BatchNorm needs at least 2"),
    # sizes
    *[
        (script, f"--{flag} {x}", f"--{flag}: '{x}' {WHOLE_NUMBER}")
        for flag in "dataset_size_init dataset_size_subseq val_dataset_size num_epochs max_rounds".split()
        for script, x in (("dpu", "0"), ("rpu", "-1"), ("fu", "1.5"))
    ],
    ("dpu", "--dataset_size_init 1199", "--dataset_size_init is 1199, but there are 1198 training"),
    ("dpu", "--dataset_size_subseq 2000", "--dataset_size_subseq is 2000, but there are 1198 training"),
    ("dpu", "--val_dataset_size 599", "--val_dataset_size is 599, which leaves none of the 599 test images"),
    ("fu", "--max_rounds 7", "--max_rounds is 7, but all the data is there after 6: give at most that"),
    ("fu", "--dataset_size_init 1198 --max_rounds 2", "--max_rounds is 2, but all the data is there after 1: give at most that"),
    *[
        ("dpu", f"--{flag}_batch_size {x}", f"--{flag}_batch_size: '{x}' {WHOLE_NUMBER}")
        for flag in ("train", "val", "test")
        for x in ("0", "9" * 25)
    ],
    # the rest
    ("dpu", "--lr 0", "--lr: '0' is not a number above 0 and at most 1000000"),
    ("dpu", "--lr 1e39", "--lr: '1e39' is not a number above 0"),  # more than a float32 holds
    ("dpu", "--seed -1", "--seed: '-1' is not a whole number from 0 to 9223372036854775807"),
    ("dpu", f"--seed {2**63}", f"--seed: '{2**63}' is not a whole number from 0 to 9223372036854775807"),
    ("dpu", "--threads 0", "--threads: '0' is not a whole number from 1 to 1024"),
    ("dpu", f"--threads {10**12}", "--threads: '1000000000000' is not a whole number from 1 to 1024"),
    ("dpu", "--num_workers -1", "--num_workers: '-1' is not a whole number from 0 to 1024"),
    ("dpu", "--checkpoint_interval inf", "--checkpoint_interval: 'inf' is not a number of at least 0"),
    *[("dpu", f"--device '{x}'", f"--device is '{x}', {NOT_THERE}") for x in ("cuda:99", "nonsense", "")],
    ("dpu", "--precision tf32", "--precision is tf32, which needs CUDA, but the device is cpu: use fp32"),
    ("dpu", "--dataset cifar11", "cifar11: no such data set or folder (did you mean cifar10?); give mnist"),
    ("dpu", "--dataset 'two\nlines'", r"two\nlines: no such data set or folder"),
    ("dpu", f"--dataset {'a' * 300}", "aaa: no such data set or folder"),
]


@pytest.mark.parametrize("script, flags, needed", FLAGS, ids=[f"{row[0]} {row[1]:.60}" for row in FLAGS])
def test_flags(refusal, script, flags, needed):
    assert needed in refusal(script, flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_no_cuda(refusal, name):
    assert f"--device is '{name}', {NOT_THERE}" in refusal("dpu", f"--device {name}")


def test_network_too_large_for_the_memory(refusal, monkeypatch):
    def build_model(*_, **__):  # made up: on some machines asking for too much memory ends the process
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nframe #0")

    monkeypatch.setattr("utils.run.plan.build_model", build_model)
    line = refusal("dpu", "--hidden_sizes 1000000 1000000")
    assert "--model: mlp is too large for this machine ([enforce fail] DefaultCPUAllocator" in line


def test_fewer_cuda_devices_than_asked_for(refusal, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    line = refusal("dpu", "--device cuda:2")
    assert f"--device is 'cuda:2', {NOT_THERE}, cuda, " in line and line.endswith("cuda:0, cuda:1\n")


# Data: files and folders.

ARRAYS = made_up_arrays()
IMAGES, LABELS = ARRAYS["train_images"], ARRAYS["train_labels"]


@pytest.mark.parametrize("changes, flags, needed", [
    (dict(test_labels=None), "", "made_up.npz: lacks test_labels"),
    (dict(train_images=IMAGES[..., None]), "", "made_up.npz: train_images have shape (6, 5, 4, 3, 1)"),
    (dict(train_images=IMAGES.astype(float)), "", "made_up.npz: train_images are float64"),
    (dict(train_labels=LABELS.astype(float)), "", "made_up.npz: train_labels are float64"),
    (dict(train_labels=LABELS[:5]), "", "made_up.npz: train_labels have shape (5,) for 6 images"),
    (dict(train_images=IMAGES[:0], train_labels=LABELS[:0]), "", "made_up.npz: train_images are empty"),
    (dict(test_images=IMAGES[:4, 1:]), "", "made_up.npz: test_images are (3, 4, 4) (C,H,W), but train"),
    (dict(test_labels=np.array([0, 1, 3, 2])), "", "made_up.npz: test_labels holds 3, outside the 3 classes"),
    (dict(test_labels=np.array([0, 1, -1, 2])), "", "made_up.npz: test_labels hold -1"),
    (dict(train_labels=LABELS * 0, test_labels=LABELS[:4] * 0), "", "made_up.npz: train_labels hold one"),
    (dict(test_images=IMAGES[:1], test_labels=LABELS[:1]), "", "made_up.npz: test_images hold one image"),
    ({}, "--val_dataset_size 4", "--val_dataset_size is 4, which leaves none of the 4 test images"),
    (dict(val_images=IMAGES[:2], val_labels=LABELS[:2]), "--val_dataset_size 1",
     "--val_dataset_size is 1, but made_up has validation images: leave it out"),
    (dict(val_images=IMAGES[:2]), "", "made_up.npz: lacks val_labels"),
    ({}, "--model vgg", "--model: model vgg: input 3x5x4 is too small"),
    ({}, "--model mobilenetv1", "--model: model mobilenetv1: input 3x5x4 is too small"),
    ({}, "--dataset_size_init 7", "--dataset_size_init is 7, but there are 6 training images"),
])  # fmt: skip
def test_npz_file(refusal, tmp_path, changes, flags, needed):
    write_npz(tmp_path, **changes)
    assert needed in refusal("dpu", f"--dataset made_up.npz {flags}")


@pytest.mark.parametrize("cut, needed", [
    (lambda content: b"", "made_up.npz: not an .npz archive (empty, truncated or another format)"),
    (lambda content: content[:-100], "made_up.npz: not an .npz archive"),
    (lambda content: content[:200] + content[300:], "made_up.npz: "),
    (lambda content: b"<html></html>", "made_up.npz: not an .npz archive"),
])  # fmt: skip
def test_damaged_npz_file(refusal, tmp_path, cut, needed):
    path = write_npz(tmp_path)
    path.write_bytes(cut(path.read_bytes()))
    assert needed in refusal("dpu", "--dataset made_up.npz")
    path.rename(tmp_path / "mnist.npz")
    assert needed.replace("made_up", "mnist") in refusal("fu", "--dataset mnist --dataset_dir .")


def test_missing_file_and_folder(refusal):
    assert "absent.npz: no such file; check the path" in refusal("dpu", "--dataset absent.npz")
    assert "absent: no such data set or folder; give " in refusal("rpu", "--dataset absent")
    assert "no/such/folder/: no such data set or folder; give " in refusal("fu", "--dataset no/such/folder/")


def write_images(root):
    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (root / place).mkdir(parents=True)
        for index in range(3):
            Image.new("L", (4, 5), 50 * number + index).save(root / place / f"{index}.png")


def test_folder_of_images(refusal, tmp_path):
    root = tmp_path / "pets"
    root.mkdir()
    assert "pets: has no train/ with a test/ or val/ beside it" in refusal("dpu", "--dataset pets")
    (root / "train").mkdir()
    (root / "test").mkdir()
    assert "pets/train: cannot be listed" in refusal("dpu", "--dataset pets")
    write_images(root)
    (root / "test/dog/2.png").write_bytes((root / "test/dog/2.png").read_bytes()[:50])
    assert "pets/test/dog/2.png: " in refusal("dpu", "--dataset pets")
    (root / "test/dog/2.png").write_bytes(b"no image")
    assert "pets/test/dog/2.png: not a readable image" in refusal("dpu", "--dataset pets")


def test_one_class_folder(refusal, tmp_path):
    write_images(tmp_path / "pets")
    for split in ("train", "test"):
        for file in (tmp_path / "pets" / split / "dog").iterdir():
            file.unlink()
        (tmp_path / "pets" / split / "dog").rmdir()
    assert "pets: train_labels hold one class" in refusal("dpu", "--dataset pets")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
@pytest.mark.parametrize("there", [True, False])
def test_no_network_for_a_download(refusal, tmp_path, monkeypatch, name, there):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    if there:
        (tmp_path / "data" / "sets").mkdir(parents=True)
    line = refusal("dpu", f"--dataset {name} --dataset_dir data/sets")
    assert f"{name}: cannot be read or downloaded (" in line and "Network is unreachable" in line
    assert f"put {name}.npz in data/sets or the published files in data/sets/" in line


def test_network_that_answers_with_something_else(refusal, monkeypatch):
    """As a hotel's log-in page does: no progress bar is left before the one line."""

    class Page(io.BytesIO):
        url = length = None

    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Page(b"<html></html>"))
    leaves = ["data", "data/cifar-10-python.tar.gz"]  # torchvision checks it and gets it again next time
    line = refusal("dpu", "--dataset cifar10 --dataset_dir data", leaves)
    assert "cifar10: cannot be read or downloaded (" in line


# Folders.


@pytest.mark.parametrize("flag", ["dataset_dir", "output_dir"])
def test_file_in_the_place_of_a_folder(refusal, tmp_path, flag):
    (tmp_path / "file").write_text("in the way")
    assert f"--{flag} is file, but file is a file: name a folder" in refusal("dpu", f"--{flag} file")
    assert f"--{flag} is file/a/b, but file is a file: name a folder" in refusal("fu", f"--{flag} file/a/b")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    if flag == "output_dir":
        assert "--output_dir: link/" in refusal("dpu", "--output_dir link")


def test_output_folder_with_too_long_a_name(refusal):
    line = refusal("dpu", f"--output_dir {'a' * 300}")
    assert "--output_dir: aaa" in line and "cannot be written (File name too long): name another" in line


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc, where not even root can make folders")
def test_output_folder_in_which_nobody_can_write(refusal):
    line = refusal("rpu", "--output_dir /proc/self/runs")
    assert "--output_dir: /proc/self/runs/digits-mlp-rpu-" in line and "cannot be written (" in line


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_read_only_output_folder(refusal, tmp_path, mode):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(mode)
    try:
        if os.access(tmp_path / "runs", os.W_OK):
            pytest.skip("this user, root as a rule, can write in read-only folders")
        line = refusal("dpu", "--output_dir runs/here")
    finally:
        (tmp_path / "runs").chmod(0o755)
    assert "--output_dir: runs/here/" in line and "cannot be written (Permission denied): name" in line


# A run folder that is there already.

RUN = "--hidden_sizes 8 --updating_ratio 0.1"


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory):
    """A folder with one finished run in it; `RUN` are its flags."""
    folder = tmp_path_factory.mktemp("finished") / "runs"
    with contextlib.redirect_stdout(io.StringIO()):
        multiround_dpu.main(shlex.split(f"{SMALL} {RUN} --output_dir {folder}"))
    torch.set_flush_denormal(False)
    return folder


@pytest.fixture
def run_folder(finished_runs, tmp_path):
    """A copy of the finished run's folder, where the same flags find it."""
    shutil.copytree(finished_runs, tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def test_a_finished_run_is_shown_from_a_place_where_nothing_can_be_written(run_folder, refusal, monkeypatch, capfd):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("utils.run.folder.locked", "utils.run.folder.write_atomic", "utils.system.figures.write_atomic"):
        monkeypatch.setattr(name, refused)
    result = multiround_dpu.main(shlex.split(f"{SMALL} {RUN} --output_dir runs"))
    assert result.folder.name == run_folder.name and "this run is finished" in capfd.readouterr().out
    assert "cannot be written (Read-only file system): name another" in refusal("dpu", f"{RUN} --overwrite")


def test_a_data_set_with_the_longest_name(finished_runs, tmp_path):
    images = np.arange(40 * 16, dtype=np.uint8).reshape(40, 4, 4)
    labels, path = np.arange(40) % 2, tmp_path / f"{'ü' * 125}.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    flags = [f"--dataset={path}", *shlex.split(f"{RUN} --num_epochs 1 --max_rounds 1"), "--output_dir", str(tmp_path)]
    flags += ["--dataset_size_init", "20", "--dataset_size_subseq", "20"]
    name = multiround_dpu.main(flags).folder.name
    assert name.startswith("ü" * 23 + "-") and multiround_dpu.main(flags).folder.name == name


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_pair_of_checkpoints(refusal, run_folder, damage):
    checkpoint = run_folder / "checkpoint"
    damage = checkpoint.read_bytes()[:-1] if damage is None else damage
    checkpoint.write_bytes(damage)
    (run_folder / "checkpoint_previous").write_bytes(damage)
    (run_folder / "summary.json").unlink()
    line = refusal("dpu", RUN)
    assert f"checkpoint runs/{run_folder.name}/checkpoint is damaged: its checksum does not match" in line
    assert "no good one before it: start anew with --overwrite" in line


@pytest.mark.parametrize("file, content", [
    ("summary.json", ""), ("summary.json", "{"),
    ("rounds.csv", ""), ("rounds.csv", "{"), ("rounds.csv", None),
])  # fmt: skip
def test_damaged_results(refusal, run_folder, file, content):
    if content is None:
        (run_folder / file).unlink()
    else:
        (run_folder / file).write_text(content)
    line = refusal("dpu", RUN)
    problem = "is missing" if content is None else "cannot be read"
    assert f"runs/{run_folder.name}/{file} {problem}" in line and "start anew with --overwrite" in line


def test_file_name_that_is_a_broken_formula(tmp_path, monkeypatch, machine_settings, capfd):
    """Good input, but it used to end in a traceback when all the work was done."""
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path, "a$b_{$.npz")
    result = multiround_dpu.main([*shlex.split(f"{SMALL} {RUN}"), "--dataset", "a$b_{$.npz"])
    assert (result.folder / "accuracy.png").stat().st_size > 0


@pytest.mark.parametrize("flags", ["--dataset_size_init 5000", "--updating_ratio 0", "--device cuda:99"])
def test_overwrite_deletes_nothing_if_another_flag_is_wrong(refusal, run_folder, flags):
    refusal("dpu", f"{RUN} --overwrite {flags}")


# Any text as a number.

WHOLE = (int, 1, 2**31 - 1)
NUMBERS = {
    "dataset_size_init": WHOLE,
    "dataset_size_subseq": WHOLE,
    "max_rounds": WHOLE,
    "val_dataset_size": WHOLE,
    "num_epochs": WHOLE,
    "train_batch_size": WHOLE,
    "val_batch_size": WHOLE,
    "test_batch_size": WHOLE,
    "hidden_sizes": (int, 1, 2**20),
    "seed": (int, 0, 2**63 - 1),
    "threads": (int, 1, 1024),
    "num_workers": (int, 0, 1024),
    "updating_ratio": (float, math.ulp(0.0), 1.0),
    "pruning_ratio": (float, math.ulp(0.0), 1.0),
    "lamda": (float, 0.0, 1.0),
    "reinit_every": WHOLE,
    "shrink": (float, 0.0, 1.0),
    "perturb": (float, 0.0, 1.0),
    "lr": (float, math.ulp(0.0), 1e6),
    "checkpoint_interval": (float, 0.0, sys.float_info.max),
}
PARSERS = {name: build_parser(f"multiround_{name}.py") for name in SCRIPTS}
TEXTS = st.one_of(
    st.integers().map(str),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(repr),
    st.floats(0, 1).map(repr),
    st.from_regex(r"[-+ ]?[0-9_]{0,6}[.]?[0-9]{0,4}(e[-+]?[0-9]{1,4})?", fullmatch=True),
    st.text(max_size=12),
    st.text("0123456789.eE+-_x \n\r\t\u2028\uff11\u0663%", max_size=12),
)


@settings(deadline=None, max_examples=500)
@given(flag=st.sampled_from(sorted(NUMBERS)), text=TEXTS, joined=st.booleans())
@example("lr", "1e400", True)
@example("updating_ratio", "1e-400", True)
@example("num_epochs", "0x10", False)
@example("num_epochs", "1_000", False)  # read as Python reads it: 1000
@example("seed", "\uff11", False)  # a full-width digit one: 1
@example("seed", " 5", False)
@example("seed", "9" * 25, False)
@example("seed", "9" * 5000, False)  # more digits than int() reads
@example("threads", str(10**12), False)
@example("lamda", "-0.0", True)
@example("lr", "--", True)
@example("hidden_sizes", "--", True)
def test_any_text_as_a_number_is_in_range_or_refused_in_one_line(flag, text, joined):
    kind, lowest, highest = NUMBERS[flag]
    script = "fu" if flag == "pruning_ratio" else "dpu"
    words = [f"--{flag}={text}"] if joined or text.startswith("-") else [f"--{flag}", text]
    if flag == "pruning_ratio":
        words += ["--mode", "pruning"]
    words += ["--dataset", "imagenet"] if flag == "num_workers" else []
    strategy = {"reinit_every": "every", "shrink": "shrink_perturb", "perturb": "shrink_perturb"}.get(flag)
    words += ["--reinit_strategy", strategy] if strategy else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            args = parse(PARSERS[script], words)
        except SystemExit as stop:
            args, status = None, stop.code
    if args is None:
        assert (status, out.getvalue()) == (2, "")
        assert err.getvalue().startswith(f"multiround_{script}.py: error: argument --{flag}: ")
        assert err.getvalue().endswith("\n") and len(err.getvalue().splitlines()) == 1
        with pytest.raises((ValueError, AssertionError)):
            assert lowest <= kind(text) <= highest
    else:
        value = getattr(args, "updating_ratio" if flag == "pruning_ratio" else flag)
        (value,) = value if flag == "hidden_sizes" else (value,)
        assert type(value) is kind and lowest <= value <= highest and value == kind(text)
        assert err.getvalue() == out.getvalue() == ""


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(sorted(SCRIPTS)), st.lists(st.text(max_size=8).filter(lambda text: text[:1] != "-")))
def test_any_stray_words_are_refused_in_one_line(script, words):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            parse(PARSERS[script], words)
        except SystemExit as stop:
            assert stop.code == 2 and words
            assert len(err.getvalue().splitlines()) == 1 and "unrecognized arguments: " in err.getvalue()
        else:
            assert not words


# What a shell sees.

NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


@pytest.mark.parametrize("script, flags, needed", [
    ("dpu", "--updating_ratio 1.5", f"--updating_ratio: '1.5' {RATIO}"),
    ("fu", "--updating_ratio 0.1", f"{UNKNOWN}updating_ratio 0.1"),
    ("rpu", "--output_dir file", "--output_dir is file, but file is a file: name a folder"),
    ("dpu", "--model resnet56 --dataset_size_init 1", "--dataset_size_init is 1: BatchNorm needs at least 2"),
    ("rpu", "--updating_ratio 1e-9", "--updating_ratio is 1e-09, which selects none of 300,032 weights"),
    ("fu", "--dataset mnist --dataset_dir data", "mnist: cannot be read or downloaded ("),
])  # fmt: skip
def test_as_a_process(tmp_path, script, flags, needed):
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, str(ROOT / f"multiround_{script}.py"), *shlex.split(f"{SMALL} {flags}")]
    environment = {**os.environ, **NO_NETWORK, "no_proxy": "", "NO_PROXY": ""}
    before = files_in(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert_refused(script, done.returncode, done.stdout, done.stderr)
    assert needed in done.stderr
    assert files_in(tmp_path) == before
