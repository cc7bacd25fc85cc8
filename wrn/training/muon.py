"""Muon: momentum whose update of each weight matrix is made nearly orthogonal (Jordan et al. 2024); SGD for the rest.

A convolution's weight counts as a matrix of its output channels by all else. A step goes along the directions of the
gradient by equal lengths, the frequent ones no longer drown the rare: a few epochs do the work of many (docs/log.md).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


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
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        is_matrix = parameter.ndim > 2  # the classifier's is left to SGD, as its author does
        gradient = parameter.grad
        assert gradient is not None
        if not is_matrix:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = gradient.clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(state["momentum_buffer"], alpha=group["momentum"])
        if is_matrix:
            rows, columns = len(update), update[0].numel()
            update = orthogonal(update.reshape(rows, columns)).view(update.shape) * max(1, rows / columns) ** 0.5
            parameter.mul_(1 - group["lr"] * group["matrix_decay"])
        parameter.add_(update, alpha=-group["lr"])


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Near to U V' of the matrix's singular value decomposition U S V', by Newton-Schulz iterations, (m, n) -> (m, n).

    The coefficients are Jordan's: they bring most singular values near 1 in few steps, none of them to 1 itself, and
    leave the smallest small.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if wide is not matrix else x
