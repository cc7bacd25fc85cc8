"""The training loop, top to bottom: recipe -> data -> network -> epochs -> run folder."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from wrn import runs
from wrn.data.loader import Dataset, dataset
from wrn.display import Bar, Log
from wrn.errors import Error, UsageError
from wrn.evaluation import evaluate
from wrn.files import write_json
from wrn.models.creation import create_model
from wrn.randomness import key
from wrn.recipes import Recipe
from wrn.runs import Run
from wrn.training import checkpoint, outcome
from wrn.training.checkpoint import Progress
from wrn.training.interruption import Interrupted, Interruption, interruption
from wrn.training.optim import optimizer, set_lr, start_epoch
from wrn.training.precision import Execution, choose, recorded


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    device: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    workers: int | None = None,
    keep_every: int | None = None,
    fresh: bool = False,
    quiet: bool = False,
) -> Run:
    """Train the recipe's network and return its run; continue one that was begun, leave a finished one alone.

    `out` defaults to `runs/<data>/<model>-<recipe hash>/seed<seed>`. `device`, `precision` ("fp32", "bf16") and
    `compile` are chosen once and kept when the run continues. On the CPU the result is a function of recipe, seed and
    these. `keep_every` keeps the checkpoint of every so many epochs for good.
    Raises ValueError for what makes no sense, wrn.Error for what fails, KeyboardInterrupt (after saving) on a signal.
    """
    log = Log(quiet)
    run = Run(out if out is not None else runs.default_path(recipe, seed))
    wanted = {"device": device, "precision": precision, "compile": compile}
    if not fresh:
        run.must_agree(recipe, seed, {name: value for name, value in wanted.items() if value is not None})
        if run.finished:
            log.line(f"already finished, left alone (--fresh starts over): {outcome.last_line(run)}")
            return run
    if keep_every is not None and keep_every < 1:
        raise UsageError(f"--keep-every {keep_every}: must be at least 1")
    begun = not fresh and (run.path / "env.json").exists()
    execution = recorded(run.env["execution"]) if begun else choose(device, precision, bool(compile))
    data = dataset(
        recipe.data,
        image_size=recipe.image_size,
        val_fraction=recipe.val_fraction,
        device=execution.device,
        workers=workers,
        log=log,
    )
    if data.train.steps(recipe) == 0:
        raise Error(
            f"batch size {recipe.batch_size}: there are only {len(data.train)} training images and this recipe leaves "
            "out the last, smaller batch; lower --batch-size"
        )
    run.begin(recipe, seed, fresh)
    if not begun:
        write_json(run.path / "env.json", runs.environment(execution.to_dict()))
    with log.copied_to(run.path / "train.log"), interruption() as interrupt:
        try:
            Training(recipe, run, seed, data, execution, log, interrupt, keep_every).run_all()
        except Exception as error:
            explained = _explained(error, execution)
            log.note(f"wrn: error: {explained or repr(error)}")
            if explained is None:
                raise
            raise explained from error
    return run


def _explained(error: Exception, execution: Execution) -> Error | None:
    """What to tell the user of a failure of training; None if it is none of theirs."""
    if isinstance(error, Error):
        return error
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return Error(f"out of memory: {reason}; lower --batch-size, or take a smaller network")
    if execution.compile and type(error).__module__.startswith("torch._"):
        return Error(f"--compile: {reason}; leave the option out, or install what it names")
    return None


@dataclass
class Training:
    """One run in progress."""

    recipe: Recipe
    run: Run
    seed: int
    data: Dataset
    execution: Execution
    log: Log
    interrupt: Interruption
    keep_every: int | None = None
    shapes_seen: set[torch.Size] = field(default_factory=set)

    def run_all(self) -> None:
        """From the newest checkpoint, or the beginning, to the finished run folder."""
        recipe, execution = self.recipe, self.execution
        execution.apply()
        self.network = execution.place(network_of(recipe, len(self.data.classes), self.seed))
        self.optimizer = optimizer(self.network, recipe)
        self.stepped = execution.compiled(self.network)  # the same modules and parameters
        self.identity = {"seed": self.seed, "data": self.data.fingerprint}  # the recipe was compared already
        progress, damaged = checkpoint.load_newest(self.checkpoints, self.network, self.optimizer, self.identity)
        for line in [outcome.first_line(recipe, self.run, self.seed, self.data, execution, progress), *damaged]:
            self.log.line(line)

        with self.log.bar() as bar:
            for epoch in range(progress.epoch + 1, recipe.epochs + 1):
                if progress.step == 0:
                    start_epoch(self.optimizer, recipe, epoch)
                else:  # in the middle of an epoch, whose start is past
                    set_lr(self.optimizer, recipe.lr_at(epoch))
                self.train_epoch(epoch, progress, bar)
                clock = time.perf_counter()
                scores = evaluate(self.network, self.data.test, execution.autocast, execution.arrange)
                if not math.isfinite(scores.loss):
                    raise self.not_finite(epoch, "test loss", scores.loss)
                seconds = progress.wall_seconds + time.perf_counter() - clock
                metrics = outcome.metrics_line(recipe, epoch, progress, scores, execution, seconds)
                progress = progress.after_epoch(metrics)
                self.log.line(outcome.epoch_line(recipe, progress.metrics, progress.total_seconds))
                self.save(progress)
                self.run.write_metrics(progress.metrics)
        # The reported error is taken in fp32, whatever the run trained in
        scores = evaluate(self.network, self.data.test, execution.exact().autocast, execution.arrange)
        outcome.finish(self.run, recipe, self.network, self.data, execution, progress, scores)
        self.log.line(outcome.summary(self.run))
        self.log.line(outcome.last_line(self.run))

    def train_epoch(self, epoch: int, progress: Progress, bar: Bar) -> None:
        """The steps of one epoch that are not done yet."""
        recipe, steps = self.recipe, self.data.train.steps(self.recipe)
        self.network.train()
        clock = time.perf_counter()
        for images, labels in self.data.train.batches(recipe, seed=self.seed, epoch=epoch, start=progress.step):
            with self.execution.autocast():
                logits = self.stepped(self.execution.arrange(images))
            loss = F.cross_entropy(logits.float(), labels)
            if not math.isfinite(value := loss.item()):
                raise self.not_finite(epoch, f"loss of step {progress.step + 1}", value)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

            wrong = int((logits.argmax(1) != labels).sum())
            timed = not self.execution.compile or images.shape in self.shapes_seen  # a new shape compiles first
            self.shapes_seen.add(images.shape)
            now = time.perf_counter()
            progress.count(len(labels), value, wrong, now - clock, timed)
            clock = now
            bar.show(
                outcome.bar_text(recipe, epoch, progress), (epoch - 1) * steps + progress.step, recipe.epochs * steps
            )
            if self.interrupt.signal_number is not None:
                self.save(progress)
                done = f"in epoch {epoch} after step {progress.step} of {steps}"
                self.log.line(f"interrupted {done}, saved; the same command continues")
                raise Interrupted(self.interrupt.signal_number)

    def not_finite(self, epoch: int, what: str, value: float) -> Error:
        """The end of a run that diverged."""
        rate = self.recipe.lr_at(epoch)
        return Error(
            f"epoch {epoch}, learning rate {rate:g}: the {what} is {value}; nothing was saved since it was finite; "
            "lower --lr or use --precision fp32"
        )

    @property
    def checkpoints(self) -> Path:
        return self.run.path / "checkpoints"

    def save(self, progress: Progress) -> None:
        """One checkpoint of this instant."""
        checkpoint.save(self.checkpoints, self.network, self.optimizer, progress, self.identity, self.keep_every)


def network_of(recipe: Recipe, num_classes: int, seed: int) -> nn.Module:
    """The recipe's network with the initial weights that belong to the seed, on the CPU."""
    return create_model(
        recipe.model,
        num_classes=num_classes,
        dropout=recipe.dropout,
        depth_rule=recipe.depth_rule,
        conv_init=recipe.conv_init,
        bn_init=recipe.bn_init,
        linear_init=recipe.linear_init,
        seed=key(seed, "init"),
    )
