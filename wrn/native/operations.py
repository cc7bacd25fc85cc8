"""Operations of the networks that run on kernels of our own while `enabled`, and as torch has them elsewhere.

With memory "low" they keep BN's input instead of BN-ReLU's output (`recomputation`).

Results are the same up to rounding. Where activations are bf16, statistics, sums and the gradients of weights are
fp32 (torch rounds the latter to bf16 on the way).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wrn.native import recomputation, winograd
from wrn.native.library import KINDS, Kind, arranged, floats, has_amx, kernels_of, library, numbers, pointer

_enabled: ContextVar[Kind | None] = ContextVar("enabled", default=None)
_Module = TypeVar("_Module", bound=nn.Module)


@contextmanager
def enabled(kind: Kind) -> Iterator[None]:
    """Within, tensors of that kind in channels_last layout on the CPU go to the kernels.

    These compute BN-ReLU, sums, 3x3 convolutions of stride 1 and the gradients of weights of stride 2 (`winograd`); in
    bf16 with AMX those of all weights, and nothing else of convolutions. Raises wrn.Error if there are none.
    """
    library(kind)
    token = _enabled.set(kind)
    try:
        yield
    finally:
        _enabled.reset(token)


def bn_relu(bn: nn.Module, x: Tensor) -> Tensor:
    """ReLU after BN, (N, C, H, W) -> the same."""
    if not (_fits(x) or recomputation.keeps_little()):  # first, as torch.fx cannot ask for the shape of x
        return F.relu(bn(x))
    if not (_computes_as(bn, nn.BatchNorm2d) and _is_plain(bn, x)):
        return F.relu(bn(x))
    if not (_fits(x) and bn.weight.dtype == torch.float32):
        return recomputation.bn_relu(bn, x) if bn.training and recomputation.keeps_little() else F.relu(bn(x))
    if bn.training:
        return bn_relu_and_x(bn, x)[0]
    if torch.is_grad_enabled():
        return F.relu(bn(x))
    return scale_shift_relu(x, *scale_and_shift(bn))


def bn_relu_and_x(bn: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """ReLU after BN, and x again, for a shortcut, so that the gradients of both meet in one pass."""
    if (
        _computes_as(bn, nn.BatchNorm2d)
        and bn.training
        and _fits(x)
        and _is_plain(bn, x)
        and bn.weight.dtype == torch.float32
    ):
        version, statistics = getattr(x, "statistics", (None, None))
        # Not those of what x was before something changed it in place
        y, x = _BnRelu.apply(x, bn.weight, bn.bias, bn, statistics if version == x._version else None)
        return y, x
    return bn_relu(bn, x), x


def add(branch: Tensor, shortcut: Tensor) -> Tensor:
    """Their sum; the statistics that the BN after it will want are taken on the way."""
    fits = _fits(branch) and _fits(shortcut) and branch.shape == shortcut.shape and torch.is_grad_enabled()
    if not fits:
        return branch + shortcut
    mean, variance = floats(branch.shape[1]), floats(branch.shape[1])
    total: Tensor = _Add.apply(branch, shortcut, mean, variance)
    total.statistics = (total._version, (mean, variance))  # type: ignore[attr-defined]
    return total


def conv2d(conv: nn.Module, x: Tensor) -> Tensor:
    """The convolution of x, (N, C, H, W) -> (N, C', H', W'), or what else stands in its place."""
    if not _computes_as(conv, nn.Conv2d) or _is_watched(conv):
        return conv(x)
    if _is_enabled_for(x) and conv.bias is None and winograd.fits(conv, x):
        return winograd.conv2d(conv, x)
    if torch.is_grad_enabled() and (gradient := _gradient_of_weight(conv, x)) is not None:
        y: Tensor = _Conv.apply(x, conv.weight, conv, gradient, recomputation.source_of(x))
        return y
    narrow = conv.in_channels < 8 and conv.bias is None and (conv.padding, conv.groups) == ((0, 0), 1)
    if narrow and conv.kernel_size == (1, 1) and conv.stride != (1, 1):
        # oneDNN's gradient of such a weight never ends (torch 2.15, two threads, channels_last)
        return F.conv2d(x[:, :, :: conv.stride[0], :: conv.stride[1]], conv.weight)
    plain = conv.bias is None and isinstance(conv.padding, tuple) and conv.padding_mode == "zeros"
    return recomputation.conv2d(conv, x) if plain and recomputation.keeps_little() else conv(x)


def _computes_as(module: nn.Module, kind: type[_Module]) -> TypeGuard[_Module]:
    """Whether it is of that kind, and not of one derived from it that computes something else."""
    return isinstance(module, kind) and type(module).forward is kind.forward


def _is_enabled_for(x: Tensor) -> bool:
    """Nothing is in compiled code, in which torch 2.11 cannot read the setting."""
    return x.dtype in KINDS and not torch.compiler.is_compiling() and KINDS[x.dtype] == _enabled.get()


def _fits(x: Tensor) -> bool:
    return (
        _is_enabled_for(x)
        and x.device.type == "cpu"
        and x.shape[1] % 16 == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > 0
    )


def _gradient_of_weight(conv: nn.Conv2d, x: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What makes it in fp32 of x and the gradient of the convolution's output; None where that is left to autograd."""
    if not _is_enabled_for(x) or conv.bias is not None or not conv.weight.requires_grad:
        return None
    if winograd.fits(conv, x, stride=2):
        return partial(winograd.weight_gradient, stride=2)
    k, s = conv.kernel_size[0], conv.stride[0]
    suits = (
        x.dtype == torch.bfloat16
        and _fits(x)
        and conv.weight.dtype == torch.float32
        and conv.out_channels % 16 == 0
        and k in (1, 3)
        and (conv.kernel_size, conv.stride, conv.padding) == ((k, k), (s, s), (k // 2, k // 2))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
    )
    if not suits:
        return None
    return partial(weight_gradient, kernel_size=k, stride=s) if has_amx() else partial(_gradient_by_torch, conv)


def _is_plain(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """It keeps running averages as is usual, nobody looks at its output, and torch would not refuse x."""
    usual = bn.affine and bn.track_running_stats and bn.momentum is not None
    usual = usual and x.shape[1] == bn.num_features and x.numel() > x.shape[1]
    return usual and not _is_watched(bn)


def _is_watched(module: nn.Module) -> bool:
    """Whether hooks wait for what goes in or comes out, which our operations pass by."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or torch.nn.modules.module._has_any_global_hook()


class _BnRelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        bn: nn.BatchNorm2d,
        statistics: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        count, channels = x.numel() // x.shape[1], x.shape[1]
        mean, variance = statistics or (floats(channels), floats(channels))
        if statistics is None:
            kernels_of(x.dtype).bn_statistics(pointer(x), *numbers(count, channels), pointer(mean), pointer(variance))
        inverse = (variance + bn.eps).rsqrt()
        scale = weight * inverse
        shift = bias - mean * scale
        assert bn.running_mean is not None and bn.running_var is not None and bn.num_batches_tracked is not None
        assert bn.momentum is not None
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.running_var.lerp_(variance * (count / max(count - 1, 1)), bn.momentum)
        bn.num_batches_tracked.add_(1)
        ctx.save_for_backward(x, mean, inverse, scale, shift)
        ctx.set_materialize_grads(False)
        ctx.again, ctx.compute_again = None, _bn_relu_again
        return scale_shift_relu(x, scale, shift), x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.again = None
        x, mean, inverse, scale, shift = ctx.saved_tensors
        x = arranged(x)
        dy, more = (each if each is None else arranged(each) for each in gradients)
        if dy is None:
            return more, None, None, None, None
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)
        kernels_of(x.dtype).bn_relu_backward(
            *map(pointer, (dy, x, more, dx)),
            *numbers(x.numel() // x.shape[1], x.shape[1]),
            *map(pointer, (mean, inverse, scale, shift, dweight, dbias)),
        )
        return dx, dweight, dbias, None, None


def _bn_relu_again(node: Any) -> Tensor:
    x, _, _, scale, shift = node.saved_tensors
    return scale_shift_relu(arranged(x), scale, shift)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, branch: Tensor, shortcut: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        total = torch.empty_like(branch)
        kernels_of(branch.dtype).add_with_statistics(
            *map(pointer, (branch, shortcut, total)),
            *numbers(branch.numel() // branch.shape[1], branch.shape[1]),
            *map(pointer, (mean, variance)),
        )
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], gradients[0], None, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        conv: nn.Conv2d,
        gradient: Callable[[Tensor, Tensor], Tensor],
        source: Any,
    ) -> Tensor:
        """`gradient`: what makes the weight's of x and the output's.

        `source`: the node of the BN-ReLU that x came from, if x is to be had from it once more.
        """
        weight_then = _as(x, weight)
        ctx.conv, ctx.gradient, ctx.source = conv, gradient, source
        ctx.save_for_backward(*((x, weight_then) if source is None else (weight,)))
        return F.conv2d(x, weight_then, None, conv.stride, conv.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.source is None:
            x, weight = map(arranged, ctx.saved_tensors)
        else:  # whose own turn in the backward pass is still to come
            x = recomputation.given(ctx.source)
            weight = _as(x, ctx.saved_tensors[0])
        dy, dx, dw = _as(x, gradients[0]), None, None
        if ctx.needs_input_grad[0]:
            dx = _backward(ctx.conv, x, weight, dy, [True, False, False])[0]
        if ctx.needs_input_grad[1]:
            dw = ctx.gradient(x, dy)
        return dx, dw, None, None, None


def _as(x: Tensor, tensor: Tensor) -> Tensor:
    """Of the type of x, in channels_last layout."""
    return arranged(tensor.to(x.dtype))


def _backward(conv: nn.Conv2d, x: Tensor, weight: Tensor, dy: Tensor, wanted: list[bool]) -> Any:
    around = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
    return torch.ops.aten.convolution_backward(dy, x, weight, None, *around, wanted)


def _gradient_by_torch(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> Tensor:
    like = torch.empty_like(conv.weight, dtype=x.dtype)  # only how it lies matters
    gradient: Tensor = _backward(conv, x, like, dy, [False, True, False])[1]
    return gradient.float()


def weight_gradient(x: Tensor, dy: Tensor, kernel_size: int, stride: int) -> Tensor:
    """Of a convolution padded by half its kernel, 1x1 or 3x3, without bias; fp32 (out, in, k, k), channels_last.

    `x` (N, in, H, W) its input, `dy` (N, out, H', W') the gradient of its output: bf16, channels_last, with channels
    that are multiples of 16.
    """
    (n, channels, height, width), out = x.shape, dy.shape[1]
    sizes = numbers(n, height, width, channels, out, kernel_size, stride, torch.get_num_threads())
    kernels = library("bf16")
    scratch = torch.empty(kernels.weight_gradient_scratch(*sizes), dtype=torch.bfloat16, device="cpu")
    dw = floats(out, kernel_size, kernel_size, channels).permute(0, 3, 1, 2)
    kernels.weight_gradient(*map(pointer, (x, dy, dw, scratch)), *sizes)
    return dw


@torch.no_grad()
def scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What BN computes in evaluation is x * scale + shift: both (C,), fp32."""
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return scale.float(), (bn.bias - bn.running_mean * scale).float()


def scale_shift_relu(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """max(0, x * scale + shift) of x (N, C, H, W), bf16 or fp32, and fp32 (C,): channels_last, C a multiple of 16."""
    y = torch.empty_like(x)
    kernels_of(x.dtype).scale_shift_relu(
        *map(pointer, (x, y)), *numbers(x.numel() // x.shape[1], x.shape[1]), *map(pointer, (scale, shift))
    )
    return y
