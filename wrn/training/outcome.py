"""What a run leaves behind and says: metrics, model, predictions, result, curves, and the lines of its log."""

import os
import shlex
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from wrn import weights
from wrn.data.batching import Dataset
from wrn.data.catalog import label
from wrn.display import duration
from wrn.evaluation import Scores
from wrn.files import sha256_of, write_sealed, write_text, write_whole
from wrn.hardware import peak_memory
from wrn.recipes import Recipe
from wrn.reporting import figures
from wrn.runs import Run
from wrn.training.checkpoint import Progress
from wrn.training.precision import Execution


def metrics_line(
    recipe: Recipe, epoch: int, progress: Progress, judge: str, scores: Scores, how: Execution, seconds: float
) -> dict[str, Any]:
    """A line of `metrics.jsonl`. `images_per_second` counts training alone; `seconds` the whole epoch.

    `judge`: the split that `scores` are of, "test" or "val"; with a validation split nothing is known of the test set.
    """
    return {
        "epoch": epoch,
        "lr": recipe.lr_at(epoch),
        "train_loss": progress.loss_sum / progress.images,
        "train_error": 100 * progress.wrong / progress.images,
        "test_loss": None,
        "test_error": None,
        f"{judge}_loss": scores.loss,
        f"{judge}_error": scores.error,
        f"{judge}_precision": how.precision,
        "images_per_second": round(progress.rate, 1) if progress.seconds else None,
        "seconds": round(seconds, 3),
        "peak_memory": peak_memory(how.device),
    }


