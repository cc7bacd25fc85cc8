"""SGD as in the paper: Nesterov momentum, and weight decay on every parameter."""

import torch
from torch import nn

from wrn.recipes import Recipe


def optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD over all parameters at the recipe's first rate; `start_epoch` sets the later ones.

    Weight decay is coupled (grad += wd * w before momentum) and spares nothing: BN scales and shifts and the
    classifier's bias are decayed too, as the authors' flat parameter vector was (SPEC 3.1). Dampening is 0.
    """
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr_at(1),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )


def start_epoch(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Set the epoch's learning rate; where the recipe says so, forget the momentum as the rate drops."""
    set_lr(optimizer, recipe.lr_at(epoch))
    if recipe.reset_momentum and recipe.drops_at(epoch):
        for state in optimizer.state.values():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].zero_()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
