"""3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.

Lavin & Gray 2015 (arXiv 1509.09308), in `winograd.cpp` and `winograd_gradient.cpp`. On a CPU without AMX a step's time
goes into multiplications, and this alone makes fewer. Results differ from the exact sum by 5e-7 to 2e-6 of their length
in fp32, whose direct sum errs by 4e-7, and by 1.2% in bf16, whose direct sum of rounded factors errs by 0.3%. Of
convolutions of stride 2 only the gradient of the weight is computed so, by 9/16 of the multiplications.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wrn.native import recomputation
from wrn.native.library import KINDS, WIDTHS, Kind, arranged, floats, has_amx, kernels_of, numbers, pointer

_LEAST_CHANNELS = 16  # below, the transforms cost more than they save
# Of an input and an output channel, by stride: where direct convolutions and their gradients are no faster
_LEAST_PAIRS = {("bf16", 1): 16 * 64, ("bf16", 2): 16 * 32, ("fp32", 1): 0, ("fp32", 2): 32 * 32}
_CHUNK = 2 << 20  # bytes of what is transformed at a time for the weight's gradient, for the caches


def suits(kind: Kind, channels: int, out: int) -> bool:
    """Whether the kernels take, and gain from, a 3x3 convolution of that many channels to so many."""
    return all(each >= _LEAST_CHANNELS and each % WIDTHS[kind] == 0 for each in (channels, out))


def fits(conv: nn.Conv2d, x: Tensor, stride: int = 1) -> bool:
    """Whether the convolution of x (N, C, H, W) is suitable, and not faster directly, as in bf16 with AMX.

    It must be 3x3, of that stride, wide enough; x large enough, bf16 or fp32 in channels_last layout on a CPU. Of
    stride 2, only the gradient of the weight is to be had.
    """
    kind = KINDS.get(x.dtype)
    return (
        kind is not None
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (stride, stride), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and suits(kind, conv.in_channels, conv.out_channels)
        and conv.in_channels * conv.out_channels >= _LEAST_PAIRS[kind, stride]
        and conv.weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] == conv.in_channels
        and not (kind == "bf16" and has_amx())
        and _pays(x, stride)
    )


def _pays(x: Tensor, stride: int) -> bool:
    n, channels, height, width = x.shape
    output = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    return bool(kernels_of(x.dtype).winograd_pays(*numbers(n, *output, channels)))


def conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without bias of a map that it `fits`; differentiable."""
    if not torch.is_grad_enabled():
        return convolve(x, prepared(conv.weight, x.dtype), conv.out_channels)
    y: Tensor = _Winograd.apply(x, conv.weight, recomputation.source_of(x))
    return y


@torch.no_grad()
def prepared(weight: Tensor, dtype: torch.dtype = torch.float32, for_gradient: bool = False) -> Tensor:
    """The transform of a weight (out, in, 3, 3) as `convolve` wants it for maps of that type: 36 rows, each of panels.

    `for_gradient`: of that which takes the gradient of the output to the gradient of the input.
    """
    out, channels = weight.shape[:2]
    (a, b), wide = (out, channels) if for_gradient else (channels, out), 2 * WIDTHS[KINDS[dtype]]
    made = _room(36, -(-b // wide) * wide * a, dtype)
    weight = arranged(weight)
    sizes = numbers(made.stride(0), out, channels, int(for_gradient))
    kernels_of(dtype).winograd_weight(pointer(weight), pointer(made), *sizes)
    return made


def convolve(x: Tensor, weight: Tensor, out: int) -> Tensor:
    """Of x (N, in, H, W) and a `prepared` weight: (N, out, H, W), both in channels_last layout."""
    n, channels, height, width = x.shape
    y = torch.empty(n, height, width, out, dtype=x.dtype, device="cpu").permute(0, 3, 1, 2)
    kernels_of(x.dtype).winograd_convolve(
        pointer(x), pointer(weight), *numbers(weight.stride(0)), pointer(y), *numbers(n, height, width, channels, out),
        pointer(None), pointer(None), *numbers(0),
    )  # fmt: skip
    return y


def weight_gradient(x: Tensor, dy: Tensor, stride: int = 1) -> Tensor:
    """From x (N, in, H, W) and dy (N, out, H', W'), channels_last: (out, in, 3, 3), fp32. The stride is 1 or 2."""
    (n, channels, height, width), out, wide = x.shape, dy.shape[1], 2 * WIDTHS[KINDS[x.dtype]]
    across, places = -(-channels // wide) * wide, 36 if stride == 1 else 81
    tiles, threads = n * -(-dy.shape[2] // 4) * -(-dy.shape[3] // 4), torch.get_num_threads()
    sums_size, tile_size = 36 * 4 * across * out, places * (across + out) * x.itemsize  # bytes
    # Each thread with tiles and sums of its own, unless these sums are more than half of what is transformed
    teams = threads if 2 * threads * sums_size <= tiles * tile_size else 1
    # Few enough tiles at a time for the caches, and enough that the sums are not all that is read
    most = max(_CHUNK // tile_size, 128)
    lots = -(-tiles // (most * teams)) * teams
    at_a_time = -(-tiles // (2 * lots)) * 2
    teams = min(teams, -(-tiles // at_a_time))
    made = _room(teams * places, at_a_time * (across + out), x.dtype)
    sums = _room(teams * 36, out * across, torch.float32)
    dw = floats(out, 3, 3, channels).permute(0, 3, 1, 2)
    kernels_of(x.dtype).winograd_weight_gradient(
        pointer(x), pointer(dy), pointer(dw), pointer(made), *numbers(made.stride(0)), pointer(sums),
        *numbers(teams, at_a_time, n, height, width, channels, out, stride),
    )  # fmt: skip
    return dw


def _room(rows: int, count: int, dtype: torch.dtype) -> Tensor:
    """For so many rows of numbers, of which no two begin at one place of the caches."""
    return torch.empty(rows, count + 64 // dtype.itemsize, dtype=dtype, device="cpu")


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, source: Any) -> Tensor:
        """`source`: the node of the BN-ReLU that x came from, if x is to be had from it once more."""
        ctx.source = source
        ctx.save_for_backward(*((x, weight) if source is None else (weight,)))
        return convolve(x, prepared(weight, x.dtype), len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, dx, dw = arranged(gradients[0]), None, None
        *kept, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            x = arranged(kept[0]) if ctx.source is None else recomputation.given(ctx.source)
            dw = weight_gradient(x, dy)
        if ctx.needs_input_grad[0]:
            dx = convolve(dy, prepared(weight, dy.dtype, for_gradient=True), weight.shape[1])
        return dx, dw, None
