"""Run folders: what `wrn train` leaves behind, read and written. No torch."""

import contextlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wrn.data.catalog import label
from wrn.environment import differences
from wrn.errors import Error, MissingError
from wrn.files import make_folder, parsed, read_sealed, remove_folder, write_json, write_sealed, write_text
from wrn.recipes import Recipe


class Run:
    """One run: a recipe, a seed, and what came of them. It can be used as a path, that of its folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def recipe(self) -> Recipe:
        """What was to be trained. Raises wrn.Error where there is no run or its file is damaged."""
        return Recipe.from_dict(self.recipe_file["recipe"])

    @property
    def seed(self) -> int:
        return int(self.recipe_file["seed"])

    @property
    def recipe_file(self) -> dict[str, Any]:
        """`recipe.json`: the recipe's fields and the seed."""
        return self._read("recipe.json", "seed", "recipe")

    @property
    def begun(self) -> bool:
        """Whether something was trained, or was about to be, that may be continued."""
        return (self.path / "env.json").exists() or self._checkpoint() is not None

    @property
    def env(self) -> dict[str, Any]:
        """`env.json`: versions, machine, git commit and `execution` (device, precision, threads …)."""
        return self._read("env.json", "execution")

    @property
    def result(self) -> dict[str, Any]:
        """`result.json`. Raises wrn.Error if the run is not finished."""
        self._must_be_a_run()
        if not self.finished:
            raise Error(f"{self.path}: this run is not finished; continue it with the command that began it")
        return self._read("result.json", "test_error")

    @property
    def finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A dictionary per finished epoch: lr, train_loss (nats), train_error and test_error (percent), seconds …

        With a validation split val_loss and val_error stand there, and those of the test split are None. Where images
        are drawn by importance, train_error is of those drawn, more of which are hard ones.
        """
        self._must_be_a_run()
        path, checkpoint = self.path / "metrics.jsonl", self._checkpoint()
        saved = [] if checkpoint is None else checkpoint["progress"]["metrics"]
        if not path.exists():
            return saved
        try:
            there = _metrics(path)
        except ValueError as error:
            if saved:
                return saved
            advice = "remove it; the result stands without it" if self.finished else "start over with --fresh"
            raise Error(f"{path}: damaged ({error}); {advice}") from None
        return saved if _differ(there, saved) else there

    def must_agree(self, recipe: Recipe, seed: int, execution: dict[str, Any]) -> None:
        """Raise wrn.Error, touching nothing, if anything but this recipe's run, computed this way, lies here."""
        self.must_hold_nothing_else()
        if not self._is_a_run:
            return
        here, there = {"seed": seed, **recipe.to_dict()}, {"seed": self.seed, **self.recipe.to_dict()}
        if self.begun:
            here |= execution
            since = {"native": False, "memory": "normal", "deterministic": False, "graphs": False}  # not in all runs
            there |= since | self.env["execution"]
        if changes := [
            f"{name} is {there.get(name)} there and {here[name]} now" for name in here if here[name] != there.get(name)
        ]:
            raise Error(
                f"{self.path}: holds a run that differs ({'; '.join(changes)}); choose another folder with --out, or "
                "--fresh to start over"
            )

    def must_hold_nothing_else(self) -> None:
        """Raise wrn.Error, touching nothing, if files lie here that are no run's."""
        if not self._is_a_run and self.path.exists() and (not self.path.is_dir() or self._strangers()):
            raise Error(f"{self.path}: holds files but no run; choose another folder with --out")

    def _strangers(self) -> set[str]:
        """Names of what lies here and is not of a run that was killed before it had a recipe."""
        return {path.name for path in self.path.iterdir()} - _LOCKS - {path.name for path in self._scratch()}

    def _scratch(self) -> list[Path]:
        """What a process that was killed while it wrote one of our files left behind."""
        return [path for name in _OURS for path in self.path.glob(f".{name}.*")]

    def tidy(self) -> None:
        """Remove what a process left behind that was killed just after it had finished the run."""
        if self._scratch() or (self.path / "lock").exists():
            with contextlib.suppress(OSError), self.hold():
                pass

    def begin(self, recipe: Recipe, seed: int, fresh: bool) -> None:
        """Make the folder this run's, emptied of an earlier run's files if `fresh`."""
        if fresh and self._is_a_run:
            for name in FILES:  # only what a run writes: never a stranger's file
                part = self.path / name
                remove_folder(part) if part.is_dir() else part.unlink(missing_ok=True)
        else:
            self.must_agree(recipe, seed, {})
        if not self._is_a_run:
            write_sealed(self.path / "recipe.json", {"seed": seed, "recipe": recipe.to_dict()})

    def restore(self, files: dict[str, Any], metrics: list[dict[str, Any]]) -> list[str]:
        """Write again, as a checkpoint has them, those of `files` that are damaged or gone, and `metrics.jsonl`.

        Returns a line for each that was not as it should be. That metrics lack the last epochs is no damage: a
        checkpoint comes before its line.
        """
        remarks = []
        for name, content in files.items():
            try:
                why = None
                there = read_sealed(self.path / name, _UNSEALED[name])
                if not there:
                    raise ValueError("is empty")
            except FileNotFoundError:
                why, there = "gone", {}
            except ValueError:
                why, there = "damaged", {}
            if there != content:  # which env.json may do undamaged, if a process was killed before it saved anything
                write_sealed(self.path / name, content)
            if why:
                remarks.append(f"{self.path / name}: {why}; written again from the newest checkpoint")
        try:
            lines = _metrics(self.path / "metrics.jsonl")
            why = "damaged" if _differ(lines, metrics) else None
        except FileNotFoundError:
            lines, why = [], "gone" if len(metrics) > 1 else None  # it is written just after the first checkpoint
        except ValueError:
            lines, why = [], "damaged"
        if lines != metrics:
            self.write_metrics(metrics)
        if why:
            remarks.append(f"{self.path / 'metrics.jsonl'}: {why}; written again from the newest checkpoint")
        return remarks

    def note_environment(self, now: dict[str, Any], before: dict[str, Any] | None, epoch: int, step: int) -> list[str]:
        """Write `env.json`, with what changed since `before`, that of the checkpoint that training goes on from.

        Returns a line that says so: a run that two machines trained is not, to the bit, what either would have made.
        """
        if before is None:
            write_sealed(self.path / "env.json", now)
            return []
        changed = differences(before, now)
        if not changed:
            if before.get("keep_every") != now["keep_every"]:
                write_sealed(self.path / "env.json", before | {"keep_every": now["keep_every"]})
            return []
        told = f"after epoch {epoch}, step {step}: {', '.join(changed)}"
        write_sealed(self.path / "env.json", now | {"changes": [*before.get("changes", []), told]})
        return [f"changed since it was saved, so that this run will not be bit-exact: {', '.join(changed)}"]

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out of the folder, which is made if need be. Raises wrn.Error naming who is there.

        The operating system lets go of it when this process ends, however it does.
        """
        make_folder(self.path)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            self.must_be_free()
            lock.acquire()  # it has just ended
        try:
            for scratch in self._scratch():
                shutil.rmtree(scratch, ignore_errors=True)
            write_json(self.path / "holder.json", {"process": os.getpid(), "host": platform.node()})
            yield
        finally:
            (self.path / "holder.json").unlink(missing_ok=True)
            if self.finished:  # nobody will train here any more
                (self.path / "lock").unlink(missing_ok=True)
            lock.release()

    def must_be_free(self) -> None:
        """Raise wrn.Error if another process trains here."""
        if (holder := self.held_by()) is not None:
            raise Error(
                f"{self.path}: {holder} is training here; wait for it, stop it, or choose another folder with --out"
            )

    def held_by(self) -> str | None:
        """The process that trains here now, in words; None if none does."""
        if not (self.path / "lock").exists():
            return None
        try:
            # Who asks holds it for a moment too, so that others who ask wait for that
            with FileLock(self.path / "lock", timeout=0.2, poll_interval=0.02):
                return None
        except Timeout:
            return self._holder()
        except OSError:  # a folder that cannot be written is not trained in
            return None

    def _holder(self) -> str:
        try:
            content = parsed((self.path / "holder.json").read_text(encoding="utf-8"))
            return f"process {content['process']} on {content['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def write_metrics(self, metrics: list[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))

    def _must_be_a_run(self) -> None:
        if not self.path.exists():
            raise MissingError(f"{self.path}: no such run; give the folder that `wrn train` named")
        if not self._is_a_run:
            below = sorted(
                file.parent for inner in ("*", "*/*", "*/*/*") for file in self.path.glob(f"{inner}/recipe.json")
            )
            give = f"one of those below it, such as {below[0]}" if below else "the folder that `wrn train` named"
            raise Error(f"{self.path}: not a run (it has no recipe.json); give {give}")

    @property
    def _is_a_run(self) -> bool:
        return (self.path / "recipe.json").exists() or self._checkpoint() is not None

    def _read(self, name: str, *fields: str) -> dict[str, Any]:
        """A file's object, or if it is damaged or gone the newest checkpoint's copy of it."""
        self._must_be_a_run()
        try:
            content = read_sealed(self.path / name, _UNSEALED[name])
            if not content.keys() >= set(fields):
                raise ValueError(f"lacks {' or '.join(fields)}")
            must_be_sound(name, content)
            return content
        except (FileNotFoundError, ValueError) as error:
            checkpoint = self._checkpoint()
            if checkpoint is not None and name in checkpoint["files"]:
                return checkpoint["files"][name]
            if isinstance(error, FileNotFoundError):
                raise Error(f"{self.path}: {name} is missing; run the training command again") from None
            finished = name == "result.json"
            advice = "remove it and run the training command again" if finished else "start over with --fresh"
            raise Error(f"{self.path / name}: damaged ({error}); {advice}") from None

    def _checkpoint(self) -> dict[str, Any] | None:
        """What the newest checkpoint with an undamaged description says; None if there is none."""
        for _, _, path in newest_first(self.path / "checkpoints"):
            with contextlib.suppress(OSError, ValueError):
                return read_checkpoint(path)
        return None


def newest_first(checkpoints: Path) -> list[tuple[int, int, Path]]:
    """(epoch, step, path) of a run's checkpoints: ordered by epoch and step, never by the clock."""
    named = [(re.fullmatch(r"epoch-(\d+)-step-(\d+)", path.name), path) for path in checkpoints.glob("epoch-*")]
    return sorted(((int(match[1]), int(match[2]), path) for match, path in named if match), reverse=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself: progress, identity, files, sha256. Raises ValueError if it was not ours."""
    content = read_sealed(path / CHECKPOINT)
    for name in ("progress", "identity", "files", "sha256"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"has no {name}")
    metrics = content["progress"].get("metrics")
    if not isinstance(metrics, list) or not all(isinstance(line, dict) and "epoch" in line for line in metrics):
        raise ValueError("has no metrics")
    numbers = {name: value for name, value in content["progress"].items() if name != "metrics"}
    if not all(type(value) in (int, float) and (value >= 0 or name == "loss_sum") for name, value in numbers.items()):
        raise ValueError("has something else than numbers for its progress")
    if not all(type(numbers.get(name, 0)) is int for name in ("epoch", "step", "images", "wrong", "timed_images")):
        raise ValueError("has a part of an epoch, a step or an image")
    for name, file in content["files"].items():
        if name not in ("recipe.json", "env.json") or not isinstance(file, dict):
            raise ValueError(f"has a file {name!r}")
        must_be_sound(name, file)
    return content


def must_be_sound(name: str, content: dict[str, Any]) -> None:
    """Raise ValueError where a field of a run's file has a type that we never write."""
    for field, kind in _KINDS[name].items():
        if field in content and not (isinstance(content[field], kind) and not isinstance(content[field], bool)):
            raise ValueError(f"{field} is {content[field]!r}")


def _differ(lines: list[dict[str, Any]], saved: list[dict[str, Any]]) -> bool:
    """Whether the two disagree about an epoch that both have."""
    return any(line != other for line, other in zip(lines, saved, strict=False))


def _metrics(path: Path) -> list[dict[str, Any]]:
    lines = [parsed(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not all(isinstance(line, dict) and "epoch" in line for line in lines):
        raise ValueError("has a line without an epoch")
    return lines


RESULT = (
    "model", "data", "recipe", "deviations", "seed", "epochs", "test_error", "test_error_is", "best_test_error",
    "best_test_error_is", "selected_epoch", "val_error", "val_images", "test_top5_error", "test_loss", "train_loss",
    "parameters", "classes", "train_images", "test_images", "data_fingerprint", "data_from", "model_sha256",
    "preprocess", "precision", "native", "device", "determinism", "bit_exact", "seconds", "images_per_second",
    "peak_memory",
)  # fmt: skip
"""The fields of `result.json`."""

_ENV = (
    "versions", "platform", "processor", "gpu", "cores", "execution", "world_size", "git_commit", "code", "command",
    "keep_every", "changes",
)  # fmt: skip
_UNSEALED = {"recipe.json": ("seed", "recipe"), "env.json": _ENV, "result.json": RESULT}

_NUMBER, _NUMBER_OR_NONE = (int, float), (int, float, type(None))
_KINDS: dict[str, dict[str, Any]] = {
    "recipe.json": {"seed": int, "recipe": dict},
    "env.json": {"versions": dict, "execution": dict, "changes": list},
    "result.json": {
        "test_error": _NUMBER, "test_error_is": str, "seconds": _NUMBER, "images_per_second": _NUMBER_OR_NONE,
        "peak_memory": _NUMBER_OR_NONE, "best_test_error": _NUMBER_OR_NONE, "model_sha256": str,
    },
}  # fmt: skip

CHECKPOINT = "checkpoint.json"
"""The description of a checkpoint, beside its tensors."""

_LOCKS = {"lock", "holder.json"}

WHITENING = "whitening.safetensors"

FILES = (
    "result.json",
    "model.safetensors",
    WHITENING,
    "predictions.safetensors",
    "curves.svg",
    "metrics.jsonl",
    "train.log",
    "env.json",
    "checkpoints",
    "recipe.json",
)
"""What a run folder holds, in an order in which they may be removed: the run is unfinished first, and gone last."""

_OURS = (*FILES, *_LOCKS)


def default_path(recipe: Recipe, seed: int, out: str | Path = "runs") -> Path:
    """`<out>/<data>/<model>-<recipe hash>/seed<k>`, below the working directory."""
    folder = re.sub(r"[^A-Za-z0-9._]+", "-", label(recipe.data))
    return Path(out) / folder / f"{recipe.model}-{recipe.hash}" / f"seed{seed}"
