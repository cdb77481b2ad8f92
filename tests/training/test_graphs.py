"""Steps and evaluations as CUDA graphs: their book-keeping on every machine, the graphs themselves on a GPU."""

import gc
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import Batches
from models import build_model
from utils.contribution import LocalContribution
from utils.flat import FlatParameters
from utils.training import graphs
from utils.training.device import set_up_device
from utils.training.graphs import WARM_UP, Graphed, GraphedSteps
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer
from utils.training.recipes import recipe_for

CPU = torch.device("cpu")


class RecordedOnCpu:
    """Stands for a CUDA graph: `replay` does the recorded work again, and recording does none of it."""

    def __init__(self, work):
        self.replay = work


@pytest.fixture
def recording(monkeypatch):
    """Let the CPU go the ways of CUDA; gives the list of what was recorded."""
    recorded = []

    class Stream:
        def wait_stream(self, other):
            pass

    class Within(Stream):
        def __init__(self, stream):
            pass

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", Within)
    monkeypatch.setattr(graphs, "_recording_stream", lambda device: Stream())
    monkeypatch.setattr(graphs, "_record", lambda work, stream: recorded.append(work) or RecordedOnCpu(work))
    return recorded


def test_work_is_recorded_once_after_the_warm_up_and_runs_once_a_call(recording):
    calls = []
    graphed = Graphed(lambda: calls.append(len(recording)), CPU)
    for _ in range(WARM_UP + 3):
        graphed()
    assert calls == [0] * WARM_UP + [1] * 3
    assert len(recording) == 1


def test_where_recording_fails_work_goes_on_eagerly_and_says_so_once(recording, monkeypatch):
    def fails(work, stream):
        raise RuntimeError("operation not permitted\nmore of it")

    monkeypatch.setattr(graphs, "_record", fails)
    calls = []
    graphed = Graphed(lambda: calls.append(1), CPU)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(WARM_UP + 5):
            graphed()
    assert len(calls) == WARM_UP + 5
    assert [str(w.message) for w in caught] == [
        "no CUDA graph (operation not permitted): kernels are launched one by one, which is slower"
    ]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.booleans(), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_steps_read_each_sample_in_its_place(sizes, augmented, epochs):
    seen = []
    total = sum(sizes)
    order = torch.zeros(total, dtype=torch.int64)
    draws = torch.zeros(3, total, dtype=torch.int64) if augmented else None
    steps = GraphedSteps(lambda some, drawn: seen.append((some, drawn)), order, draws)
    for epoch in range(epochs):
        order = torch.arange(total) * 10 + epoch
        draws = torch.stack([order + i for i in range(3)]) if augmented else None
        steps.begin(order, draws)
        seen.clear()
        for size in sizes:
            steps.run(size)
        assert [len(some) for some, _ in seen] == sizes
        assert torch.equal(torch.cat([some for some, _ in seen]), order)
        if augmented:
            assert torch.equal(torch.cat([drawn for _, drawn in seen], dim=1), draws)


def train(model, augment, device, graphs, bfloat16=False):
    """Train for some epochs of both steps; return all that came of it, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (61, 3, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (61,), generator=generator)
    flat = FlatParameters(build_model(model, (3, 8, 8), 4, seed=3, hidden_sizes=(40, 30)).to(device))
    statistics = torch.full((3,), 0.5), torch.full((3,), 0.25)
    batches = Batches(images, labels, *statistics, 16, augment, device, channels_last=model != "mlp")
    trainer = Trainer(flat, batches, seed=2, bfloat16=bfloat16, graphs=graphs)
    recipe, samples = recipe_for(model, two_steps=True, lr=1e-3, num_epochs=6), torch.arange(61)
    local = LocalContribution(flat.num_weights, device)
    dense = FlatOptimizer(flat, recipe)
    losses = [trainer.epoch(dense, samples, (0, 1, epoch), local) for epoch in range(6)]
    selected = torch.arange(0, flat.num_weights, 40, device=device)
    sparse = FlatOptimizer(flat, recipe, selected, dense)
    accuracies = []
    for epoch in range(6):
        losses.append(trainer.epoch(sparse, samples, (0, 2, epoch)))
        accuracies.append(trainer.accuracy(batches))
    losses.append(trainer.epoch(sparse, samples[:37], (1, 2, 0)))
    return torch.tensor(losses), accuracies, flat.snapshot().cpu(), local.value.cpu()


@pytest.mark.parametrize("model, augment", [("mlp", False), ("resnet56", True)])
def test_the_way_of_graphs_gives_the_same_bytes(model, augment, recording):
    """Two sizes of batch (16 and 13), two optimizers, then fewer samples: each kind is recorded once."""
    torch.set_num_threads(1)
    expected = train(model, augment, CPU, graphs=False)
    assert recording == []
    got = train(model, augment, CPU, graphs=True)
    # both steps: batches of 16 at once, the last ones of 13 after three epochs; the evaluation; batches of 16 again
    assert len(recording) == 2 + 2 + 1
    for one, other in zip(expected, got, strict=True):
        assert one == other if isinstance(one, list) else torch.equal(one, other)


def test_graphs_of_the_step_before_are_let_go_at_once(recording):
    """Not by the garbage collector, which would leave their memory taken for many rounds."""
    gc.disable()
    try:
        steps = GraphedSteps(lambda order, draws: None, torch.arange(4), None)
        steps.run(2)
        gone = weakref.ref(steps)
        steps.forget()
        del steps
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model, augment", [("mlp", False), ("vgg", True), ("resnet56", True)])
def test_graphs_on_cuda_agree_with_eager_steps_to_rounding(model, augment):
    cuda = set_up_device("cuda", "fp32", None)  # deterministic kernels: training amplifies any other rounding
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a graph that could not be recorded
        graphed = train(model, augment, cuda, graphs=True)
    eager = train(model, augment, cuda, graphs=False)
    torch.testing.assert_close(graphed[0], eager[0], rtol=1e-3, atol=1e-4)
    assert graphed[1] == pytest.approx(eager[1], abs=2 / 61)
    torch.testing.assert_close(graphed[2], eager[2], rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ["mlp", "vgg"])
def test_graphs_on_cuda_work_under_bfloat16(model):
    cuda = torch.device("cuda", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses, accuracies, vector, local = train(model, True, cuda, graphs=True, bfloat16=True)
    assert losses.isfinite().all() and vector.isfinite().all() and local.isfinite().all()
    assert losses[5] < losses[0]
