"""Muon: momentum whose update of each weight matrix is made nearly orthogonal (Jordan et al. 2024); SGD for the rest.

A convolution's weight counts as a matrix of its output channels by all else. A step has nearly equal length along all
singular directions, so that dominant ones no longer drown the rest: a few epochs do the work of many (docs/log.md).
torch's own Muon accepts only matrices.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Tensors = list[Tensor] | tuple[Tensor, ...]

_MOST = 2**22  # numbers in matrices that are worked on together


class Muon(torch.optim.Optimizer):
    """Weights of convolutions by Muon, with weight decay on its own; all others by SGD as torch has it.

    A group has `lr`, `momentum` (Nesterov's form in both), `weight_decay` of SGD, which is added to the gradient, and
    `matrix_decay`: a matrix is multiplied by 1 - lr * matrix_decay before each step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        matrix_decay: float = 0.0,
    ) -> None:
        usual = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrix_decay": matrix_decay}
        super().__init__(params, usual)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if others := [each for each in given if each.ndim <= 2]:  # the classifier's too, as Muon's author has it
                decayed = torch._foreach_add(_gradients(others), others, alpha=group["weight_decay"])
                updates = self._nesterov(others, decayed, group["momentum"])
                torch._foreach_add_(others, updates, alpha=-group["lr"])
            for matrices in _alike([each for each in given if each.ndim > 2]):
                updates = self._nesterov(matrices, _gradients(matrices), group["momentum"])
                rows, columns = len(updates[0]), updates[0][0].numel()
                found = orthogonal(torch.stack([update.reshape(rows, columns) for update in updates]))
                found *= max(1, rows / columns) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["matrix_decay"])
                torch._foreach_add_(matrices, [each.view_as(updates[0]) for each in found], alpha=-group["lr"])
        return loss

    def _nesterov(self, parameters: list[Tensor], gradients: Tensors, momentum: float) -> Tensors:
        """Add the gradients to the momentum; returns the updates."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        return torch._foreach_add(gradients, buffers, alpha=momentum)


def _gradients(parameters: list[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _alike(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of one shape and limited total size, worked on together, so that a GPU waits for fewer kernel launches."""
    shapes: dict[torch.Size, list[Tensor]] = {}
    for parameter in parameters:
        shapes.setdefault(parameter.shape, []).append(parameter)
    for alike in shapes.values():
        step = max(1, _MOST // alike[0].numel())
        yield from (alike[start : start + step] for start in range(0, len(alike), step))


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Near to U V' of each matrix's singular value decomposition U S V', by Newton-Schulz iterations, (..., m, n).

    The coefficients are Jordan's: they bring most singular values near 1 in few steps, none of them to 1 itself, and
    leave the smallest small. A step multiplies X by a polynomial of X X': it is these small squares that are iterated.
    """
    a, b, c = 3.4445, -4.7750, 2.0315

    def polynomial(square: Tensor) -> Tensor:
        found = b * square + c * square @ square
        found.diagonal(dim1=-2, dim2=-1).add_(a)
        return found

    is_high = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_high else matrix
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    square = x @ x.mT
    factor = product = polynomial(square)
    for _ in range(steps - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    x = product @ x
    return x.mT if is_high else x
