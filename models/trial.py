"""What a network of a user's must be, tried before any work: tensors that can be sent, passes that can be repeated."""

import traceback
import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parameter import is_lazy

from utils.system.errors import UsageError
from utils.system.own_code import faults_named
from utils.system.tensors import raw_bytes


def has_batch_norm(network: nn.Module) -> bool:
    """Return whether the network has a BatchNorm, which cannot train on a batch of one sample."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def try_out(make: Callable[[], nn.Module], images: Tensor, num_classes: int, name: str) -> set[str]:
    """Make a network twice, train it on `images` (2, C, H, W) once, and evaluate it; return which buffers change.

    Nothing is left of it. Raises UsageError, beginning with --model and `name`, if the network cannot be used.
    """
    what = f"--model {name}"
    network, again = make(), make()
    if network is again:
        raise UsageError(f"{what} returned the same network twice: it must make a new one in each call")
    _check_tensors(network, what)
    ones, others = _tensors(network), _tensors(again)
    if ones.keys() != others.keys() or not all(_same(ones[name], others[name]) for name in ones):
        way = "draw them with torch, random or np.random (not default_rng), which the run seeds"
        raise UsageError(f"{what}: two calls with the same seed gave different initial weights: {way}")
    return _try_passes(network, images, num_classes, what)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, each once."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw_bytes(a), raw_bytes(b))


def _check_tensors(network: nn.Module, what: str) -> None:
    memory: list[tuple[int, int, str, bool]] = []
    for name, tensor in _tensors(network).items():
        trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        if is_lazy(tensor):
            raise UsageError(f"{what}: {name} is lazy, of no size yet: give its module its size")
        if tensor.device.type == "meta" or tensor.layout != torch.strided:
            raise UsageError(f"{what}: {name} is on {tensor.device}, {tensor.layout}: it must hold plain values")
        if trained and tensor.dtype != torch.float32:
            raise UsageError(f"{what}: parameter {name} is {tensor.dtype}: messages carry torch.float32 alone")
        if trained and tensor.numel() == 0:
            raise UsageError(f"{what}: parameter {name} has shape {tuple(tensor.shape)}: it must hold a value")
        if trained and not tensor.isfinite().all():
            raise UsageError(f"{what}: parameter {name} starts with values that are not finite")
        if tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
            memory.append((tensor.data_ptr(), last * tensor.element_size(), name, trained))
    end, before, was_trained = 0, "", False
    for begin, length, name, trained in sorted(memory):
        if begin <= end and (trained or was_trained):
            raise UsageError(f"{what}: {before} and {name} share memory: make them the same torch.nn.Parameter")
        if begin + length >= end:
            end, before, was_trained = begin + length, name, trained


def _try_passes(network: nn.Module, images: Tensor, num_classes: int, what: str) -> set[str]:
    size = "x".join(map(str, images.shape[1:]))
    held = {name: tensor.detach() for name, tensor in _tensors(network).items()}  # so that no other gets their memory
    before = {name: tensor.clone() for name, tensor in held.items()}
    network.eval()
    layer = partial(_layer_in, network)
    with faults_named(f"{what}, on images of {size}", layer), torch.no_grad():
        one, first, second = network(images[:1]), network(images), network(images)
    for name, tensor in _tensors(network).items():
        if name not in before or not _same(tensor, before[name]):
            raise UsageError(f"{what}: a pass in eval mode changed {name}")
    _check_output(first, (2, num_classes), what)
    _check_output(one, (1, num_classes), what)
    if not torch.equal(first, second):
        raise UsageError(f"{what}: two passes in eval mode over the same images gave different outputs")
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    untouched = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    for name, parameter in network.named_parameters():
        parameter.grad = untouched.get(name)
    network.train()
    kept = _kept_outside_tensors(network)
    with faults_named(f"{what}, in training on images of {size}", layer):
        output = network(images)
        _check_output(output, (2, num_classes), what)
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and name not in trained:
                raise UsageError(f"{what}: a pass in training makes {name}, which was frozen, need a gradient")
            if name in trained and parameter.grad is not untouched[name]:
                way = "torch.autograd.grad leaves it alone"
                raise UsageError(f"{what}: a pass in training removes the gradient of {name}: {way}")
            parameter.grad = None
        F.cross_entropy(output, torch.tensor([0, num_classes - 1])).backward()
    if all(parameter.grad is None for parameter in network.parameters()):
        raise UsageError(f"{what}: no parameter has a gradient: none of them is used")
    if changed := [name for name, value in _kept_outside_tensors(network).items() if kept.get(name) != value]:
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        lost = "no checkpoint saves that, so a run that is stopped and goes on may end otherwise; buffers are saved"
        warnings.warn(f"{what}: a pass in training changes {changed[0]}{others}: {lost}", stacklevel=2)
    for name, tensor in _tensors(network).items():
        if name not in before:
            raise UsageError(f"{what}: a pass in training adds {name}: make it with the network")
        if isinstance(tensor, nn.Parameter) and not _same(tensor, before[name]):
            way = "leave that to the optimizer" if name in trained else "make it a buffer"
            raise UsageError(f"{what}: a pass in training changes parameter {name}: {way}")
    changing = {name for name, buffer in network.named_buffers() if not _same(buffer, before[name])}
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    running = {id(statistic) for norm in norms for statistic in (norm.running_mean, norm.running_var)}
    changing |= {name for name, buffer in network.named_buffers() if id(buffer) in running}  # whatever the images are
    counters = {id(norm.num_batches_tracked) for norm in norms if norm.momentum is not None}
    for name, tensor in _tensors(network).items():
        in_place = name in held and tensor.data_ptr() == held[name].data_ptr()
        if (tensor.requires_grad or name in changing) and not in_place:
            way = f"change it in place, by {name}.copy_(...)"
            raise UsageError(f"{what}: a pass puts another tensor in the place of {name}: {way}")
    for name, buffer in network.named_buffers():
        if name in changing and buffer.dtype != torch.float32 and id(buffer) not in counters:
            way = "give its BatchNorm a momentum" if "num_batches_tracked" in name else "messages carry float32 alone"
            raise UsageError(f"{what}: buffer {name} is {buffer.dtype} and changes in training: {way}")
        if name in changing and not before[name].isfinite().all():
            way = "start at finite ones, such as 1e9"
            raise UsageError(f"{what}: buffer {name} changes in training, from values that are not finite: {way}")
    return {name for name in changing if network.get_buffer(name).dtype == torch.float32}


def _kept_outside_tensors(network: nn.Module) -> dict[str, str]:
    """Return the plain values and random generators that modules hold as attributes, in words, by name."""
    kept = {}
    for prefix, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Generator):
                value = value.get_state().tolist()
            elif not isinstance(value, (int, float, complex, str)) or name == "training":
                continue
            kept[f"{prefix}.{name}".lstrip(".")] = repr(value)  # NaN is not equal to itself
    return kept


def _layer_in(network: nn.Module, error: BaseException) -> str:
    """Return in words which layer of the network an error came from, the innermost; empty if from none."""
    names = {id(module): name for name, module in network.named_modules() if name}
    asked = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    inner = [module for module in asked if id(module) in names]
    if not inner:
        return ""
    kind = type(inner[-1])  # torch says its size, too; what a class of the user's says can fail
    words = str(inner[-1]).splitlines()[0].rstrip("(") if kind.__module__.startswith("torch.") else kind.__name__
    return f"layer {names[id(inner[-1])]}, {words}: "


def _check_output(output: object, shape: tuple[int, int], what: str) -> None:
    wanted = f"a tensor of {shape[0]}x{shape[1]}, an output for each image and class"
    if not isinstance(output, Tensor):
        raise UsageError(f"{what} returns a {type(output).__name__} for {shape[0]} images: it must return {wanted}")
    if output.shape != shape or not output.is_floating_point():
        given = f"{output.dtype} of shape {tuple(output.shape)}"
        raise UsageError(f"{what} returns {given} for {shape[0]} images: it must return {wanted}")
    if not output.isfinite().all():
        raise UsageError(f"{what} returns values that are not finite")
