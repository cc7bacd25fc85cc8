"""What a step minimises: the loss of the logits; with companions (DSN); with a teacher's hints and answers (FitNet).

Each network has its own procedure, whose stages begin where the recipe says; without stages it stays in its first, or,
where that needs a teacher's hints, in its last.
"""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wrn.errors import UsageError
from wrn.evaluation import bare
from wrn.models.comparators.dsn import DSN
from wrn.models.comparators.elu import ELUNet
from wrn.models.comparators.fitnet import FitNet, MaxoutConv
from wrn.models.rules import LayerRule
from wrn.randomness import key
from wrn.recipes import Recipe
from wrn.training.importance import Drawn

Autocast = Callable[[], AbstractContextManager[Any]]


class Objective:
    """The loss of the logits. `trained`: the network and whatever else learns, for the optimiser and checkpoints."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        autocast: Autocast = nullcontext,
        compiled: Callable[[Any], Any] = lambda called: called,
    ) -> None:
        self.network, self.recipe, self.autocast, self.compiled = network, recipe, autocast, compiled
        self.answer = compiled(network)
        self.trained = nn.ModuleDict({"network": network})
        self.order: Tensor | None = None  # of an epoch's samples, for `batches`; None: shuffled
        self.stage = 0

    def start_epoch(self, epoch: int) -> None:
        """Come to the stage of this epoch."""
        self.stage = self.recipe.stage_at(epoch)
        if isinstance(self.network, ELUNet):
            self.network.set_stage(self.stage)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, a scalar, and the logits (N, classes), of preprocessed images (N, 3, H, W) and labels (N,)."""
        with self.autocast():
            logits: Tensor = self.answer(images)
        return self.loss(logits, labels), logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The recipe's loss, mean over the images, in fp32."""
        if self.recipe.loss == "squared-hinge":
            return squared_hinge(logits.float(), labels)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)


class Importance(Objective):
    """The cross-entropy of samples drawn by importance, divided by how often each is drawn.

    Important is what has a long gradient by the logits, which bounds that by the weights. `samples`: how many there are
    to train on, of which `order` has each epoch's; `seed` draws them. The training error that is told is of the samples
    drawn, more of which are hard ones; the loss is of all.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, samples: int, seed: int, *how: Any) -> None:
        super().__init__(network, recipe, *how)
        self.drawn = Drawn(samples, seed, next(network.parameters()).device)
        self.trained["drawn"] = self.drawn

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.drawn.start_epoch(epoch)
        self.order = self.drawn.order

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        scores, smoothing = logits.float(), self.recipe.label_smoothing
        losses = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")
        with torch.no_grad():
            targets = F.one_hot(labels, scores.shape[1]) * (1 - smoothing) + smoothing / scores.shape[1]
            weights = self.drawn.take((scores.softmax(1) - targets).norm(dim=1))
        return (losses * weights).mean()


class DeepSupervision(Objective):
    """DSN: the companions' losses are added while the first stage lasts."""

    network: DSN

    @cached_property
    def scores(self) -> Callable[[Tensor], list[Tensor]]:
        return self.compiled(self.network.with_companions)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.stage > 0:
            return super().__call__(images, labels)
        with self.autocast():
            logits, *companions = self.scores(images)
        return torch.stack([self.loss(each, labels) for each in (logits, *companions)]).sum(), logits


class Distillation(Objective):
    """FitNet's two stages (Romero et al. 2015); any network can be trained by the second.

    Hints: the student's lower half and a convolution, the regressor, learn to give what a part of the teacher gives;
    the upper half stays as it is. Answers: the labels' loss, and the cross-entropy with the teacher's probabilities,
    both networks' logits divided by the temperature, with a weight that falls from epoch to epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        teacher: nn.Module,
        images: Tensor,
        seed: int = 0,
        autocast: Autocast = nullcontext,
        compiled: Callable[[Any], Any] = lambda called: called,
    ) -> None:
        """`teacher`: preprocessed images -> logits. `images`: a few of them, (N, 3, H, W), that show sizes.

        `seed` draws the regressor. Raises ValueError for a hint that the teacher does not have or that is too large.
        """
        super().__init__(network, recipe, autocast, compiled)
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)  # the caller's stays as it is
        self.weight = torch.tensor(recipe.teacher_weight, device=images.device)
        self._hint = torch.empty(0)
        self.hints = bool(recipe.stages) and isinstance(network, FitNet)
        if self.hints:
            self._prepare_hints(images, seed)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        recipe = self.recipe
        start, end = recipe.teacher_fade
        before = recipe.stages[0] - 1 if self.hints else 0
        share = min(max(((epoch - before) / (recipe.epochs - before) - start) / (end - start), 0.0), 1.0)
        self.weight.fill_(recipe.teacher_weight + (recipe.teacher_weight_end - recipe.teacher_weight) * share)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.hints and self.stage == 0:
            return self.of_hints(images)
        loss, logits = super().__call__(images, labels)
        with torch.no_grad(), self.autocast():
            answers = self.teacher(images)
        temperature = self.recipe.temperature
        softened = F.cross_entropy(logits.float() / temperature, (answers.float() / temperature).softmax(1))
        return loss + self.weight * softened, logits

    def of_hints(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Half the squared distance to the hint, summed over channels, mean over places and images; and the logits."""
        assert isinstance(self.network, FitNet)
        with torch.no_grad(), self.autocast():
            hint = self.hint_of(images)
        with self.autocast():
            guided = self.network.guided(images)
            predicted = self.trained["regressor"](guided)
            with torch.no_grad():  # for the training error that is told
                logits = self.network.finished(guided)
        return 0.5 * (predicted.float() - hint.float()).square().sum(1).mean(), logits

    def hint_of(self, images: Tensor) -> Tensor:
        """What the teacher's part gives: (N, C, h, w)."""
        self.teacher(images)
        return self._hint

    def _prepare_hints(self, images: Tensor, seed: int) -> None:
        assert isinstance(self.network, FitNet)
        with torch.no_grad():
            guided = self.network.guided(images)
        name = self.recipe.hint or self._fitting_part(images, guided.shape[-1])
        parts = dict(self.teacher.named_modules())
        if name not in parts:
            known = ", ".join(child for child, _ in self.teacher.named_children())
            raise UsageError(f"hint {name!r}: the teacher has no such part; it has {known} and their parts")
        parts[name].register_forward_hook(lambda _, __, output: setattr(self, "_hint", output))
        with torch.no_grad():
            hint = self.hint_of(images)
        if hint.ndim != 4 or hint.shape[-1] > guided.shape[-1]:
            raise UsageError(
                f"hint {name!r}: gives {'x'.join(map(str, hint.shape[1:]))}; it must be a map of at most "
                f"{guided.shape[-2]}x{guided.shape[-1]}, which is the size of the layer that it guides"
            )
        regressor = Regressor(guided.shape[1], hint.shape[1], guided.shape[-1] - hint.shape[-1] + 1, seed)
        self.trained["regressor"] = regressor.to(images.device)

    def _fitting_part(self, images: Tensor, size: int) -> str:
        """The first of the teacher's children, in the order they run, that gives a map no larger than `size`."""
        found: list[str] = []

        def look(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] <= size:
                    found.append(name)

            return hook

        handles = [part.register_forward_hook(look(name)) for name, part in self.teacher.named_children()]
        with torch.no_grad():
            self.teacher(images)
        for handle in handles:
            handle.remove()
        if not found:
            raise UsageError(f"hint: no part of the teacher gives a map of at most {size}x{size}; name one with --hint")
        return found[0]


