"""The optimiser of a recipe: the paper's is SGD with Nesterov momentum, and weight decay on every parameter."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from wrn.errors import UsageError
from wrn.models.rules import LayerRule, limit_norms
from wrn.models.stochastic_depth import skips_blocks
from wrn.recipes import Recipe
from wrn.training.muon import Muon as _Muon
from wrn.training.sgd import SGD as _SGD


def _without_compiler(kind: type[torch.optim.Optimizer]) -> Any:
    """The same optimiser without the wrappers by which torch keeps its compiler out of the methods.

    The wrappers first load the compiler, which takes as long as loading torch and delays the first step by that.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    bare = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), bare | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


SGD, RMSprop, Muon = map(_without_compiler, (_SGD, torch.optim.RMSprop, _Muon))


def optimizer(model: nn.Module, recipe: Recipe, products: torch.dtype | None = None) -> torch.optim.Optimizer:
    """SGD, RMSProp or Muon over all parameters at the recipe's first rate; `start_epoch` sets the later ones.

    Weight decay is coupled (grad += wd * w before momentum) and spares nothing: BN scales and shifts and the
    classifier's bias are decayed too, as the authors' flat parameter vector was; but Muon decays convolutions by
    `matrix_decay` alone. Dampening is 0. With
    `layer_rules` rates, decay and norm limits of single layers are those of the network's own paper; ValueError if it
    has none. `products`: what Muon multiplies matrices in, the weights' own format if None.
    """
    rules = _rules(model) if recipe.layer_rules else {}
    if recipe.layer_rules and not rules:
        raise UsageError(f"layer rules: the paper of {recipe.model} has none; leave them out, or take another recipe")
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rule = rules.get(name, LayerRule())
        groups.setdefault((rule.lr, rule.decay, rule.fade), []).append(parameter)
    parameters = [
        {"params": each, "weight_decay": recipe.weight_decay * decay, "factor": factor, "fade": fade}
        for (factor, decay, fade), each in groups.items()
    ]
    on_gpu = all(parameter.is_cuda for parameter in model.parameters())
    made: torch.optim.Optimizer
    if recipe.optimizer == "muon":
        made = Muon(
            parameters,
            lr=recipe.lr_at(1),
            momentum=recipe.momentum,
            matrix_decay=recipe.matrix_decay,
            products=products,
        )
    elif recipe.optimizer == "rmsprop":  # epsilon: pylearn2 divides by at least 1e-5
        made = RMSprop(parameters, lr=recipe.lr_at(1), alpha=recipe.momentum, eps=1e-5, capturable=on_gpu)
    else:
        # One kernel for all parameters on a GPU; on a CPU it would silently take gradients of another layout wrongly
        made = SGD(parameters, lr=recipe.lr_at(1), momentum=recipe.momentum, nesterov=recipe.nesterov, fused=on_gpu)
    set_rates(made, recipe, 1)
    if skips_blocks(model):
        made.register_step_pre_hook(lambda *_: _count_as_zero(model))
    limits = [(p, rules[name].max_norm) for name, p in model.named_parameters() if name in rules]
    if any(limit for _, limit in limits):
        made.register_step_post_hook(lambda *_: _limit(limits))
    return made


def start_epoch(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int) -> None:
    """Set the epoch's rates; where the recipe says so, reset the momentum as the rate drops.

    A one-cycle rate also needs `set_rates` before each step. A new stage of the network's own procedure clears all of
    the optimiser's state: each stage was a run of its own.
    """
    set_rates(optimizer, recipe, epoch)
    if epoch > 1 and recipe.stage_at(epoch) != recipe.stage_at(epoch - 1):
        optimizer.state.clear()
    if recipe.reset_momentum and recipe.drops_at(epoch):
        for state in optimizer.state.values():
            if state.get("momentum_buffer") is not None:
                state["momentum_buffer"].zero_()


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int, done: float = 0.0) -> None:
    """Set every parameter group's rate, with the share `done` of the epoch over (which matters for one-cycle only)."""
    for group in optimizer.param_groups:
        faded = fade((epoch - 1) / recipe.epochs) if (fade := group.get("fade")) else 1.0
        rate = recipe.lr_at(epoch, done) * group.get("factor", 1.0) * faded  # a group of the caller's has neither
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def read_rates_from_device(optimizer: torch.optim.Optimizer) -> None:
    """Keep the rates beside the weights, where a recorded step finds those set since."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=group["params"][0].device)


def skip_unless_finite(optimizer: torch.optim.Optimizer, gradient_norm: Tensor) -> None:
    """Let a step on a GPU, whose results are read only later, change nothing if its gradient is not finite.

    By `found_inf`, with which torch's gradient scaler makes fused optimisers skip a step.
    """
    if optimizer.defaults.get("fused"):
        optimizer.found_inf = (~gradient_norm.isfinite()).float()  # type: ignore[attr-defined]


def _rules(model: nn.Module) -> dict[str, LayerRule]:
    """The rules of the model, or of those of its parts that have some, by the model's names of the parameters."""
    return {
        f"{prefix}.{name}".removeprefix("."): rule
        for prefix, part in model.named_modules()
        if hasattr(part, "layer_rules")
        for name, rule in part.layer_rules().items()
    }


def _count_as_zero(model: nn.Module) -> None:
    """Give zero gradients to blocks that stochastic depth dropped, so that decay and momentum apply to them too.

    So does the released code, whose gradients are one vector that is zeroed first.
    """
    for parameter in model.parameters():
        if parameter.grad is None and parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def _limit(limits: list[tuple[nn.Parameter, float | None]]) -> None:
    for parameter, limit in limits:
        if limit is not None and parameter.grad is not None:  # it was trained in this step
            limit_norms(parameter, limit)
