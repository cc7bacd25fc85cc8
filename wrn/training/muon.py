"""Muon: momentum whose update of each weight matrix is made nearly orthogonal (Jordan et al. 2024); SGD for the rest.

A convolution's weight counts as a matrix of its output channels by all else. A step has nearly equal length along all
singular directions, so that dominant ones no longer drown the rest: a few epochs do the work of many (docs/log.md).
torch's own Muon accepts only matrices.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from wrn.errors import UsageError

Tensors = list[Tensor] | tuple[Tensor, ...]

_MOST = 2**22  # numbers in matrices that are worked on together
_LEAST = 64  # rows and columns of matrices that gain by another format of products


class Muon(torch.optim.Optimizer):
    """Weights of convolutions by Muon, with weight decay on its own; all others by SGD as torch has it.

    A group has `lr`, `momentum` (Nesterov's form in both), `weight_decay` of SGD, which is added to the gradient, and
    `matrix_decay`: a matrix is multiplied by 1 - lr * matrix_decay before each step. `products`: the number format that
    products of matrices are computed in, torch.float32 or torch.bfloat16; the weights' own if None.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        matrix_decay: float = 0.0,
        products: torch.dtype | None = None,
    ) -> None:
        usual = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "matrix_decay": matrix_decay}
        super().__init__(params, usual)
        if products not in (None, torch.float32, torch.bfloat16):  # squares of others' numbers end too soon
            raise UsageError(f"products {products}: must be torch.float32 or torch.bfloat16")
        self.products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:  # whose rate may be a tensor, so that no operation takes it as a number
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if others := [each for each in given if each.ndim <= 2]:  # the classifier's too, as Muon's author has it
                decayed = torch._foreach_add(_gradients(others), others, alpha=group["weight_decay"])
                updates = self._nesterov(others, decayed, group["momentum"])
                torch._foreach_mul_(updates, -group["lr"])
                torch._foreach_add_(others, updates)
            for weights in _alike([each for each in given if each.ndim > 2]):
                updates = self._nesterov(weights, _gradients(weights), group["momentum"])
                matrices = torch.stack([_matrix(update, weights[0]) for update in updates])
                rows, columns = matrices.shape[1:]
                found = orthogonal(matrices, products=self.products if min(rows, columns) >= _LEAST else None)
                found *= -group["lr"] * max(1, rows / columns) ** 0.5
                if group["matrix_decay"]:
                    torch._foreach_mul_(weights, 1 - group["lr"] * group["matrix_decay"])
                torch._foreach_add_(weights, [_weight(matrix, weights[0]) for matrix in found])
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
    shapes: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in parameters:
        shapes.setdefault((parameter.shape, parameter.stride()), []).append(parameter)
    for alike in shapes.values():
        step = max(1, _MOST // alike[0].numel())
        yield from (alike[start : start + step] for start in range(0, len(alike), step))


def _matrix(update: Tensor, weight: Tensor) -> Tensor:
    """(outputs, all else), whose order is free: that of the weight in memory needs no copy."""
    return (update.movedim(1, -1) if _channels_last(weight) else update).flatten(1)


def _weight(matrix: Tensor, weight: Tensor) -> Tensor:
    """The matrix in the shape of the weight."""
    if _channels_last(weight):
        return matrix.view(weight.movedim(1, -1).shape).movedim(-1, 1)
    return matrix.view(weight.shape)


def _channels_last(weight: Tensor) -> bool:
    return weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)


def orthogonal(matrix: Tensor, steps: int = 3, products: torch.dtype | None = None) -> Tensor:
    """Near to U V' of each matrix's singular value decomposition U S V', by Newton-Schulz iterations, (N, m, n).

    The coefficients are Jordan's: they bring most singular values near 1 in few steps, none of them to 1 itself, and
    leave the smallest small. A step multiplies X by a polynomial of X X': it is these small squares that are iterated.
    The step's length along a direction is roughly 1 in bfloat16 as it is in float32: `products`, if not None, is the
    format of all products.
    """
    a, b, c = 3.4445, -4.7750, 2.0315

    def polynomial(square: Tensor) -> Tensor:
        found = torch.baddbmm(square, square, square, beta=b, alpha=c)
        found.diagonal(dim1=-2, dim2=-1).add_(a)
        return found

    is_high = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if is_high else matrix
    x = x.to(products or torch.promote_types(matrix.dtype, torch.float32))
    square = x @ x.mT
    norm = square.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()[..., None, None] + 1e-7
    square /= norm * norm
    factor = product = polynomial(square)
    for _ in range(steps - 1):
        square = factor @ square @ factor
        factor = polynomial(square)
        product = factor @ product
    x = (product / norm) @ x
    return (x.mT if is_high else x).to(matrix.dtype)
