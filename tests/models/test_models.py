"""The networks: their published sizes, shapes and initial weights, and how they refuse what cannot work."""

import math

import pytest
import torch
from torch import nn

from models import MODEL_NAMES, build_model
from models.mobilenet import MobileNetV1
from models.resnet import BasicBlock, OptionAShortcut, ResNet
from models.vgg import narrowed

SMALL_INPUT = {"mlp": (1, 8, 8), "vgg": (1, 8, 8), "resnet56": (1, 8, 8), "mobilenetv1": (1, 17, 17)}


def count(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those with two or more dimensions."""
    sizes = [(p.numel(), p.ndim) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, ndim in sizes if ndim >= 2)


# --- parameter counts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "classes", "hidden", "batch_norm", "weights", "rest"),
    [
        ((1, 28, 28), 10, (512, 512), False, 784 * 512 + 512 * 512 + 512 * 10, 512 + 512 + 10),
        ((1, 28, 28), 10, (512, 512), True, 784 * 512 + 512 * 512 + 512 * 10, 2 * 512 + 2 * 512 + 10),
        ((3, 32, 32), 100, (512, 512), False, 3072 * 512 + 512 * 512 + 512 * 100, 512 + 512 + 100),
        ((1, 8, 8), 10, (128, 32, 16), False, 64 * 128 + 128 * 32 + 32 * 16 + 16 * 10, 128 + 32 + 16 + 10),
        ((1, 28, 28), 10, (), False, 784 * 10, 10),
        ((1, 28, 28), 10, (), True, 784 * 10, 10),
    ],
)
def test_mlp_counts(shape, classes, hidden, batch_norm, weights, rest):
    model = build_model("mlp", shape, classes, hidden_sizes=hidden, batch_norm=batch_norm)
    assert count(model) == (weights + rest, weights)


def vgg_counts(shape, classes, width=1):
    channels, rows, columns = shape
    a, b, c, d = (int(size * width) for size in (128, 256, 512, 1024))
    convs = 9 * (channels * a + a * a + a * b + b * b + b * c + c * c)
    weights = convs + c * (rows // 8) * (columns // 8) * d + d * d + d * classes
    biases = 2 * (a + b + c)
    return weights + biases + 2 * (2 * a + 2 * b + 2 * c + 2 * d) + classes, weights


@pytest.mark.parametrize(
    ("shape", "classes", "total", "weights"),
    [
        ((3, 32, 32), 10, 14_031_498, 14_022_016),
        ((3, 32, 32), 100, 14_123_748, 14_114_176),
        ((1, 28, 28), 10, 10_359_178, 10_349_696),
        ((1, 8, 8), 10, 6_164_874, 6_155_392),
    ],
)
def test_vgg_counts(shape, classes, total, weights):
    assert vgg_counts(shape, classes) == (total, weights)
    assert count(build_model("vgg", shape, classes)) == (total, weights)


def resnet_counts(channels, classes, depth=56):
    n = (depth - 2) // 6
    same_size = 2 * n * 16 * 16 + (2 * n - 1) * (32 * 32 + 64 * 64)
    convs = 9 * (channels * 16 + same_size + 16 * 32 + 32 * 64)
    weights = convs + 64 * classes
    return weights + 2 * (16 + 2 * n * (16 + 32 + 64)) + classes, weights


def test_narrow_networks_have_fewer_channels():
    # VGG at a quarter: 32, 64, 128 channels and 256 units; ResNet56 at a half: 8, 16, 32 channels.
    assert vgg_counts((3, 32, 32), 10, 0.25) == (881_322, 878_944)
    assert count(build_model("vgg", (3, 32, 32), 10, width=0.25)) == (881_322, 878_944)
    n, weights = 9, 0
    weights += 9 * (3 * 8 + 2 * n * 8 * 8 + (2 * n - 1) * (16 * 16 + 32 * 32) + 8 * 16 + 16 * 32) + 32 * 10
    assert count(build_model("resnet56", (3, 32, 32), 10, width=0.5)) == (weights + 2 * (8 + 2 * n * 56) + 10, weights)
    assert [narrowed(16, width) for width in (0.01, 0.5, 0.74, 0.76, 1, 1.5)] == [8, 8, 8, 16, 16, 24]


@pytest.mark.parametrize(
    ("shape", "classes", "total", "weights"),
    [
        ((3, 32, 32), 10, 853_018, 848_944),
        ((3, 224, 224), 10, 853_018, 848_944),  # global average pooling: the size of the input adds none
        ((3, 32, 32), 100, 858_868, 854_704),
        ((1, 8, 8), 10, 852_730, 848_656),
    ],
)
def test_resnet56_counts(shape, classes, total, weights):
    assert resnet_counts(shape[0], classes) == (total, weights)
    assert count(build_model("resnet56", shape, classes)) == (total, weights)


@pytest.mark.parametrize(("depth", "total"), [(20, 269_722), (32, 464_154), (44, 658_586), (110, 1_727_962)])
def test_resnet_counts_at_the_published_depths(depth, total):
    assert resnet_counts(3, 10, depth)[0] == total
    assert count(ResNet(3, 10, depth)) == resnet_counts(3, 10, depth)


def mobilenet_counts(channels, classes, width=1.0):
    sizes = [int(width * size) for size in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
    weights = 9 * channels * sizes[0]
    norms = 2 * sizes[0]
    for before, after in zip(sizes, sizes[1:]):
        weights += 9 * before + before * after
        norms += 2 * before + 2 * after
    weights += sizes[-1] * classes
    return weights + norms + classes, weights


@pytest.mark.parametrize(
    ("shape", "classes", "width", "total"),
    [
        ((3, 224, 224), 1000, 1.0, 4_231_976),
        ((3, 224, 224), 1000, 0.75, 2_585_560),
        ((3, 224, 224), 1000, 0.5, 1_331_592),
        ((3, 224, 224), 1000, 0.25, 470_072),
        ((3, 32, 32), 10, 1.0, 3_217_226),
        ((1, 28, 28), 10, 1.0, 3_216_650),
    ],
)
def test_mobilenetv1_counts(shape, classes, width, total):
    assert mobilenet_counts(shape[0], classes, width)[0] == total
    model = build_model("mobilenetv1", shape, classes, width=width)
    assert count(model) == mobilenet_counts(shape[0], classes, width)


def test_mobilenetv1_weights():
    assert mobilenet_counts(3, 1000)[1] == 4_209_088


# --- forward and backward ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mlp", (1, 1, 1)),
        ("mlp", (3, 5, 7)),
        ("vgg", (1, 8, 8)),
        ("vgg", (1, 28, 28)),
        ("vgg", (3, 15, 24)),
        ("resnet56", (1, 8, 8)),
        ("resnet56", (3, 9, 11)),
        ("resnet56", (3, 32, 32)),
        ("resnet56", (3, 64, 64)),
        ("mobilenetv1", (1, 17, 17)),
        ("mobilenetv1", (1, 28, 28)),
        ("mobilenetv1", (4, 40, 33)),
        ("mobilenetv1", (3, 224, 224)),
    ],
)
def test_forward_gives_one_finite_row_of_logits_a_sample(name, shape):
    model = build_model(name, shape, 7).eval()
    images = torch.randn(2, *shape)
    before = images.clone()
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert torch.equal(images, before), "an in-place layer has changed the input"


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_gradients_reach_every_parameter(name):
    shape = SMALL_INPUT[name]
    model = build_model(name, shape, 3, batch_norm=True)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_no_bias_comes_before_a_batch_norm_but_in_vgg(name):
    model = build_model(name, SMALL_INPUT[name], 3, batch_norm=True)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    convolutions_of_vgg = 6 if name == "vgg" else 0  # which have biases in the authors' code
    without = [True] * (len(layers) - 1 - convolutions_of_vgg)
    assert [layer.bias is None for layer in layers] == [False] * convolutions_of_vgg + without + [False]


def test_vgg_layer_order():
    pair = ["Conv2d", "BatchNorm2d", "ReLU", "Conv2d", "MaxPool2d", "BatchNorm2d", "ReLU"]
    fully_connected = ["Linear", "BatchNorm1d", "ReLU"] * 2
    layers = [type(layer).__name__ for layer in build_model("vgg", (1, 8, 8), 10)]
    assert layers == pair * 3 + ["Flatten"] + fully_connected + ["Linear"]


def test_mobilenetv1_ends_on_a_7x7_map_for_imagenet():
    model = MobileNetV1(3, 10, width=0.25).eval()
    with torch.no_grad():
        assert model.features(torch.zeros(1, 3, 224, 224)).shape == (1, 256, 7, 7)


def test_mobilenetv1_keeps_8_channels_at_least():
    widths = {m.out_channels for m in MobileNetV1(3, 10, width=0.01).modules() if isinstance(m, nn.Conv2d)}
    assert min(widths) == 8


# --- option-A shortcuts -----------------------------------------------------------------------------------


def test_option_a_shortcut_by_hand():
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    out = OptionAShortcut(extra_channels=2, stride=2)(x)
    zeros = [[0.0, 0.0], [0.0, 0.0]]
    assert out.tolist() == [[zeros, [[0.0, 2.0], [6.0, 8.0]], [[9.0, 11.0], [15.0, 17.0]], zeros]]


def test_a_block_whose_convolutions_give_zero_is_the_relu_of_its_shortcut():
    block = BasicBlock(2, 4, stride=2)
    nn.init.zeros_(block.conv2.weight)
    x = torch.arange(-8.0, 24.0).reshape(1, 2, 4, 4)
    before = x.clone()
    # Rows and columns 0 and 2 of the channels that start at -8 and at 8; the negative values become zero.
    assert block(x)[0, 1:3].tolist() == [[[0.0, 0.0], [0.0, 2.0]], [[8.0, 10.0], [16.0, 18.0]]]
    assert not block(x)[0, [0, 3]].any()
    assert torch.equal(x, before)


def test_resnet56_shortcuts_have_no_parameters():
    model = build_model("resnet56", (3, 32, 32), 10)
    shortcuts = [m for m in model.modules() if isinstance(m, OptionAShortcut)]
    assert len(shortcuts) == 2
    assert all(list(shortcut.parameters()) == [] for shortcut in shortcuts)


# --- initial weights --------------------------------------------------------------------------------------


def state_bytes(model):
    return {key: value.numpy().tobytes() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(1)
    first = build_model(name, SMALL_INPUT[name], 10, seed=5)
    torch.manual_seed(2)
    again = build_model(name, SMALL_INPUT[name], 10, seed=5)
    other = build_model(name, SMALL_INPUT[name], 10, seed=6)
    assert state_bytes(first) == state_bytes(again)
    for key, p in first.named_parameters():
        if p.ndim >= 2:
            assert not torch.equal(p, other.get_parameter(key)), f"{key} does not depend on the seed"


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_global_generator_is_left_as_it_was(name):
    before = torch.get_rng_state()
    build_model(name, SMALL_INPUT[name], 10, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_generator_is_left_as_it_was_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ValueError):
        build_model("mobilenetv1", (3, 32, 32), 10, width=-1.0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["resnet56", "mobilenetv1"])
def test_initial_weights_are_he_normal_by_fan_in(name):
    model = build_model(name, (3, 32, 32), 100)
    for key, p in model.named_parameters():
        if p.ndim >= 2:
            fan_in = p[0].numel()
            # Four standard errors of a standard deviation estimated from that many normal values, and some.
            tolerance = 4 / math.sqrt(2 * p.numel()) + 0.01
            assert p.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=tolerance), key
    assert not model.fc.bias.any()


def test_parameters_are_trainable_float32_on_the_cpu():
    for name in MODEL_NAMES:
        with torch.device("meta"):  # whatever the default device is
            model = build_model(name, SMALL_INPUT[name], 2)
        for p in model.parameters():
            assert (p.requires_grad, p.dtype, p.device.type) == (True, torch.float32, "cpu")


# --- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "classes", "message"),
    [
        (
            "vgg16", (3, 32, 32), 10,
            "model 'vgg16' is not known: choose one of mlp, vgg, resnet56, mobilenetv1",
        ),
        (
            "mlp", (1, 8, 8), 1,
            "model mlp: 1 given as the number of classes: it takes at least 2",
        ),
        (
            "mlp", (28, 28), 10,
            "model mlp: input of shape 28x28: it takes (channels, height, width), each at least 1",
        ),
        (
            "mlp", (), 10,
            "model mlp: input of shape (): it takes (channels, height, width), each at least 1",
        ),
        (
            "vgg", (0, 8, 8), 10,
            "model vgg: input of shape 0x8x8: it takes (channels, height, width), each at least 1",
        ),
        (
            "vgg", (3, 32, 7), 10,
            "model vgg: input 3x32x7 is too small: three 2x2 poolings have to leave a pixel, so height and "
            "width must be at least 8; enlarge the images or choose mlp",
        ),
        (
            "vgg", (3, 224, 129), 10,
            "model vgg: input 3x224x129 is too large: its first fully connected layer grows with the area, "
            "so height and width must be at most 128; shrink the images or choose resnet56 or mobilenetv1",
        ),
        (
            "resnet56", (1, 7, 9), 10,
            "model resnet56: input 1x7x9 is too small: two halvings have to leave 2x2 pixels, so height and "
            "width must be at least 8; enlarge the images or choose mlp",
        ),
        (
            "mobilenetv1", (1, 16, 17), 10,
            "model mobilenetv1: input 1x16x17 is too small: each of five halvings has to find two pixels, so "
            "height and width must be at least 17; enlarge the images or choose mlp or vgg or resnet56",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_one_line(name, shape, classes, message):
    with pytest.raises(ValueError) as error:
        build_model(name, shape, classes)
    assert str(error.value) == message


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_a_width_that_cannot_work_is_refused(width):
    with pytest.raises(ValueError) as error:
        build_model("mobilenetv1", (3, 32, 32), 10, width=width)
    assert str(error.value) == (
        f"model mobilenetv1: width {width} given: it must be finite and above 0, as 0.25, 0.5 or 1.0"
    )


def test_hidden_sizes_that_cannot_work_are_refused():
    with pytest.raises(ValueError) as error:
        build_model("mlp", (1, 8, 8), 10, hidden_sizes=(64, 0))
    assert str(error.value) == "model mlp: hidden sizes 64 0 given: each must be at least 1"


@pytest.mark.parametrize("depth", [2, 18, 55])
def test_resnet_depth_is_6n_plus_2(depth):
    with pytest.raises(ValueError, match=rf"depth {depth} given: it must be 6n \+ 2"):
        ResNet(3, 10, depth=depth)
