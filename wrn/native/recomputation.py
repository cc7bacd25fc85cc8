"""What a step does not keep for its backward pass but computes again, in torch's own operations, on any device.

"low": the output of BN-ReLU, from BN's input, which has to be kept anyway; half the activations. "lowest": everything
inside a residual block, from the block's input. The values are the same, computed twice.
"""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Memory = Literal["normal", "low", "lowest"]
_memory: ContextVar[Memory] = ContextVar("memory", default="normal")


@contextmanager
def using(memory: Memory) -> Iterator[None]:
    """Within, forward passes keep what this setting says."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def keeps_little() -> bool:
    """Whether what BN-ReLU gives is to be computed again."""
    return _now() == "low" and torch.is_grad_enabled()


def _now() -> Memory:
    """What is set; in compiled code, which keeps what it likes and in torch 2.11 cannot read this, nothing."""
    return "normal" if torch.compiler.is_compiling() else _memory.get()


def block(run: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Tensor:
    """`run(x)`, the pass through a `module`; where memory is lowest it is made again in the backward pass."""
    if _now() != "lowest" or not torch.is_grad_enabled():
        return run(x)
    # The backward pass runs outside of what surrounds us, on a GPU in another thread
    around = contextvars.copy_context()
    contexts = lambda: (nullcontext(), _unchanged_buffers(module))  # noqa: E731
    return checkpoint(lambda x: around.run(run, x), x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """BN's running statistics have seen these images already."""
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.data.copy_(before)  # .data: autograd need not know, as it does not of BN's own updates


def bn_relu(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """ReLU after a plain BN in training, (N, C, H, W) -> the same."""
    y: Tensor = _BnRelu.apply(x, bn.weight, bn.bias, bn)
    return y


def conv2d(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A plain convolution, which does not keep x if that can be had once more."""
    source = source_of(x)
    y: Tensor = conv(x) if source is None else _Conv.apply(x, conv.weight, conv, source)
    return y


def source_of(x: Tensor) -> Any:
    """The node that gives x once more, if it came from a BN-ReLU that can and little is to be kept; else None."""
    node = x.grad_fn if keeps_little() and x.output_nr == 0 else None
    return node if hasattr(node, "compute_again") else None


def given(source: Any) -> Tensor:
    """What the BN-ReLU of this node gave; computed once, and kept until its own turn in the backward pass."""
    if source.again is None:
        source.again = source.compute_again(source)
    again: Tensor = source.again
    return again


class _BnRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bn: nn.BatchNorm2d) -> Tensor:
        assert bn.momentum is not None and bn.num_batches_tracked is not None
        bn.num_batches_tracked.add_(1)
        average = (bn.running_mean, bn.running_var, True, bn.momentum, bn.eps)
        y, mean, inverse = torch.native_batch_norm(x, weight, bias, *average)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.eps, ctx.again, ctx.compute_again = bn.eps, None, _bn_relu_again
        return y.relu_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        let_through = torch.ops.aten.threshold_backward(gradients[0], given(ctx), 0)
        ctx.again = None
        x, weight, _, mean, inverse = ctx.saved_tensors
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            let_through, x, weight, None, None, mean, inverse, True, ctx.eps, [True, True, True]
        )
        return dx, dweight, dbias, None


def _bn_relu_again(node: Any) -> Tensor:
    x, weight, bias, _, _ = node.saved_tensors
    return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, node.eps)[0].relu_()


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d, source: Any) -> Tensor:
        """`source`: the node of the BN-ReLU that x came from."""
        ctx.save_for_backward(weight)
        ctx.conv, ctx.source = conv, source
        return F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, (weight,), conv = gradients[0], ctx.saved_tensors, ctx.conv
        x = given(ctx.source).to(dy.dtype)  # autocast rounded both on the way forward
        dx, dw, _ = torch.ops.aten.convolution_backward(
            dy, x, weight.to(dy.dtype), None, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        return dx, None if dw is None else dw.to(weight.dtype), None, None
