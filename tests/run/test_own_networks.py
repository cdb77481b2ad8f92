"""Networks of users: through rounds, kills, messages and edge nodes; what cannot work is refused before any work."""

import copy
import json
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import multiround_dpu
import multiround_fu
import multiround_rpu
from data.batches import Batches
from data.datasets import from_arrays, load_dataset
from data.errors import DatasetError
from data.seeding import global_stream, torch_generator
from tests.own_networks import Zoo
from tests.run.test_resume import SUICIDE
from tests.script_runs import one_line, start_process, weights_of, without_time
from utils.contribution import LocalContribution
from utils.edge import EdgeNode
from utils.edge import program as edge
from utils.edge.run_files import message_files
from utils.flat import FlatParameters
from utils.run.checkpoint import Checkpoints
from utils.system.own_code import digests_of, files_of
from utils.table import program as table
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer
from utils.training.recipes import Recipe
from utils.training.sample_gradients import SampleGradients

SMALL = (
    "--dataset digits --num_epochs 2 --dataset_size_init 120 --dataset_size_subseq 120 --max_rounds 2 --seed 3 "
    "--threads 1 --device cpu --quiet"
).split()
NETWORKS = "tests/own_networks.py"


class Killed(BaseException):
    """Ends a run at once."""


def killed_and_resumed(script, flags, monkeypatch, number=3):
    """Run until the given checkpoint is saved, draw from all global generators, and let the same command go on."""
    save, count = Checkpoints.save, 0

    def dying_save(self, state):
        nonlocal count
        save(self, state)
        count += 1
        if count == number:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", dying_save)
        with pytest.raises(Killed):
            script.main([*flags, "--checkpoint_interval", "0"])
    torch.rand(1000)
    return script.main([*flags, "--checkpoint_interval", "0"])


def replayed(folder: Path) -> bool:
    return edge.main(["replay", str(folder)]) == 0


@pytest.mark.parametrize(("network", "more"), [
    ("GroupNormNet", ""), ("PatchTransformer", "--value_bits 6"), ("Zoo", "--value_bits 8"),
])  # fmt: skip
def test_rounds_kill_resume_and_replay(network, more, tmp_path, monkeypatch, capsys):
    flags = ["--model", f"{NETWORKS}:{network}", "--updating_ratio", "0.1", *SMALL, *more.split()]
    whole = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "whole")])
    again = killed_and_resumed(multiround_dpu, [*flags, "--output_dir", str(tmp_path / "killed")], monkeypatch)
    assert whole.summary["rounds_sent"] > 0 and whole.folder.name.startswith(f"digits-{network}-dpu-k0.1-")
    assert without_time(whole.folder) == without_time(again.folder)
    assert weights_of(whole.folder) == weights_of(again.folder)
    assert replayed(whole.folder)
    node, named = str(tmp_path / "node"), ["--model", f"{NETWORKS}:{network}"]
    assert edge.main(["replay", str(whole.folder), "--out", node]) == 0
    ask = ["predict", "--node", node, "--model-from", str(whole.folder)]
    assert edge.main([*ask, *named]) == 0 and edge.main(ask) == 2  # whose code is run is not for a folder to say
    out, err = capsys.readouterr()
    assert f"420 images, {100 * whole.rows[-1]['served_test_acc']:.2f} % right" in out
    assert f"give --model with the path of that file, as PATH/own_networks.py:{network}" in err
    assert f"own_networks.py:{network}: " in out and "trained by adam, learning rate 0.005, x0.2 every epoch" in out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script", "mode", "rounds"), [
    ("mobilenet_v3_small", multiround_dpu, "dpu", 2), ("resnet18", multiround_rpu, "rpu", 1),
])  # fmt: skip
def test_networks_of_torchvision_on_real_images(name, script, mode, rounds, real_cifar10, tmp_path, monkeypatch):
    sizes = "--num_epochs 1 --dataset_size_init 32 --dataset_size_subseq 32 --val_dataset_size 50"
    flags = ["--model", f"torchvision:{name}", "--dataset", "cifar10", "--dataset_dir", str(cut(real_cifar10, tmp_path))]
    flags += [*sizes.split(), "--threads", "1", "--seed", "1", "--max_rounds", str(rounds), "--lr", "0.001", "--quiet"]
    whole = script.main([*flags, "--output_dir", str(tmp_path / "whole")])
    again = killed_and_resumed(script, [*flags, "--output_dir", str(tmp_path / "killed")], monkeypatch, 1)
    assert whole.summary["rounds_sent"] > 0 and whole.folder.name.startswith(f"cifar10-{name}-{mode}-k0.01-")
    assert without_time(whole.folder) == without_time(again.folder)
    assert weights_of(whole.folder) == weights_of(again.folder)
    assert replayed(whole.folder)


