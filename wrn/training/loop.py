"""The training loop, top to bottom: network, optimiser, epochs, steps, and what is saved and said of them."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wrn import runs
from wrn.data.batching import Dataset
from wrn.display import Bar, Log
from wrn.errors import DataError, Error, UsageError
from wrn.evaluation import evaluate
from wrn.models.creation import create_model
from wrn.models.stochastic_depth import Residual, skips_blocks
from wrn.native.recomputation import Memory
from wrn.randomness import key
from wrn.recipes import Recipe
from wrn.runs import Run
from wrn.training import checkpoint, outcome
from wrn.training.checkpoint import Belongings, Progress
from wrn.training.interruption import Interrupted, Interruption
from wrn.training.objective import objective
from wrn.training.optim import optimizer, set_rates, start_epoch
from wrn.training.precision import Execution
from wrn.training.readings import Reading, Readings
from wrn.training.steps import Steps


@dataclass
class Training:
    """One run in progress."""

    recipe: Recipe
    run: Run
    seed: int
    data: Dataset
    execution: Execution
    log: Log
    keep_every: int | None = None
    teacher: nn.Module | None = None
    identity: dict[str, Any] = field(default_factory=dict)  # what a checkpoint must share to be continued
    environment: dict[str, Any] = field(default_factory=dict)  # what `env.json` is to hold
    compiled_for: set[tuple[int, torch.Size]] = field(default_factory=set)  # stages and shapes

    def prepare(self) -> None:
        """Make what is trained, in memory alone. Raises ValueError where the recipe's parts do not fit together."""
        recipe, execution = self.recipe, self.execution
        execution.apply()
        steps = recipe.epochs * self.data.train.steps(recipe)
        self.network = execution.place(network_of(recipe, len(self.data.classes), self.seed, steps))
        self.objective = objective(
            self.network,
            recipe,
            self.teacher and execution.place(self.teacher),
            images=execution.arrange(next(self.data.test.in_order(2))[0]) if self.teacher else None,
            samples=len(self.data.train),
            seed=self.seed,
            autocast=execution.autocast,
            compiled=execution.compiled,
        )
        self.optimizer = optimizer(self.objective.trained, recipe, execution.products)
        self.step = Steps(self.objective, self.optimizer, execution.graphs)
        if execution.memory != "normal" and not execution.compile:
            _must_recompute(self.network, recipe.model, execution.memory)
        if execution.graphs and skips_blocks(self.network):
            raise UsageError(
                "graphs: stochastic depth leaves out other blocks in each step; take --drop-path-per sample, or leave "
                "--graphs out"
            )

    def run_all(self, interrupt: Interruption) -> None:
        """From the newest checkpoint, or the beginning, to the finished run folder."""
        recipe, execution, self.interrupt = self.recipe, self.execution, interrupt
        progress, files, remarks = checkpoint.load_newest(
            self.checkpoints, self.objective.trained, self.optimizer, self.identity
        )
        remarks += self.run.restore(files, progress.metrics)
        remarks += self.run.note_environment(self.environment, files.get("env.json"), progress.epoch, progress.step)
        for line in [outcome.first_line(recipe, self.run, self.seed, self.data, execution, progress), *remarks]:
            self.log.line(line)

        with self.log.bar() as bar:
            for epoch in range(progress.epoch + 1, recipe.epochs + 1):
                self.objective.start_epoch(epoch)
                if progress.step == 0:  # else its start is past
                    start_epoch(self.optimizer, recipe, epoch)
                judge, split = ("test", self.data.test) if self.data.val is None else ("val", self.data.val)
                pause = partial(self.pause, progress, f"after epoch {epoch}, before its {judge} error was known")
                try:
                    self.train_epoch(epoch, progress, bar)
                    clock = time.perf_counter()
                    scores = evaluate(self.network, split, execution.autocast, execution.arrange, pause)
                except DataError:
                    self.take(self.readings.rest(), epoch, progress)
                    if progress.epoch or progress.step:
                        self.save(progress)
                    raise
                if not math.isfinite(scores.loss):
                    raise self.not_finite(epoch, f"{judge} loss", scores.loss)
                seconds = progress.wall_seconds + time.perf_counter() - clock
                metrics = outcome.metrics_line(recipe, epoch, progress, judge, scores, execution, seconds)
                progress = progress.after_epoch(metrics)
                self.save(progress)
                self.run.write_metrics(progress.metrics)
                self.log.line(outcome.epoch_line(recipe, progress.metrics, progress.total_seconds))
        if progress.selected is not None:
            checkpoint.load_epoch(self.checkpoints, progress.selected, self.objective.trained)
        # The reported error is taken in fp32, whatever the run trained in
        pause = partial(self.pause, progress, "before the last test")
        scores = evaluate(self.network, self.data.test, execution.exact().autocast, execution.arrange, pause)
        outcome.finish(self.run, recipe, self.network, self.data, execution, progress, scores)
        self.log.line(outcome.summary(self.run))
        self.log.line(outcome.last_line(self.run))

    def train_epoch(self, epoch: int, progress: Progress, bar: Bar) -> None:
        """The steps of one epoch that are not done yet."""
        recipe, steps = self.recipe, self.data.train.steps(self.recipe)
        self.network.train()
        batches = self.data.train.batches(
            recipe, seed=self.seed, epoch=epoch, start=progress.step, order=self.objective.order
        )
        self.readings = readings = Readings(self.execution.device)
        clock = time.perf_counter()
        for images, labels in batches:
            set_rates(self.optimizer, recipe, epoch, progress.step / steps)
            found = self.step(self.execution.arrange(images), labels)
            self.take(readings.add(progress.step + 1, *found), epoch, progress)

            kind = self.objective.stage, images.shape
            timed = not self.execution.compile or kind in self.compiled_for  # what is new compiles first
            self.compiled_for.add(kind)
            now = time.perf_counter()
            progress.count(len(labels), now - clock, timed)
            clock = now
            bar.show(
                outcome.bar_text(recipe, epoch, progress), (epoch - 1) * steps + progress.step, recipe.epochs * steps
            )
            if self.interrupt.due:
                self.take(readings.rest(), epoch, progress)
                self.pause(progress, f"in epoch {epoch} after step {progress.step} of {steps}")
                clock = time.perf_counter()
                progress.wall_seconds += clock - now
        self.take(readings.rest(), epoch, progress)
        progress.wait(time.perf_counter() - clock)

    def take(self, readings: Iterable[Reading], epoch: int, progress: Progress) -> None:
        """Add up what steps came to; a loss or gradient that is not finite ends the run."""
        for each in readings:
            for what, value in (("loss", each.loss), ("gradient", each.gradient_norm)):
                if not math.isfinite(value):
                    raise self.not_finite(epoch, f"{what} of step {each.step}", value, each.step - 1)
            progress.read(each.loss, each.wrong, each.images)

    def not_finite(self, epoch: int, what: str, value: float, done: int = 0) -> Error:
        """The end of a run that diverged, after so many steps of the epoch."""
        rate = self.recipe.lr_at(epoch, done / self.data.train.steps(self.recipe))
        rounded = ", or start over with --precision fp32 --fresh" if self.execution.precision != "fp32" else ""
        return Error(
            f"epoch {epoch}, learning rate {rate:g}: the {what} is {value}; nothing was saved since it was finite; "
            f"lower --lr{rounded}"
        )

    def pause(self, progress: Progress, where: str) -> None:
        """Save if it is time to; end the run if a signal says so."""
        if not self.interrupt.due:
            return
        self.save(progress)
        if self.interrupt.signal_number is not None:
            self.log.line(f"interrupted {where}, saved; the same command continues")
            raise Interrupted(self.interrupt.signal_number)

    @property
    def checkpoints(self) -> Path:
        return self.run.path / "checkpoints"

    def save(self, progress: Progress) -> None:
        """One checkpoint of this instant."""
        files = {"recipe.json": self.run.recipe_file, "env.json": self.run.env}
        whitening = self.run.path / runs.WHITENING
        belongings = Belongings(self.identity, files, (whitening,) if whitening.exists() else ())
        checkpoint.save(self.checkpoints, self.objective.trained, self.optimizer, progress, belongings, self.keep_every)
        self.interrupt.saved()