class Regressor(MaxoutConv):
    """From the guided layer to the hint: a maxout convolution as large as the sizes differ, without padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, seed: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=kernel_size, padding=0)
        generator = torch.Generator().manual_seed(key(seed, "regressor"))
        nn.init.uniform_(self.conv.weight, -0.05, 0.05, generator=generator)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def layer_rules(self) -> dict[str, LayerRule]:
        """The source limits the norm as in the student's convolutions, at the full rate."""
        return {"conv.weight": LayerRule(max_norm=0.9)}


def objective(
    network: nn.Module,
    recipe: Recipe,
    teacher: nn.Module | None = None,
    *,
    images: Tensor | None = None,
    samples: int | None = None,
    seed: int = 0,
    autocast: Autocast = nullcontext,
    compiled: Callable[[Any], Any] = lambda called: called,
) -> Objective:
    """What the recipe minimises: call `.start_epoch(epoch)`, then the object itself on each batch, for loss and logits.

    `teacher`, preprocessed images -> logits, or as `wrn.load` gives it (its own preprocessing is left out), needs some
    `images` (N, 3, H, W) to see sizes. `samples`: how many there are to train on, which a recipe with `sampling` by
    importance needs; batches are then made in `.order`. `seed` draws. Raises ValueError where these do not fit.
    """
    if recipe.stages and not isinstance(network, (DSN, ELUNet, FitNet)):
        raise UsageError(f"stages {recipe.stages}: {recipe.model} has no procedure of its own; take another recipe")
    if teacher is not None:
        teacher = bare(teacher)
        if images is None:
            raise UsageError("teacher: needs some images to see the sizes of its parts; give objective(..., images=)")
        if isinstance(network, DSN):
            raise UsageError("dsn: learns from its companions and takes no teacher; leave it out")
        if recipe.sampling == "importance":
            raise UsageError("sampling importance: not with a teacher; take a recipe with sampling='shuffled'")
        return Distillation(network, recipe, teacher, images, seed, autocast, compiled)
    if recipe.teacher is not None:
        raise UsageError(f"teacher {recipe.teacher}: not given; call objective(..., teacher=wrn.load(RUN), images=)")
    must_do_without_teacher(recipe)
    if isinstance(network, DSN):
        return DeepSupervision(network, recipe, autocast, compiled)
    if recipe.sampling == "importance":
        if samples is None:
            raise UsageError("sampling importance: of how many samples? give objective(..., samples=len(data.train))")
        return Importance(network, recipe, samples, seed, autocast, compiled)
    return Objective(network, recipe, autocast, compiled)


def must_do_without_teacher(recipe: Recipe) -> None:
    """Raise ValueError for a recipe that does not work without a teacher."""
    if recipe.model == "fitnet" and recipe.stages:
        raise UsageError("fitnet: its first stage is led by a teacher's hints; name one with --teacher RUN")
    usual = Recipe()
    for name in ("hint", "temperature", "teacher_weight", "teacher_weight_end", "teacher_fade"):
        if getattr(recipe, name) != getattr(usual, name):
            raise UsageError(f"{name} {getattr(recipe, name)}: there is no teacher; name one with --teacher RUN")


def squared_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """One against all: the squares of max(0, 1 - y s) over all classes, y = 1 for the label's and -1 for the others.

    Summed over classes, mean over images, as in the released code of DSN. (N, classes), (N,) -> scalar.
    """
    signs = 2 * F.one_hot(labels, logits.shape[1]) - 1
    return (1 - signs * logits).clamp(min=0).square().sum(1).mean()