def cut(folder: Path, tmp_path: Path) -> Path:
    """A folder with the first 200 training and 100 test images of a cifar10.npz."""
    with np.load(folder / "cifar10.npz") as whole:
        counts = {"train": 200, "test": 100}
        np.savez(tmp_path / "cifar10.npz", **{name: whole[name][: counts[name.split("_")[0]]] for name in whole.files})
    return tmp_path


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(tmp_path):
    flags = ["--model", f"{NETWORKS}:PatchTransformer", "--updating_ratio", "0.1", *SMALL, "--checkpoint_interval", "0"]
    whole = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "whole")]).folder
    flags += ["--output_dir", str(tmp_path / "killed")]
    process = start_process("after", "3", *flags, code=SUICIDE)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    again = multiround_dpu.main(flags).folder
    assert without_time(whole) == without_time(again) and weights_of(whole) == weights_of(again)


@pytest.mark.parametrize(("script", "flags"), [
    (multiround_dpu, "--mode fisher --updating_ratio 0.1"),
    (multiround_dpu, "--mode snip --byte_budget 1500 --reinit_strategy shrink_perturb"),
    (multiround_dpu, "--deploy_sparsity 0.5 --updating_ratio 0.1 --optimizer sgd --schedule cosine --lr 0.05"),
    (multiround_rpu, "--updating_ratio 0.2 --value_bits 16"),
    (multiround_fu, "--mode diff_init"),
    (multiround_fu, "--mode pruning --pruning_ratio 0.2"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_every_method(script, flags, tmp_path):
    result = script.main(["--model", f"{NETWORKS}:Zoo", *flags.split(), *SMALL, "--output_dir", str(tmp_path)])
    assert len(result.rows) == 2 and result.summary["rounds_sent"] > 0 and replayed(result.folder)


# --- what is a weight, what travels -----------------------------------------------------------------------


def zoo() -> nn.Module:
    torch.manual_seed(1)
    return Zoo(10)


def test_layout_of_the_zoo():
    flat = FlatParameters(zoo(), {"batch_norm.running_mean", "batch_norm.running_var", "average"})
    assert flat.layer_names == [
        "shades.weight", "conv1.weight", "conv3.weight", "inner.weight", "unused.weight", "now_and_then.weight",
        "head.weight",
    ]  # fmt: skip
    rest = [entry.name for entry in flat.schema.of_role("rest")]
    assert {"scale", "norm.weight", "norm.bias", "out.bias", "inner.bias"} <= set(rest) and "out.weight" not in rest
    assert [entry.name for entry in flat.schema.of_role("buffer")] == [
        "average", "batch_norm.running_mean", "batch_norm.running_var",
    ]  # fmt: skip
    assert flat.constants.keys() == {"frozen.weight", "frozen.bias", "order", "mask", "table"}
    assert flat.model.out.weight is flat.model.inner.weight
    assert flat.model.out.weight.data_ptr() == flat.vector[flat.schema.layers[3].start :].data_ptr()


def test_a_run_finds_out_what_changes_and_keeps_the_rest(tmp_path):
    flags = ["--model", f"{NETWORKS}:Zoo", "--updating_ratio", "0.1", *SMALL, "--output_dir", str(tmp_path)]
    folder = multiround_dpu.main(flags).folder
    layers = {name: role for name, role, _ in json.loads((folder / "config.json").read_text())["layers"]}
    assert [name for name, role in layers.items() if role == "buffer"] == [
        "average", "batch_norm.running_mean", "batch_norm.running_var",
    ]  # fmt: skip
    state = torch.load(folder / "model.pt", weights_only=True)
    assert state["order"].tolist() == [7, 6, 5, 4, 3, 2, 1, 0] and state["mask"].dtype == torch.bool
    assert torch.equal(state["out.weight"], state["inner.weight"]) and not set(layers) & {"frozen.weight", "order"}


def test_the_saved_network_has_a_buffer_that_is_not_persistent_but_changes(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, num_classes):\n        super().__init__()\n        self.out = nn.Linear(64, num_classes)\n"
        "        self.register_buffer('mean', torch.zeros(64), persistent=False)\n"
        "    def forward(self, x):\n        x = x.flatten(1)\n        if self.training:\n"
        "            self.mean.lerp_(x.detach().mean(0), 0.1)\n        return self.out(x - self.mean)\n"
    )
    flags = ["--model", f"{tmp_path}/net.py:Net", "--updating_ratio", "0.1", *SMALL, "--max_rounds", "1"]
    folder = multiround_dpu.main([*flags, "--output_dir", str(tmp_path)]).folder
    state = torch.load(folder / "model.pt", weights_only=True)
    node = EdgeNode.shipped(folder / "initial.safetensors")
    for message in message_files(folder):
        node.receive(message.read_bytes())
    assert state.keys() == {"out.weight", "out.bias", "mean"} and state["mean"].abs().max() > 0
    assert state["mean"].tolist() == node.serving[node.schema.of_role("buffer")[0].part].tolist()


def test_steps_are_those_of_a_plain_optimizer():
    """Two epochs of the zoo by a foreign Trainer, on all weights and on some, against torch.optim with a mask."""
    digits, samples = load_dataset("digits", "unused"), torch.arange(64)
    train = Batches(digits.train_images, digits.train_labels, digits.mean, digits.std, 32)
    for selected in (None, torch.arange(0, 1193, 3)):
        flat = FlatParameters(zoo(), {"batch_norm.running_mean", "batch_norm.running_var", "average"})
        plain = copy.deepcopy(flat.model)
        start = [parameter.detach().clone() for parameter in plain.parameters()]
        trainer = Trainer(flat, train, 5, foreign=True)
        optimizer = FlatOptimizer(flat, Recipe("sgd", 0.05, 2, 1.0, momentum=0.9), selected)
        sgd = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        local = LocalContribution(optimizer.weights.numel())
        masks = mask_of(flat, plain, selected)
        for epoch in range(2):
            trainer.epoch(optimizer, samples, (0, 1, epoch), local)
            order, _ = train.draw(samples, torch_generator(5, "training", 0, 1, epoch))
            plain.train()
            with global_stream(5, "network", 0, 1, epoch, 0):
                for part in train.parts(64):
                    images, labels = train.batch(order[part])
                    for parameter in plain.parameters():  # one that is not used has a gradient of zero
                        parameter.grad = torch.zeros_like(parameter)
                    F.cross_entropy(plain(images), labels).backward()
                    sgd.step()
                    with torch.no_grad():
                        for parameter, mask, before in zip(plain.parameters(), masks, start, strict=True):
                            parameter.copy_(torch.where(mask, parameter, before))
        for (name, mine), theirs in zip(flat.model.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=2e-5), name
        assert torch.allclose(flat.model.average, plain.average, atol=1e-5)


def mask_of(flat, plain, selected):
    moving = torch.ones(len(flat.vector), dtype=torch.bool)
    if selected is not None:
        moving[: flat.num_weights] = False
        moving[selected] = True
    by_name = {entry.name: moving[entry.part].view(entry.shape) for entry in flat.schema.entries}
    return [by_name.get(name, torch.zeros(())> 0).expand(p.shape) for name, p in plain.named_parameters()]


def test_squared_gradients_of_samples_are_right_for_any_layer():
    digits = load_dataset("digits", "unused")
    flat = FlatParameters(zoo(), {"batch_norm.running_mean", "batch_norm.running_var", "average"})
    train = Batches(digits.train_images, digits.train_labels, digits.mean, digits.std, 4)
    sample_gradients = SampleGradients(flat, train, torch.arange(8), foreign=True)
    summed, expected = sample_gradients.sum_of_squares(), torch.zeros(flat.num_weights)
    layers = [dict(flat.model.named_parameters())[name] for name in flat.layer_names]
    for image, label in (pair for images, labels in train.in_order(torch.arange(8)) for pair in zip(images, labels)):
        loss = F.cross_entropy(flat.model(image[None]), label[None])
        grads = torch.autograd.grad(loss, layers, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(layers, grads)]
        expected += torch.cat([part.flatten() for part in parts]).square()
    assert torch.allclose(summed, expected, rtol=1e-4, atol=1e-7) and summed.count_nonzero() > 500


# --- which code made it -----------------------------------------------------------------------------------

NET = """
from torch import nn
from parts import WIDTH

def make(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_classes))
"""


def run_file(tmp_path, *more, name="make", text=None, script=multiround_dpu):
    if text is not None:
        (tmp_path / "net.py").write_text(text)
    flags = ["--model", f"{tmp_path / 'net.py'}:{name}", *SMALL, "--max_rounds", "1", "--num_epochs", "1", *more]
    return script.main([*flags, "--output_dir", str(tmp_path / "runs")])


@pytest.mark.parametrize(("file", "words"), [
    ("net.py", "net.py differs"), ("parts.py", "parts.py, the network's layout differ"),
])  # fmt: skip
def test_a_changed_file_is_other_code(tmp_path, capsys, file, words):
    (tmp_path / "parts.py").write_text("WIDTH = 16\n")
    run_file(tmp_path, text=NET)
    run_file(tmp_path)
    assert "this run is finished; --overwrite" in one_line(capsys)
    path = tmp_path / file
    edited = path.read_text().replace("ReLU", "Tanh").replace("16", "24")
    path.write_text(edited)
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # of a file that was edited within the same second
    run_file(tmp_path)
    assert f"this run is finished, by other code ({words}); --overwrite" in one_line(capsys)
    (summary,) = (tmp_path / "runs").glob("*/summary.json")
    summary.unlink()
    for more in ([], ["--resume_changed"]) if file == "parts.py" else ([],):  # a network of another size cannot go on
        with pytest.raises(SystemExit):
            run_file(tmp_path, *more)
        err = capsys.readouterr().err
        assert f"begun by other code ({words})" in err
        assert ("put the files back" if file == "parts.py" else "go on with --resume_changed") in err


def test_a_changed_constant_is_another_layout(tmp_path, capsys):
    text = NET.replace("from parts import WIDTH", "import torch\nWIDTH = 8\nVALUES = torch.load('{}')") + (
        "\nclass Net(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\n"
        "        self.layers = make(num_classes)\n        self.register_buffer('values', VALUES)\n"
        "    def forward(self, x):\n        return self.layers(x) + self.values\n"
    )
    torch.save(torch.ones(10), tmp_path / "values.pt")
    run_file(tmp_path, text=text.format(tmp_path / "values.pt"), name="Net")
    torch.save(torch.zeros(10), tmp_path / "values.pt")
    run_file(tmp_path, name="Net")
    assert "finished, by other code (the network's layout differs)" in capsys.readouterr().out


# --- from Python ------------------------------------------------------------------------------------------


def plain_network(input_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[1] * input_shape[2], 12), nn.ReLU(), nn.Linear(12, num_classes))


def test_a_function_a_module_and_a_data_set_from_python(tmp_path):
    read, flags = load_dataset("digits", "unused"), ["--updating_ratio", "0.1", *SMALL[2:], "--output_dir", str(tmp_path)]
    arrays = {name: getattr(read, name).numpy() for name in ("train_labels", "test_labels")}
    arrays |= {name: getattr(read, name).numpy()[:, 0] for name in ("train_images", "test_images")}
    digits = from_arrays(arrays, "digits")
    assert digits.fingerprint == read.fingerprint
    with pytest.raises(DatasetError, match="mine: test_labels is missing"):
        from_arrays({name: array for name, array in arrays.items() if name != "test_labels"}, "mine")
    made = multiround_dpu.main(flags, model=plain_network, dataset=digits)
    assert made.folder.name.startswith("digits-plain_network-dpu") and replayed(made.folder)
    module = plain_network((1, 8, 8), 10)
    given = multiround_dpu.main(flags, model=module, dataset=digits)
    assert given.folder != made.folder and replayed(given.folder)
    assert given.folder == multiround_dpu.main(flags, model=module, dataset=digits).folder
    with torch.no_grad():
        module[1].weight[0, 0] += 1
    assert given.folder != multiround_dpu.main(flags, model=module, dataset=digits).folder


def with_dropout(share, num_classes):
    return nn.Sequential(nn.Flatten(), nn.Dropout(share), nn.Linear(64, num_classes))


def test_what_a_function_from_python_is_bound_to_is_known(tmp_path, capsys):
    flags = ["--dataset", "digits", *SMALL, "--max_rounds", "1", "--num_epochs", "1", "--output_dir", str(tmp_path)]
    folder = multiround_dpu.main(flags, model=partial(with_dropout, 0.1)).folder
    assert folder.name.startswith("digits-with_dropout-dpu")
    assert "other code" not in capsys.readouterr().out
    assert multiround_dpu.main(flags, model=partial(with_dropout, 0.2)).folder != folder
    assert multiround_dpu.main(flags, model=partial(with_dropout, 0.1)).folder == folder


class Scaled(nn.Module):
    """Networks that differ in an attribute alone, which no module's words show."""

    def __init__(self, num_classes, scale=1.0, more=None):
        super().__init__()
        self.layer, self.scale, self.more = nn.Linear(64, num_classes), scale, more

    def forward(self, images):
        return self.layer(images.flatten(1)) * self.scale


def scaled_by(scale):
    return lambda num_classes: Scaled(num_classes, scale)


def test_networks_that_differ_in_what_they_hold_have_folders_of_their_own(tmp_path):
    flags = ["--dataset", "digits", *SMALL, "--max_rounds", "1", "--num_epochs", "1", "--output_dir", str(tmp_path)]
    models = [partial(Scaled, scale=1.0), partial(Scaled, scale=5.0), scaled_by(1.0), scaled_by(5.0)]
    torch.manual_seed(0)
    one = Scaled(10)
    other = copy.deepcopy(one)
    other.scale = 5.0
    first = [multiround_dpu.main(flags, model=model).folder for model in (*models, one, other)]
    assert len(set(first)) == len(first)
    again = [partial(Scaled, scale=1.0), partial(Scaled, scale=5.0), scaled_by(1.0), scaled_by(5.0), one, other]
    assert [multiround_dpu.main(flags, model=model).folder for model in again] == first


class Bank(nn.Module):
    """Writes one row a pass into a large table: a message would have next to no bytes for a million values."""

    def __init__(self, num_classes):
        super().__init__()
        self.hidden, self.out = nn.Linear(64, 16), nn.Linear(16, num_classes)
        self.register_buffer("bank", torch.ones(65536, 16))

    def forward(self, images):
        hidden = self.hidden(images.flatten(1)).relu()
        if self.training:
            self.bank[int(1000 * hidden.detach().sum()) % 65536] = hidden[0].detach()
        return self.out(hidden)


def test_what_no_node_would_take_is_named(tmp_path, capsys):
    flags = ["--dataset", "digits", *SMALL, "--max_rounds", "1", "--num_epochs", "1", "--updating_ratio", "0.05"]
    with pytest.raises(SystemExit) as stop:
        multiround_dpu.main([*flags, "--output_dir", str(tmp_path)], model=Bank)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(r"large buffers of \S+:Bank hardly change, so of a message \d+ bytes are", err)


def test_what_python_may_not_give(capsys):
    module = plain_network((1, 8, 8), 10)
    for script, flags, more, words in (
        (multiround_fu, ["--mode", "diff_init"], {"model": module}, "--mode diff_init needs new networks"),
        (multiround_dpu, ["--model", "vgg"], {"model": module}, "--model and model= both say which: leave one out"),
        (multiround_dpu, [], {"model": 3}, "model= is a int: it must be a function or class"),
        (multiround_dpu, [], {"dataset": "digits"}, "dataset= is a str: give what data.datasets.from_arrays makes"),
    ):
        data = [] if "dataset" in more else ["--dataset", "digits"]
        with pytest.raises(SystemExit) as stop:
            script.main([*data, *flags], **more)
        err = capsys.readouterr().err
        assert stop.value.code == 2 and words in err and len(err.splitlines()) == 1, err


# --- what is refused --------------------------------------------------------------------------------------

LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))"
MODULE = """
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = nn.Linear(64, num_classes)
        {init}
    def forward(self, x):
        {forward}
        return self.layer(x.flatten(1))
def make(num_classes):
    return Net(num_classes)
"""