def _must_recompute(network: nn.Module, name: str, memory: Memory) -> None:
    """Raise ValueError where a network has nothing of what is to be computed again."""
    wanted, what = (nn.BatchNorm2d, "BN") if memory == "low" else (Residual, "residual blocks")
    if not any(isinstance(part, wanted) for part in network.modules()):
        raise UsageError(f"memory {memory}: {name} has no {what} to compute again; leave --memory {memory} out")


def network_of(recipe: Recipe, num_classes: int, seed: int, steps: int | None = None) -> nn.Module:
    """The recipe's network with the initial weights that belong to the seed, on the CPU.

    `steps`: those of the whole training, `recipe.epochs * data.train.steps(recipe)`. A recipe with a `bn_window` needs
    them: ValueError without.
    """
    with torch.device("cpu"):
        network = create_model(
            recipe.model,
            num_classes=num_classes,
            dropout=recipe.dropout,
            drop_path=recipe.drop_path,
            drop_path_per=recipe.drop_path_per,
            image_size=recipe.image_size,
            depth_rule=recipe.depth_rule,
            conv_init=recipe.conv_init,
            bn_init=recipe.bn_init,
            linear_init=recipe.linear_init,
            seed=key(seed, "init"),
        )
    if recipe.bn_window:
        if steps is None:
            raise UsageError(f"bn_window {recipe.bn_window}: a share of all steps; say how many, steps=")
        # torch's momentum of 0.1 averages the last ten batches or so; small ones leave noise that costs accuracy (Wu &
        # Johnson 2021, arXiv 2105.07576). Where the rate falls to 0 the last weights hardly differ, and more will do
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = min(0.1, 1 / (recipe.bn_window * steps))
    return network
