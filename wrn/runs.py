"""Run folders, read and written as DESIGN's contract says. No torch."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wrn.data.catalog import label
from wrn.errors import Error, MissingError
from wrn.files import write_json, write_text
from wrn.recipes import Recipe


class Run:
    """One run: a recipe, a seed, and what came of them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_dict(self._read("recipe.json", "seed", "recipe")["recipe"])

    @property
    def seed(self) -> int:
        return int(self._read("recipe.json", "seed", "recipe")["seed"])

    @property
    def env(self) -> dict[str, Any]:
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
        """One dictionary an epoch."""
        self._must_be_a_run()
        path = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        except ValueError as error:
            raise Error(f"{path}: damaged ({error}); start over with --fresh") from None

    def must_agree(self, recipe: Recipe, seed: int, execution: dict[str, Any]) -> None:
        """Raise wrn.Error, touching nothing, if something else than this recipe's run, so computed, lies here."""
        if not (self.path / "recipe.json").exists():
            if self.path.exists() and (not self.path.is_dir() or {part.name for part in self.path.iterdir()} - _LOCKS):
                raise Error(f"{self.path}: holds files but no run; choose another folder with --out")
            return
        here, there = {"seed": seed, **recipe.to_dict()}, {"seed": self.seed, **self.recipe.to_dict()}
        if (self.path / "env.json").exists():
            here |= execution
            there |= {"native": False, "memory": "normal"} | self.env["execution"]
        if changes := [
            f"{name} is {there[name]} there and {here[name]} now" for name in here if here[name] != there[name]
        ]:
            raise Error(
                f"{self.path}: holds a run that differs ({'; '.join(changes)}); choose another folder with --out, or "
                "--fresh to start over"
            )

    def begin(self, recipe: Recipe, seed: int, fresh: bool) -> None:
        """Make the folder this run's, emptied of an earlier run's files if `fresh`."""
        if fresh and (self.path / "recipe.json").exists():
            for name in FILES:  # only what a run writes: never a stranger's file
                part = self.path / name
                shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
        else:
            self.must_agree(recipe, seed, {})
        if not (self.path / "recipe.json").exists():
            write_json(self.path / "recipe.json", {"seed": seed, "recipe": recipe.to_dict()})

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out of the folder, which is made if need be. Raises wrn.Error naming who is there.

        The operating system lets go of it when this process ends, however it does.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            self.must_be_free()
            lock.acquire()  # it has just ended
        try:
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
            with FileLock(self.path / "lock", timeout=0):
                return None
        except Timeout:
            return self._holder()
        except OSError:  # a folder that cannot be written is not trained in
            return None

    def _holder(self) -> str:
        try:
            content = json.loads((self.path / "holder.json").read_text(encoding="utf-8"))
            return f"process {content['process']} on {content['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def write_metrics(self, metrics: list[dict[str, Any]]) -> None:
        write_text(self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in metrics))

    def _must_be_a_run(self) -> None:
        if not self.path.exists():
            raise MissingError(f"{self.path}: no such run; give the folder that `wrn train` named")
        if not (self.path / "recipe.json").exists():
            raise Error(f"{self.path}: not a run (it has no recipe.json); give the folder that `wrn train` named")

    def _read(self, name: str, *fields: str) -> dict[str, Any]:
        self._must_be_a_run()
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not content.keys() >= set(fields):
                raise ValueError(f"lacks {' or '.join(fields)}")
            return content
        except FileNotFoundError:
            raise Error(f"{self.path}: {name} is missing; run the training command again") from None
        except ValueError as error:
            raise Error(f"{self.path / name}: damaged ({error}); start over with --fresh") from None


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


def default_path(recipe: Recipe, seed: int, out: str | Path = "runs") -> Path:
    """`<out>/<data>/<model>-<recipe hash>/seed<k>`, below the working directory."""
    folder = re.sub(r"[^A-Za-z0-9._]+", "-", label(recipe.data))
    return Path(out) / folder / f"{recipe.model}-{recipe.hash}" / f"seed{seed}"


def environment(execution: dict[str, Any]) -> dict[str, Any]:
    """What `env.json` holds: versions, machine, how the run computes, the code's commit, the command."""
    packages = ("wrn", "torch", "numpy", "pillow", "safetensors", "scikit-learn")
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "execution": execution,
        "world_size": 1,
        "git_commit": _git_commit(),
        "command": ["wrn", *sys.argv[1:]] if Path(sys.argv[0]).stem in ("wrn", "__main__") else sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """What the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _git_commit() -> str | None:
    """The commit of the checkout this package runs from, with `-dirty` if it was changed; None elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