def returning(expression, arguments="num_classes"):
    return f"import torch\nfrom torch import nn\ndef make({arguments}):\n    return {expression}\n"


def module(init="pass", forward="pass"):
    return "import torch\nfrom torch import nn\n" + MODULE.format(init=init, forward=forward)


REFUSED = {
    "syntax": ("def make(:\n", "net.py, line 1: SyntaxError: invalid syntax"),
    "import": ("import nowhere_at_all\n", "net.py, line 1, in <module>: ModuleNotFoundError: No module named"),
    "in the function": (returning("num_classes / 0"), "net.py, line 4, in make: ZeroDivisionError: division by zero"),
    "name": (returning(LINEAR).replace("make", "maker"), "but net.py has no make: did you mean maker?"),
    "no module": (returning("3"), "returned a int: it must return a torch.nn.Module"),
    "a module": ("from torch import nn\nmake = nn.Linear(2, 2)\n", "is a network: it must be a function or class"),
    "arguments": (returning(LINEAR, "num_classes, depth"), "takes num_classes, depth: it must take input_shape and"),
    "no classes": (returning(LINEAR, "input_shape"), "takes input_shape: it must take input_shape and num_classes"),
    "lazy": (returning("nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))"), "1.weight is lazy, of no size yet"),
    "half": (returning(LINEAR + ".half()"), "parameter 1.weight is torch.float16: messages carry torch.float32 alone"),
    "complex": (module("self.c = nn.Parameter(torch.zeros(2, dtype=torch.cfloat))"), "parameter c is torch.complex64"),
    "empty": (module("self.c = nn.Parameter(torch.zeros(0, 2))"), "parameter c has shape (0, 2)"),
    "NaN": (module("self.c = nn.Parameter(torch.tensor([float('nan')]))"), "parameter c starts with values that are not"),
    "overlapping": (module("self.c = nn.Parameter(self.layer.weight.data[1:])"), "layer.weight and c share memory"),
    "a buffer on a parameter": (
        module("self.register_buffer('c', self.layer.weight.data[1])"), "layer.weight and c share memory",
    ),
    "shape": (returning("nn.Flatten()"), "returns torch.float32 of shape (2, 64) for 2 images: it must return a tensor"),
    "one image": (module(forward="x = x.squeeze()"), "net.py, line 11, in forward: RuntimeError: "),
    "in a layer": (
        returning("nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(63, num_classes)))"),
        "on images of 1x8x8: layer 1.0, Linear(in_features=63, out_features=10, bias=True): RuntimeError: ",
    ),
    "in a layer of another kind": (
        "from torch import nn\nclass Odd(nn.Linear):\n    def extra_repr(self): return 1 / 0\n"
        "def make(num_classes): return nn.Sequential(nn.Flatten(), Odd(63, num_classes))\n",
        "on images of 1x8x8: layer 1, Odd: RuntimeError: ",
    ),
    "a tuple": (module(forward="return (x,)"), "returns a tuple for 2 images"),
    "infinite": (module(forward="x = x / 0"), "returns values that are not finite"),
    "in forward": (module(forward="x = x.reshape(3, 7)"), "net.py, line 10, in forward: RuntimeError: shape '[3, 7]' is"),
    "random": (module(forward="x = x + torch.rand(())"), "two passes in eval mode over the same images gave different"),
    "eval changes": (module("self.register_buffer('n', torch.zeros(1))", "self.n += 1"), "a pass in eval mode changed n"),
    "counter": (
        module("self.register_buffer('n', torch.zeros((), dtype=torch.int64))", "self.n += self.training"),
        "buffer n is torch.int64 and changes in training: messages carry float32 alone",
    ),
    "average of all": (
        returning("nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes), nn.BatchNorm1d(num_classes, momentum=None))"),
        "num_batches_tracked is torch.int64 and changes in training: give its BatchNorm a momentum",
    ),
    "not seeded": (
        module("self.layer.weight.data.fill_(__import__('time').perf_counter_ns() % 1000)"),
        "two calls with the same seed gave different initial weights",
    ),
    "no weights": (
        returning("nn.Sequential(nn.AdaptiveAvgPool2d((1, num_classes)), nn.Flatten(), nn.LayerNorm(num_classes))"),
        "has no weights: parameters of two or more dimensions",
    ),
    "another tensor for a weight": (
        module(forward="self.layer.weight.data = self.layer.weight.data * 1"), "puts another tensor in the place of layer.weight",
    ),
    "another tensor for a buffer": (
        module("self.register_buffer('m', torch.zeros(64))", "self.m = self.m + (x.flatten(1).mean(0) if self.training else 0)"),
        "puts another tensor in the place of m: change it in place",
    ),
    "the same one twice": (
        f"import torch\nfrom torch import nn\nONE = []\ndef make(num_classes):\n"
        f"    ONE.append({LINEAR})\n    return ONE[0]\n", "returned the same network twice",
    ),
    "a parameter changed in training": (
        module(forward="self.training and self.layer.weight.data.clamp_(-0.01, 0.01)"),
        "a pass in training changes parameter layer.weight: leave that to the optimizer",
    ),
    "a gradient removed": (
        module(forward="self.training and self.zero_grad()"), "a pass in training removes the gradient of layer.weight",
    ),
    "a buffer from infinity": (
        module("self.register_buffer('m', torch.full((64,), torch.inf))",
               "self.m.copy_(torch.minimum(self.m, x.flatten(1).amin(0)) if self.training else self.m)"),
        "buffer m changes in training, from values that are not finite: start at finite ones",
    ),
    "a frozen parameter changed": (
        module("self.code = nn.Parameter(torch.zeros(2), requires_grad=False)", "self.code.data += self.training"),
        "a pass in training changes parameter code: make it a buffer",
    ),
    "a frozen parameter trained": (
        module("self.code = nn.Parameter(torch.zeros(2), requires_grad=False)", "self.training and self.code.requires_grad_()"),
        "a pass in training makes code, which was frozen, need a gradient",
    ),
    "a late buffer": (
        module(forward="self.training and self.register_buffer('seen', torch.ones(1))"),
        "a pass in training adds seen: make it with the network",
    ),
    "not of memory": (
        module(forward="torch.zeros(1).expand(4).add_(1)"), "net.py, line 10, in forward: RuntimeError: unsupported operation",
    ),
    "an argument called memory": (
        module().replace("def forward(self, x)", "def forward(self, x, memory)"), "missing 1 required positional argument: 'memory'",
    ),
    "unused": (returning("nn.Sequential(nn.AdaptiveAvgPool2d((1, num_classes)), nn.Flatten())"), "net.py"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_any_work(case, tmp_path, capsys):
    text, words = REFUSED[case]
    with pytest.raises(SystemExit) as stop:
        run_file(tmp_path, text=text)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and words in err and len(err.splitlines()) == 1, err
    assert out == "" and not (tmp_path / "runs").exists()


def test_names_that_are_not_there(tmp_path, capsys):
    (tmp_path / "network.py").write_text("")
    for model, words in (
        ("torchvision:resnet17", "torchvision has no network resnet17: did you mean resnet"),
        (f"{tmp_path}/netwrok.py:Net", f"there is no file {tmp_path}/netwrok.py; did you mean {tmp_path}/network.py?"),
        ("net.py", "invalid choice: 'net.py' (choose from mlp, vgg, resnet56, mobilenetv1, torchvision:NAME, FILE.py:NAME)"),
        ("resnet", "; did you mean resnet56, or torchvision:resnet?"),
        ("/tmp/net.py", "; a network in a file of yours is /tmp/net.py:NAME, with the name of its function or class"),
        ("net:make", "; a network in a file of yours is net.py:NAME, with the name of its function or class"),
        ("torchvision:resnet18", "expected input[1, 1, 8, 8] to have 3 channels, but got 1 channels instead"),
    ):
        with pytest.raises(SystemExit) as stop:
            multiround_dpu.main(["--dataset", "digits", "--model", model, "--output_dir", str(tmp_path)])
        err = capsys.readouterr().err
        assert stop.value.code == 2 and words in err and len(err.splitlines()) == 1, err


def test_batch_norm_is_found_out(tmp_path, capsys):
    one = ["--dataset", "digits", "--train_batch_size", "1", "--max_rounds", "1", "--num_epochs", "1", "--quiet"]
    one += ["--dataset_size_init", "20", "--output_dir", str(tmp_path), "--updating_ratio", "0.1"]
    with pytest.raises(SystemExit):
        multiround_dpu.main(["--model", f"{NETWORKS}:with_batch_norm", *one])
    assert "--train_batch_size is 1: BatchNorm needs batches of 2 or more" in capsys.readouterr().err
    assert len(multiround_dpu.main(["--model", f"{NETWORKS}:GroupNormNet", *one]).rows) == 1


def test_an_error_in_the_middle_of_training_names_the_users_line(tmp_path, capsys):
    text = module("self.calls = [0]", "self.calls[0] += 1; assert self.calls[0] < 9, 'nine'")
    with pytest.raises(SystemExit) as stop:
        run_file(tmp_path, text=text)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "net.py, line 10, in forward: AssertionError: nine" in err and len(err.splitlines()) == 1


def test_a_constant_that_changes_later_is_named(tmp_path, capsys):
    forward = "self.calls += 1; self.constant += float(self.training and self.calls > 5)"
    text = module("self.calls = 0; self.register_buffer('constant', torch.zeros(1))", forward)
    with pytest.raises(SystemExit):
        run_file(tmp_path, text=text)
    assert re.search("--model: constant: training changed it", capsys.readouterr().err)


def test_a_tensor_that_is_replaced_later_is_named(tmp_path, capsys):
    forward = "self.calls += 1; self.layer.weight.data = self.layer.weight.data * 1 if self.calls > 9 else self.layer.weight.data"
    with pytest.raises(SystemExit):
        run_file(tmp_path, text=module("self.calls = 0", forward))
    assert "--model: layer.weight: a pass put another tensor in its place" in capsys.readouterr().err


@pytest.mark.parametrize("change, words", [
    ("self.layer.weight.data[0, 0] += 0.1", "--model: layer.weight: a pass in training changed it: leave that"),
    ("self.zero_grad()", "--model: layer.weight: a pass removed its gradient: torch.autograd.grad leaves it alone"),
    ("self.frozen.requires_grad_()", "--model: frozen: a pass made it need a gradient, but it was frozen"),
])  # fmt: skip
def test_what_a_pass_does_later_is_named(change, words, tmp_path, capsys):
    forward = f"self.calls += self.training\n        if self.calls > 1: {change}"
    init = "self.register_buffer('calls', torch.zeros(())); self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)"
    with pytest.raises(SystemExit) as stop:
        run_file(tmp_path, text=module(init, forward))
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and err.count("\n") == 1


@pytest.mark.parametrize("init, forward, name", [
    ("self.calls = 0", "self.calls += self.training", "calls"),
    ("self.own = torch.Generator()", "self.training and torch.rand(1, generator=self.own)", "own"),
    ("self.layer.much = 'some'", "self.layer.much = 'more' if self.training else self.layer.much", "layer.much"),
])  # fmt: skip
def test_what_no_checkpoint_saves_is_said(init, forward, name, tmp_path, capsys):
    run_file(tmp_path, text=module(init, forward))
    assert f"warning: --model net.py:make: a pass in training changes {name}: no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("init, forward", [
    ("pass", "self.batch = x.shape[0] if self.training else 2"), ("self.odd = float('nan')", "pass"),
    ("self.register_buffer('held', self.layer.weight.clone())", "pass"),  # which needs a gradient, as its origin does
    ("self.register_buffer('least', torch.full((64,), 1e9))",
     "self.least.copy_(torch.minimum(self.least, x.flatten(1).amin(0)) if self.training else self.least)"),
])  # fmt: skip
def test_of_what_is_right_nothing_is_said(init, forward, tmp_path, capsys):
    result = run_file(tmp_path, "--value_bits", "16", "--updating_ratio", "0.5", text=module(init, forward))
    assert capsys.readouterr().err == "" and result.rows[0]["sent"] and replayed(result.folder)


