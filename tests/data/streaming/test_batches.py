"""Batches of streamed images: they depend on nothing but the seed, whoever reads the files."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from data.datasets import load_dataset
from data.errors import DatasetError
from data.seeding import torch_generator
from data.streaming.batches import Reader, StreamedBatches, reading_pool
from data.streaming.folder import Streaming
from data.streaming.image_files import MEAN, STD, ImageFiles, decode
from data.streaming.workers import Pool
from tests import epochs

SMALL = Streaming(image_size=20)
CPU = torch.device("cpu")


def test_decode(tmp_path):
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    assert np.array_equal(decode(tmp_path / "a.png").numpy(), pixels.transpose(2, 0, 1))
    assert np.array_equal(decode(tmp_path / "grey.png").numpy(), np.stack([pixels[..., 0]] * 3))
    Image.new("I;16", (4, 5)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode(tmp_path / "deep.png")


def test_evaluation_is_resize_and_center_crop(trees):
    files = load_dataset("imagenet", trees["flat"], streaming=SMALL).test_images[:6]
    resize = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])
    expected = torch.stack([resize(decode(files.path(index))) for index in range(6)])
    assert torch.equal(Reader(224)((files, None)), expected)


def test_training_is_random_resized_crop_and_flip(trees):
    files, seeds = load_dataset("imagenet", trees["flat"], streaming=SMALL).test_images[:6], torch.arange(40, 46)
    augment = v2.Compose([v2.RandomResizedCrop(30), v2.RandomHorizontalFlip()])
    expected = []
    with torch.random.fork_rng(devices=[]):
        for index in range(6):
            torch.manual_seed(40 + index)
            expected.append(augment(decode(files.path(index))))
    assert torch.equal(Reader(30)((files, seeds)), torch.stack(expected))


def make_batches(trees, pool, **options):
    """Batches over the training files whose labels are the places of the files."""
    files = load_dataset("imagenet", trees["flat"], streaming=SMALL).train_images
    return StreamedBatches(files, torch.arange(24), torch.tensor(MEAN), torch.tensor(STD), 7, pool=pool, **options)


def epoch_of(batches, generator, indices=None):
    indices = torch.arange(24) if indices is None else indices
    images, labels = zip(*epochs.epoch_of(batches, indices, generator))
    return torch.cat(images), torch.cat(labels)


def test_a_batch_is_the_same_whoever_reads_it(trees):
    """Number of workers, an iteration that was broken off before, torch's own generator: nothing changes an epoch."""
    expected = epoch_of(make_batches(trees, reading_pool(20, 0, CPU), augment=True), torch_generator(1, "epoch", 3))
    torch.manual_seed(77)
    state = torch.get_rng_state()
    for workers in (1, 2):
        batches = make_batches(trees, reading_pool(20, workers, CPU), augment=True)
        next(iter(epochs.epoch_of(batches, torch.arange(24), torch_generator(9, "epoch"))))
        for _ in range(2):
            again = epoch_of(batches, torch_generator(1, "epoch", 3))
            assert all(map(torch.equal, again, expected))
    assert torch.equal(torch.get_rng_state(), state)
    images, labels = epoch_of(batches, torch_generator(1, "epoch", 4))
    assert not torch.equal(labels, expected[1]) and not torch.equal(images, expected[0])


@settings(deadline=None, max_examples=15)
@given(
    count=st.integers(1, 24),
    batch_size=st.integers(2, 9),
    smallest=st.integers(1, 2),
    augment=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_an_epoch_holds_every_sample_once_by_the_rule_of_batches(trees, count, batch_size, smallest, augment, seed):
    batches = make_batches(trees, reading_pool(8, 0, CPU), augment=augment, smallest_batch=smallest)
    batches.batch_size = batch_size
    indices = torch.randperm(24, generator=torch_generator(seed, "indices"))[:count]
    labels = [y for _, y in epochs.epoch_of(batches, indices, torch_generator(seed, "epoch"))]
    assert [len(y) for y in labels] == [part.stop - part.start for part in batches.parts(count)]
    assert sorted(torch.cat(labels).tolist()) == sorted(indices.tolist())
    assert all(len(y) >= smallest for y in labels) or count == 1


def batch_of(batches, chosen, draws=None):
    return next(batches.along(chosen, draws, [slice(None)]))


def test_in_order_and_single_batches_agree(trees):
    batches = make_batches(trees, reading_pool(20, 0, CPU), augment=True)
    images, labels = (torch.cat(parts) for parts in zip(*batches.in_order()))
    assert labels.tolist() == list(range(24)) and images.dtype == torch.float32
    chosen = torch.tensor([5, 3, 3])
    x, y = batch_of(batches, chosen)
    assert torch.equal(x, images[chosen]) and torch.equal(y, chosen)
    pixels = Reader(20)((batches.files[:1], None)).double() / 255
    expected = (pixels - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)
    torch.testing.assert_close(images[:1], expected.float(), rtol=1e-5, atol=1e-5)
    order, draws = batches.draw(torch.arange(24), torch_generator(0, "epoch"))
    augmented, _ = batch_of(batches, order[:4], draws[:, :4])
    first, _ = next(batches.along(order, draws, batches.parts(24)))
    assert torch.equal(augmented, first[:4]) and not torch.equal(augmented, batch_of(batches, order[:4])[0])


def test_augmentation_moves_and_mirrors(tmp_path):
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    files = ImageFiles(str(tmp_path), np.array([b"ramp.png"] * 200), np.zeros(200, np.int64))
    images = Reader(16)((files, torch.arange(200))).float()
    rising = (images[:, 0, 8, 15] > images[:, 0, 8, 0]).float().mean()
    assert 0.4 < rising < 0.6 and len(images[:, 0, 8, 0].unique()) > 20


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_later_is_named(tree, workers):
    dataset = load_dataset("imagenet", tree, streaming=SMALL)
    batches = StreamedBatches(
        dataset.train_images, dataset.train_labels, dataset.mean, dataset.std, 4, pool=reading_pool(20, workers, CPU)
    )
    gone = dataset.train_images.path(9)
    os.unlink(gone)
    with pytest.raises(DatasetError) as refused:
        list(batches.in_order())
    assert (
        str(refused.value)
        == f"{gone}: cannot be read (No such file or directory); replace it, then the same command goes on"
    )


def die(request):
    os._exit(1)


def test_a_worker_that_dies_is_no_hang():
    with pytest.raises(DatasetError, match="--num_workers: a loader process ended"):
        list(Pool(die, 1).map([1, 2]))


def test_a_strip_is_shown_by_its_middle_without_the_memory_of_all(tmp_path):
    """1 x 8000 pixels, in place of 256 x 2,048,000; up to 32 times as long as wide, nothing is cut before."""
    strip = np.zeros((1, 8000, 3), np.uint8)
    strip[:, 3990:4010] = 200
    Image.fromarray(strip).save(tmp_path / "strip.png")
    files = ImageFiles(str(tmp_path), np.array([b"strip.png"], dtype=object), np.zeros(1, np.int64))
    assert (Reader(224)((files, None)) == 200).all()


def test_no_samples_are_no_batch():
    batches = StreamedBatches(
        ImageFiles("", np.array([], dtype=object), np.zeros(0, np.int64)), torch.zeros(0, dtype=torch.int64),
        torch.zeros(3), torch.ones(3), 4, pool=Pool(Reader(8), 0),
    )  # fmt: skip
    assert list(batches.in_order(torch.arange(0))) == []
