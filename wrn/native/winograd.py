"""3x3 convolutions in fp32 by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the multiplications.

Lavin & Gray 2015 (arXiv 1509.09308), in `winograd.cpp`. Where a CPU multiplies bf16 no faster than fp32, a step's time
goes into multiplications, and this alone makes fewer. Results differ from the direct sum by about 2e-6 of their length,
where fp32 itself errs by 5e-7.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wrn.native import recomputation
from wrn.native.library import floats, library, numbers, pointer

LEAST_CHANNELS = 16  # below, the transforms cost more than they save
_CHUNK = 2 << 20  # bytes of what is transformed at a time for the weight's gradient, for the caches


def fits(conv: nn.Conv2d) -> bool:
    """Whether the convolution is suitable: 3x3, of stride 1, wide enough."""
    return (
        (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups, conv.padding_mode) == ((1, 1), 1, "zeros")
        and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS
        and conv.in_channels % 8 == conv.out_channels % 8 == 0
        and conv.weight.dtype == torch.float32
    )


def fits_map(x: Tensor) -> bool:
    """Whether x (N, C, H, W) is suitable: large enough, fp32 in channels_last layout on a CPU."""
    n, _, height, width = x.shape
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and bool(library("fp32").winograd_pays(*numbers(n, height, width)))
    )


def conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without bias that `fits`, of a map that does; differentiable."""
    if not torch.is_grad_enabled():
        return convolve(x, prepared(conv.weight), conv.out_channels)
    y: Tensor = _Winograd.apply(x, conv.weight, recomputation.source_of(x))
    return y


@torch.no_grad()
def prepared(weight: Tensor, for_gradient: bool = False) -> Tensor:
    """The transform of a weight (out, in, 3, 3) as `convolve` wants it: 36 rows, each of panels of 16 outputs.

    `for_gradient`: of that which takes the gradient of the output to the gradient of the input.
    """
    out, channels = weight.shape[:2]
    a, b = (out, channels) if for_gradient else (channels, out)
    made = floats(36, -(-b // 16) * 16 * a + 16)  # no two rows begin at one place of the caches
    weight = weight.contiguous(memory_format=torch.channels_last)
    sizes = numbers(made.stride(0), out, channels, int(for_gradient))
    library("fp32").winograd_weight(pointer(weight), pointer(made), *sizes)
    return made


def convolve(x: Tensor, weight: Tensor, out: int) -> Tensor:
    """Of x (N, in, H, W) and a `prepared` weight: (N, out, H, W), both in channels_last layout."""
    n, channels, height, width = x.shape
    y = floats(n, height, width, out).permute(0, 3, 1, 2)
    library("fp32").winograd_convolve(
        pointer(x), pointer(weight), *numbers(weight.stride(0)), pointer(y), *numbers(n, height, width, channels, out),
        pointer(None), pointer(None), *numbers(0),
    )  # fmt: skip
    return y


def weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """From x (N, in, H, W) and dy (N, out, H, W), channels_last: (out, in, 3, 3)."""
    (n, channels, height, width), out = x.shape, dy.shape[1]
    across = -(-channels // 16) * 16
    # Few enough tiles at a time for the caches, and enough that the sums are not all that is read
    at_a_time = min(max(_CHUNK // (36 * 4 * (across + out)), 128), n * -(-height // 4) * -(-width // 4))
    made, sums = floats(36, at_a_time * (across + out) + 16), floats(36, out, across).zero_()
    dw = floats(out, 3, 3, channels).permute(0, 3, 1, 2)
    library("fp32").winograd_weight_gradient(
        pointer(x), pointer(dy), pointer(dw), pointer(made), *numbers(made.stride(0)), pointer(sums),
        *numbers(at_a_time, n, height, width, channels, out),
    )  # fmt: skip
    return dw


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, source: Any) -> Tensor:
        """`source`: the node of the BN-ReLU that x came from, if x is to be had from it once more."""
        ctx.source = source
        ctx.save_for_backward(*((x, weight) if source is None else (weight,)))
        return convolve(x, prepared(weight), len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, dx, dw = gradients[0].contiguous(memory_format=torch.channels_last), None, None
        *kept, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            x = kept[0] if ctx.source is None else recomputation.given(ctx.source)
            dw = weight_gradient(x, dy)
        if ctx.needs_input_grad[0]:
            dx = convolve(dy, prepared(weight, for_gradient=True), weight.shape[1])
        return dx, dw, None