def test_a_weight_that_a_pass_changes_is_named_before_a_checkpoint_saves_it(tmp_path, monkeypatch, capsys):
    """From behind it, a resumed run would take it for one that was trained."""
    saved, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, state: (saved.append(state), save(self, state)))
    change = "self.calls += self.training\n        if self.calls == 3: self.layer.weight.data[0, 0] += 0.1"
    (tmp_path / "net.py").write_text(module("self.register_buffer('calls', torch.zeros(()))", change))
    flags = [*SMALL, "--model", f"{tmp_path}/net.py:make", "--num_epochs", "2", "--checkpoint_interval", "0"]
    with pytest.raises(SystemExit):
        multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "runs")])
    assert "--model: layer.weight: a pass in training changed it" in capsys.readouterr().err
    assert [(state["training"]["step"], state["training"]["epoch"]) for state in saved] == [(1, 1), (1, 2)]


def test_new_networks_that_are_the_old_ones(tmp_path, capsys):
    text = returning(LINEAR).replace("return", "torch.manual_seed(1); return")
    with pytest.raises(SystemExit) as stop:
        run_file(tmp_path, "--mode", "diff_init", text=text, script=multiround_fu)
    assert stop.value.code == 2 and "this one always has the same weights" in capsys.readouterr().err