def finish(
    run: Run,
    recipe: Recipe,
    network: nn.Module,
    data: Dataset,
    execution: Execution,
    progress: Progress,
    scores: Scores,
) -> None:
    """Write all that a finished run holds, `result.json` last: with it the run is finished.

    `scores` are those of the reported network in fp32; the epochs' own are in the precision of the run.
    """
    picture = figures.curves({recipe.model: progress.metrics}, f"{recipe.model} on {label(data.name)}")
    write_text(run.path / "curves.svg", picture)
    write_whole(run.path / "model.safetensors", lambda path: weights.save(path, network, data, recipe, scores.error))
    predictions = {"logits": scores.logits, "labels": data.test.labels.cpu(), "indices": torch.arange(len(data.test))}
    write_whole(run.path / "predictions.safetensors", lambda path: save_file(predictions, path))

    reported = next(line for line in progress.metrics if line["epoch"] == (progress.selected or progress.epoch))
    rates = sorted(line["images_per_second"] for line in progress.metrics if line["images_per_second"])
    peaks = [line["peak_memory"] for line in progress.metrics if line["peak_memory"]]
    write_sealed(
        run.path / "result.json",
        {
            "model": recipe.model,
            "data": recipe.data,
            "recipe": recipe.recipe,
            "deviations": recipe.deviations(),
            "seed": run.seed,
            "epochs": recipe.epochs,
            "test_error": scores.error,
            **_what_it_is(progress, data),
            "test_top5_error": scores.top5_error,
            "test_loss": scores.loss,
            "train_loss": reported["train_loss"],
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "classes": len(data.classes),
            "train_images": len(data.train),
            "test_images": len(data.test),
            "data_fingerprint": data.fingerprint,
            "data_from": data.origin,
            "model_sha256": sha256_of(run.path / "model.safetensors"),
            "preprocess": data.preprocess.constants(),
            "precision": execution.precision,
            "native": execution.native,
            "device": execution.device,
            **_determinism(run, execution),
            "seconds": round(progress.total_seconds, 1),
            "images_per_second": rates[len(rates) // 2] if rates else None,
            "peak_memory": max(peaks) if peaks else None,
        },
    )


def _determinism(run: Run, execution: Execution) -> dict[str, Any]:
    """Whether the same command gives the same bits, on the same processor with the same builds and threads."""
    changes = run.env["changes"]
    exceptions = [*filter(None, [execution.inexact]), *changes]
    told = f"not bit-exact: {'; '.join(exceptions)}" if exceptions else "bit-exact on the same processor and builds"
    return {"bit_exact": not exceptions, "determinism": told}


def _what_it_is(progress: Progress, data: Dataset) -> dict[str, Any]:
    """Which epoch's network is reported, who chose it, and what the best on the test set would have been."""
    if data.val is not None:
        chosen = next(line for line in progress.metrics if line["epoch"] == progress.selected)
        return {
            "test_error_is": f"of epoch {chosen['epoch']}, chosen on {len(data.val):,} validation images, in fp32",
            "best_test_error": None,
            "best_test_error_is": "not known: the test set was used once",
            "selected_epoch": chosen["epoch"],
            "val_error": chosen["val_error"],
            "val_images": len(data.val),
        }
    best = min(progress.metrics, key=lambda line: line["test_error"])
    return {
        "test_error_is": "of the last epoch, in fp32",
        "best_test_error": best["test_error"],
        "best_test_error_is": f"chosen on the test set: epoch {best['epoch']}, in {best['test_precision']}",
    }


def first_line(recipe: Recipe, run: Run, seed: int, data: Dataset, execution: Execution, progress: Progress) -> str:
    """What begins, on what, how, where; and how it differs from the recipe it is named after."""
    begun = f"continuing after epoch {progress.epoch}" if progress.epoch or progress.step else "training"
    if progress.step:
        begun += f", step {progress.step}"
    begun += ":" if progress.epoch or progress.step else ""
    changes = ", ".join(f"{name} {_text(change['here'])}" for name, change in recipe.deviations().items())
    named = f"{recipe.recipe} but {changes}" if changes else recipe.recipe
    held_out = f" + {len(data.val):,} to validate" if data.val is not None else ""
    images = f"{len(data.train):,}{held_out} + {len(data.test):,} images of {recipe.image_size}x{recipe.image_size}"
    return (
        f"{begun} {recipe.model} on {recipe.data} ({images}, "
        f"{len(data.classes)} classes, {recipe.preprocess}, augment {recipe.augment}); recipe {named}; seed {seed}; "
        f"{execution.in_words()}; in {run.path}"
    )


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def bar_text(recipe: Recipe, epoch: int, progress: Progress) -> str:
    """The live display beside its bar: the epoch so far."""
    images = max(progress.images, 1)  # none is read yet in a GPU's first steps
    loss, error = progress.loss_sum / images, 100 * progress.wrong / images
    return f"epoch {epoch}/{recipe.epochs}  loss {loss:.3f}  error {error:.1f}%  {progress.rate:,.0f} images/s"


def epoch_line(recipe: Recipe, metrics: list[dict[str, Any]], total_seconds: float) -> str:
    """One line of the log an epoch."""
    line = metrics[-1]
    left = total_seconds / len(metrics) * (recipe.epochs - len(metrics))
    rate = f"{line['images_per_second']:,.0f} images/s" if line["images_per_second"] else "(compiled)"
    judge = "val" if line.get("val_error") is not None else "test"
    return (
        f"epoch {line['epoch']:>{len(str(recipe.epochs))}}/{recipe.epochs}  lr {line['lr']:<6g}  "
        f"train loss {line['train_loss']:.4f} error {line['train_error']:5.2f}%  "
        f"{judge} loss {line[f'{judge}_loss']:.4f} error {line[f'{judge}_error']:5.2f}%  {rate}  {duration(left)} left"
    )


def summary(run: Run) -> str:
    """What it cost."""
    result = run.result
    rate = f"{result['images_per_second']:,.0f} training images/s (median epoch)" if result["images_per_second"] else ""
    memory = f"peak memory {result['peak_memory'] / 2**30:.2f} GiB" if result["peak_memory"] else ""
    best = result["best_test_error"]
    best = None if best is None else f"best test error {best:.2f}% ({result['best_test_error_is']})"
    return "; ".join(part for part in (duration(result["seconds"]), rate, memory, best) if part)


def last_line(run: Run) -> str:
    """The test error, where the run is, and the command that uses it."""
    result = run.result
    command = "uv run wrn" if "UV" in os.environ else "wrn"  # uv says so to what it runs
    use = f"run {run.path}; use it: {command} predict {shlex.quote(str(run.path))} IMAGE"
    return f"test error {result['test_error']:.2f}% ({result.get('test_error_is', 'of an older version')}); {use}"
