"""Batches: every sample once, fast augmentation equal to a plain one, the same draws on every device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.batches import PADDING, Batches, crop_and_flip, draw_augmentation
from data.seeding import torch_generator
from tests.epochs import epoch_of

MEAN, STD = torch.tensor([0.5, 0.25, 0.1]), torch.tensor([0.25, 0.5, 0.3])


def random_images(count, channels=3, height=8, width=6, seed=0):
    generator = torch_generator(seed, "images")
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def make_batches(count=50, batch_size=16, **options):
    """Batches whose labels are the sample numbers, so that a batch tells which samples it holds."""
    return Batches(random_images(count), torch.arange(count), MEAN, STD, batch_size, **options)


def plain_crop_and_flip(images, top, left, flip):
    """The slow reference: one sample at a time."""
    out = []
    for image, y, x, mirrored in zip(images, top.tolist(), left.tolist(), flip.tolist(), strict=True):
        channels, height, width = image.shape
        padded = torch.zeros(channels, height + 2 * PADDING, width + 2 * PADDING, dtype=torch.uint8)
        padded[:, PADDING : PADDING + height, PADDING : PADDING + width] = image
        crop = padded[:, y : y + height, x : x + width]
        out.append(crop.flip(2) if mirrored else crop)
    return torch.stack(out)


def test_normalisation_by_hand():
    """51 / 255 = 0.2: (0.2 - 0.5) / 0.25 = -1.2, (0.2 - 0.25) / 0.5 = -0.1, (0.2 - 0.1) / 0.3 = 1 / 3."""
    images = torch.full((1, 3, 1, 1), 51, dtype=torch.uint8)
    ((x, y),) = Batches(images, torch.tensor([7]), MEAN, STD, 4).in_order()
    torch.testing.assert_close(x.flatten(), torch.tensor([-1.2, -0.1, 1 / 3]))
    assert x.dtype == torch.float32 and x.shape == (1, 3, 1, 1) and y.tolist() == [7]


def test_crop_and_flip_by_hand():
    image = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).expand(4, 1, 2, 2)
    top, left, flip = torch.tensor([[4, 4, 3, 0], [4, 4, 5, 8], [0, 1, 0, 1]])
    assert crop_and_flip(image, top, left, flip).squeeze(1).tolist() == [
        [[1, 2], [3, 4]],
        [[2, 1], [4, 3]],
        [[0, 0], [2, 0]],
        [[0, 0], [0, 0]],
    ]


@settings(deadline=None, max_examples=40)
@given(
    count=st.integers(1, 9),
    channels=st.integers(1, 4),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_crop_and_flip_equals_the_plain_one(count, channels, height, width, seed):
    images = random_images(count, channels, height, width, seed)
    draws = draw_augmentation(count, torch_generator(seed, "draws"))
    assert torch.equal(crop_and_flip(images, *draws), plain_crop_and_flip(images, *draws))


def test_augmented_epoch_equals_the_plain_one():
    images, labels = random_images(50), torch.arange(50)
    indices = torch.arange(3, 44)
    batches = Batches(images, labels, MEAN, STD, 16, augment=True)
    epoch = list(epoch_of(batches, indices, torch_generator(1, "epoch")))

    generator = torch_generator(1, "epoch")
    order = indices[torch.randperm(len(indices), generator=generator)]
    pixels = plain_crop_and_flip(images[order], *draw_augmentation(len(indices), generator))
    expected = (pixels.double() / 255 - MEAN.double().view(3, 1, 1)) / STD.double().view(3, 1, 1)
    torch.testing.assert_close(torch.cat([x for x, _ in epoch]), expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([y for _, y in epoch]), order)


def test_draws_cover_every_crop_and_both_flips_evenly():
    top, left, flip = draw_augmentation(81_000, torch_generator(0, "draws"))
    counts = torch.bincount(top * 9 + left, minlength=81)
    assert len(counts) == 81 and 850 < counts.min() and counts.max() < 1150
    assert flip.unique().tolist() == [0, 1] and abs(flip.float().mean() - 0.5) < 0.01


@pytest.mark.parametrize("augment", [False, True])
def test_an_epoch_holds_every_sample_once_and_keeps_the_last_batch(augment):
    batches = make_batches(augment=augment)
    indices = torch.tensor([40, 3, 17, 8, *range(20, 38)])
    epoch = list(epoch_of(batches, indices, torch_generator(0, "epoch")))
    assert [len(y) for _, y in epoch] == [16, 6]
    assert [tuple(x.shape) for x, _ in epoch] == [(16, 3, 8, 6), (6, 3, 8, 6)]
    labels = torch.cat([y for _, y in epoch])
    assert labels.dtype == torch.int64 and labels.tolist() != indices.tolist()
    assert sorted(labels.tolist()) == sorted(indices.tolist())


def test_number_of_batches():
    batches = make_batches(count=50, batch_size=16)
    assert len(batches) == 50
    assert [len(batches.parts(n)) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_last_batch_of_one_joins_the_one_before_where_asked():
    batches = make_batches(count=50, batch_size=16)
    batches.smallest_batch = 2
    sizes = {}
    for count in (1, 2, 16, 17, 18, 33):
        epoch = list(epoch_of(batches, torch.arange(count), torch_generator(0, "epoch")))
        sizes[count] = [len(y) for _, y in epoch]
        assert len(batches.parts(count)) == len(epoch)
        assert sum(sizes[count]) == count
    assert sizes == {1: [1], 2: [2], 16: [16], 17: [17], 18: [16, 2], 33: [16, 17]}
    assert [len(y) for _, y in batches.in_order(torch.arange(17))] == [16, 1]


def test_in_order_is_plain_even_where_epochs_augment():
    plain, augmenting = make_batches(), make_batches(augment=True)
    list(epoch_of(augmenting, torch.arange(50), torch_generator(0, "epoch")))
    for (x, y), (x_plain, y_plain) in zip(augmenting.in_order(), plain.in_order(), strict=True):
        assert torch.equal(x, x_plain) and torch.equal(y, y_plain)
    chosen = torch.tensor([9, 2, 2])
    ((x, y),) = augmenting.in_order(chosen)
    assert y.tolist() == [9, 2, 2]
    assert torch.equal(x, torch.cat([x for x, _ in plain.in_order()])[chosen])


def test_draws_are_made_at_the_call_and_the_order_first():
    """Unread epochs cost the generator the same draws, and augmenting does not change the order."""
    generator, unread = torch_generator(0, "epoch"), torch_generator(0, "epoch")
    batches, indices = make_batches(augment=True), torch.arange(50)
    list(epoch_of(batches, indices, generator))
    epoch_of(batches, indices, unread)
    assert torch.equal(generator.get_state(), unread.get_state())
    plain = epoch_of(make_batches(augment=False), indices, torch_generator(0, "epoch"))
    augmented = epoch_of(batches, indices, torch_generator(0, "epoch"))
    assert all(torch.equal(y, y_plain) for (_, y), (_, y_plain) in zip(augmented, plain, strict=True))


def test_only_the_generator_decides_an_epoch():
    batches, indices = make_batches(augment=True), torch.arange(50)
    torch.manual_seed(1)
    first = [x for x, _ in epoch_of(batches, indices, torch_generator(0, "epoch", 1))]
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    np.random.seed(5)
    again = [x for x, _ in epoch_of(batches, indices, torch_generator(0, "epoch", 1))]
    other = [x for x, _ in epoch_of(batches, indices, torch_generator(0, "epoch", 2))]
    assert all(map(torch.equal, first, again)) and not any(map(torch.equal, first, other))


def test_a_caller_may_change_its_batch():
    batches = make_batches()
    for x, _ in batches.in_order():
        x.zero_()
    assert all(x.abs().sum() > 0 for x, _ in batches.in_order())
    assert torch.equal(batches.images, random_images(50))


@pytest.mark.parametrize(
    "images, labels, batch_size, reason",
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64), 1, "must be uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), 1, "must be uint8"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), 1, "must be int64"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), 1, "must be int64"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), 0, "batch size 0"),
    ],
)
def test_wrong_input_is_refused(images, labels, batch_size, reason):
    with pytest.raises(ValueError, match=reason):
        Batches(images, labels, MEAN, STD, batch_size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_same_batches():
    indices = torch.arange(50)
    on_cpu = epoch_of(make_batches(augment=True), indices, torch_generator(0, "epoch"))
    on_cuda = epoch_of(make_batches(augment=True, device="cuda"), indices, torch_generator(0, "epoch"))
    for (x_cpu, y_cpu), (x_cuda, y_cuda) in zip(on_cpu, on_cuda, strict=True):
        assert x_cuda.is_cuda and torch.equal(y_cpu, y_cuda.cpu())
        torch.testing.assert_close(x_cpu, x_cuda.cpu(), rtol=1e-6, atol=1e-6)