def test_a_table_that_a_pass_keeps_serves_training_too(tmp_path):
    forward = "self.table = torch.ones(64) / 2 if self.table is None else self.table; x = x.flatten(1) * self.table"
    result = run_file(tmp_path, text=module("self.table = None", forward))
    assert len(result.rows) == 1 and replayed(result.folder)


@pytest.mark.parametrize("buffer", [
    "torch.ones(4).to(torch.float8_e4m3fn)", "torch.polar(torch.ones(4), torch.arange(4.)).conj()", "torch.tensor(float('nan'))",
])  # fmt: skip
def test_constants_of_any_kind_go_along(buffer, tmp_path):
    text = module(f"self.register_buffer('odd', {buffer})")
    assert replayed(run_file(tmp_path, text=text).folder)


def test_modules_that_hold_no_plain_values_are_refused_from_python_too(tmp_path, capsys):
    for change in (lambda net: net.to("meta"), lambda net: net.register_buffer("s", torch.eye(3).to_sparse())):
        net = plain_network((1, 8, 8), 10)
        change(net)
        with pytest.raises(SystemExit):
            multiround_dpu.main([*SMALL, "--output_dir", str(tmp_path)], model=net)
        err = capsys.readouterr().err
        assert "it must hold plain values" in err and len(err.splitlines()) == 1


