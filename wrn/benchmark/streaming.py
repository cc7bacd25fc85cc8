"""Pictures a second that the streaming loader hands over, beside torchvision's reference transforms and DataLoader."""

import statistics
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import wrn
from wrn.benchmark.baselines import LONG, Batches, torchvision_streamed
from wrn.benchmark.timing import machine
from wrn.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from wrn.data.paths import Files
from wrn.data.pictures import SUFFIXES, opened
from wrn.data.preprocess import MeanStd
from wrn.data.streaming import Pictures, Streamed
from wrn.errors import Error, MissingError, UsageError
from wrn.training.precision import choose

BATCH, SIZE = 64, 224
MOST = 2000  # pictures that are read, of all that there are


def bench_streaming(folder: str, workers: tuple[int, ...], rounds: int = 5, turn: float = 3.0) -> dict[str, Any]:
    """Read the pictures under `folder` again and again: ours as `wrn train --data imagenet` does, then torchvision's.

    In batches of 64 at 224 x 224, normalised, as in training and as in validation, by so many worker processes. Ours
    are the paper's transforms: another crop, bicubic, PCA lighting, in floating point (`imagenet_transforms`). Both
    take turns of at least `turn` seconds, each with new workers, counted from each one's first batch on.

    Returns {what, machine, rows}; a row has transform, workers, contestant, and images/s. Raises
    FileNotFoundError if there are no pictures.
    """
    if rounds < 1:
        raise UsageError(f"--rounds {rounds}: must be at least 1")
    if min(workers, default=0) < 1:
        raise UsageError(f"--workers {' '.join(map(str, workers))}: must be at least 1 each")
    root = Path(folder)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not names:
        raise MissingError(f"{folder}: no pictures there; name a folder of some, such as ImageNet's val/")
    names = names[:: -(-len(names) // MOST)]
    for name in names:
        try:
            opened(root / name, lambda _: None)
        except (Error, OSError) as error:
            raise Error(f"{root / name}: {error}; replace or remove it") from error
    choose("cpu").apply()
    contestants = {"wrn": ours, "torchvision": torchvision_streamed}
    if not find_spec("torchvision"):
        del contestants["torchvision"]
    rows: list[dict[str, Any]] = []
    for training, count in [(training, count) for training in (True, False) for count in workers]:
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(rounds):
            for name in sorted(contestants, reverse=number % 2 == 1):  # neither is always the first
                rates[name].append(_rate(contestants[name](folder, names, BATCH, SIZE, count, training), count, turn))
        rows += _compared("training" if training else "validation", count, rates)
    return {"what": "stream", "machine": machine("cpu"), "rows": rows}


def ours(root: str, names: Sequence[str], batch_size: int, size: int, workers: int, training: bool) -> Batches:
    """From the package's own loader."""
    joined = np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), np.uint8)
    files = Files.of(joined, np.zeros(len(names), np.int64))
    files = files.part(np.arange(LONG) % len(names), np.zeros(LONG, np.int64))
    recipe = wrn.recipe("wrn-16-2", data="imagenet", batch_size=batch_size)
    preprocess = MeanStd(IMAGENET_MEAN, IMAGENET_STD)
    split = Streamed(Pictures(root, files, size), torch.from_numpy(files.labels), preprocess, workers, recipe)
    return split.batches(recipe, seed=0, epoch=1) if training else split.in_order(batch_size)


def _rate(batches: Batches, workers: int, turn: float) -> float:
    """Images/s, once every worker has handed over its first batch."""
    for _ in range(workers):
        next(batches)
    clock, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - clock < turn:
        for _ in range(workers):  # they work side by side and are ready at about the same time
            images, _ = next(batches)
            assert images.shape[1:] == (3, SIZE, SIZE) and images.dtype == torch.float32
            count += len(images)
    return count / (time.perf_counter() - clock)


def _compared(transform: str, workers: int, rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each contestant, ours first."""
    rows: list[dict[str, Any]] = []
    for name, each in rates.items():
        found = {"images_per_second": statistics.median(each), "least": min(each), "most": max(each)}
        row = {"transform": transform, "workers": workers, "contestant": name}
        rows.append(row | {key: round(value, 1) for key, value in found.items()})
    for row in rows[1:]:
        rows[0][f"times {row['contestant']}"] = round(rows[0]["images_per_second"] / row["images_per_second"], 2)
    return rows
