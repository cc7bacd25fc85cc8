"""SGD as torch has it; on CPUs in one pass over the weights instead of five (`wrn/native/sgd.cpp`).

To the bit, but for the sign of zeros, where torch too uses AVX2, as it does unless told not to.
"""

import ctypes
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wrn.native.library import available, library, numbers, pointer

_torchs_step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class SGD(torch.optim.SGD):
    """With momentum, weight decay that is added to the gradient, and Nesterov's form if it is wanted."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step for every parameter that has a gradient."""
        if closure is not None or not all(map(self._suits, self.param_groups)) or not available("sgd"):
            return _torchs_step(self, closure)
        for group in self.param_groups:
            settings = [ctypes.c_float(group[name]) for name in ("lr", "momentum", "weight_decay")]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = _like(weight, weight.grad)
                momentum = _like(weight, self.state[weight].get("momentum_buffer"))
                self.state[weight]["momentum_buffer"] = momentum
                library("sgd").sgd_step(
                    *map(pointer, (weight, gradient, momentum)), *numbers(weight.numel()),
                    *settings, *numbers(group["nesterov"]),
                )  # fmt: skip
                torch.autograd.graph.increment_version(weight)  # so that autograd knows of it
        return None

    def _suits(self, group: dict[str, Any]) -> bool:
        """Whether the kernel does what the group's settings ask, and takes its weights, gradients and momenta."""
        plain = group["momentum"] != 0 and isinstance(group["lr"], float)
        plain = plain and not any(group[name] for name in ("dampening", "maximize", "differentiable", "fused"))
        return plain and all(
            all(
                each is None or (_is_plain(each) and each.shape == weight.shape)
                for each in (weight, weight.grad, self.state.get(weight, {}).get("momentum_buffer"))
            )
            and _is_dense(weight)
            for weight in group["params"]
        )


def _is_plain(tensor: Tensor) -> bool:
    """Its numbers are fp32 in this machine's memory, as they stand there."""
    kept = tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.layout == torch.strided
    return kept and type(tensor) in (Tensor, nn.Parameter) and not tensor.is_neg()


def _is_dense(weight: Tensor) -> bool:
    """Its numbers follow one another."""
    return weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)


def _like(weight: Tensor, other: Tensor | None) -> Tensor:
    """The other tensor, or zeros, with its numbers in the order of the weight's."""
    if other is None:
        return torch.zeros_like(weight)
    return other if other.stride() == weight.stride() else torch.empty_like(weight).copy_(other)