TYPED = """
import sys, torch
from torch import nn
import multiround_fu
class Net(nn.Sequential):
    def __init__(self, num_classes=10):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
multiround_fu.main(sys.argv[1:], model=Net())
"""


def test_a_class_without_a_source_file_can_be_given(tmp_path):
    process = start_process(*SMALL, "--max_rounds", "1", "--output_dir", str(tmp_path), code=TYPED)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in err, err


def test_files_that_a_package_imports_relatively_are_known(tmp_path):
    (tmp_path / "pkg" / "deep").mkdir(parents=True)
    (tmp_path / "net.py").write_text("from pkg import Net\n")
    (tmp_path / "pkg" / "__init__.py").write_text("from .inner import Net\nfrom . import more\n")
    (tmp_path / "pkg" / "inner.py").write_text("from .deep.below import Net\n")
    (tmp_path / "pkg" / "more.py").write_text("from .. import beside\nfrom ... import far\n")
    (tmp_path / "pkg" / "deep" / "below.py").write_text("from ..inner import x\nclass Net: ...\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path.parent / "far.py").write_text("")  # above the folder of the user's file
    names = {path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path / "net.py")}
    inside = {"pkg/__init__.py", "pkg/inner.py", "pkg/more.py", "pkg/deep/below.py"}
    assert names == {"net.py", "beside.py", *inside}


@pytest.mark.parametrize("head", [b"\xef\xbb\xbf", b"# -*- coding: latin-1 -*-\n# caf\xe9\n"])
def test_a_file_in_any_encoding_is_known(tmp_path, head):
    (tmp_path / "net.py").write_bytes(head + b"x = 1\n")
    (first,) = digests_of([("model", f"{tmp_path}/net.py:x")]).values()
    (tmp_path / "net.py").write_bytes(head + b"x = 2\n")
    assert digests_of([("model", f"{tmp_path}/net.py:x")]) != {"net.py": first}


def test_an_export_of_ones_own_network_reads_back(tmp_path, capsys):
    (tmp_path / "net.py").write_text(returning(LINEAR))
    flags = ["--model", f"{tmp_path}/net.py:make", *SMALL, "--output_dir", str(tmp_path / "runs")]
    for script in (multiround_dpu, multiround_fu):
        folder = script.main([*flags, *(["--updating_ratio", "0.1"] if script is multiround_dpu else [])]).folder
    table.main([str(tmp_path / "runs"), "--export", str(tmp_path / "copies")])
    shown = capsys.readouterr().out
    table.main([str(tmp_path / "copies")])
    again = capsys.readouterr().out
    assert again.strip() and again.strip() in shown
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        table.main([str(tmp_path / "runs"), "--export", str(tmp_path / "runs")])
    assert stop.value.code == 1
    assert "is the run itself: name another folder" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
