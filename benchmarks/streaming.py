"""Pictures a second that the streaming loader hands over, beside torchvision's reference transforms and DataLoader.

    python benchmarks/streaming.py imagenet-sample.tar

The tar holds some of ImageNet's pictures as val/<WordNet id>/*.JPEG; they are read again and again, in batches of 64 at
224 x 224, normalised, by as many worker processes. Theirs is ImageFolder with RandomResizedCrop, RandomHorizontalFlip,
ColorJitter, ToTensor and Normalize, bilinear as in the reference scripts; to validate, Resize(256) and CenterCrop. Ours
is what `wrn train --data imagenet` runs: the paper's crop (bicubic), the same jitter, PCA lighting and mirroring, in
floating point. Ours and theirs take turns, so that what else the machine does meets both.
"""

import argparse
import json
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import wrn
from wrn.data.catalog import IMAGENET_MEAN, IMAGENET_STD
from wrn.data.paths import Files
from wrn.data.preprocess import MeanStd
from wrn.data.streaming import Pictures, Streamed

BATCH, SIZE = 64, 224
LENGTH = 1_000_000  # pictures in an epoch: more than a round can ask for

Batches = Iterator[tuple[Tensor, Tensor]]


def ours(root: Path, known: ImageFolder, workers: int, training: bool) -> Batches:
    """The package's own loader on the same files."""
    names = [str(Path(path).relative_to(root)) for path, _ in known.samples]
    places = np.arange(LENGTH) % len(names)
    files = Files.of(np.frombuffer("\0".join(names).encode(), np.uint8), np.array(known.targets))
    files = files.part(places, files.labels[places])
    preprocess = MeanStd(IMAGENET_MEAN, IMAGENET_STD)
    recipe = wrn.recipe("wrn-16-2", data="imagenet", batch_size=BATCH)
    split = Streamed(Pictures(str(root), files, SIZE), torch.from_numpy(files.labels), preprocess, workers, recipe)
    return split.batches(recipe, seed=0, epoch=1) if training else split.in_order(BATCH)


def theirs(root: Path, known: ImageFolder, workers: int, training: bool) -> Batches:
    """torchvision's, as in references/classification/presets.py, with the jitter that the paper's transforms have."""
    crop: list[Any] = [transforms.Resize(256), transforms.CenterCrop(SIZE)]
    if training:
        jitter = transforms.ColorJitter(0.4, 0.4, 0.4)
        crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), jitter]
    mean, std = ([value / 255 for value in each] for each in (IMAGENET_MEAN, IMAGENET_STD))
    made = transforms.Compose([*crop, transforms.ToTensor(), transforms.Normalize(mean, std)])
    places = np.random.default_rng(0).permutation(LENGTH) if training else np.arange(LENGTH)
    sampler = (places % len(known)).tolist()
    return iter(DataLoader(ImageFolder(root, made), BATCH, sampler=sampler, num_workers=workers))


def rate(batches: Batches, workers: int, seconds: float) -> float:
    """Images a second, once every worker has handed over its first batch, for at least so long."""
    for _ in range(workers):
        next(batches)
    clock, count = time.perf_counter(), 0
    while time.perf_counter() - clock < seconds:
        for _ in range(workers):  # they work side by side and are ready at about the same time
            images, _ = next(batches)
            assert images.shape == (BATCH, 3, SIZE, SIZE) and images.dtype == torch.float32
            count += len(images)
    return count / (time.perf_counter() - clock)


def measure(root: Path, seconds: float, rounds: int, workers: Iterable[int]) -> list[dict[str, Any]]:
    """A line for each transform and number of workers: images a second in every round."""
    lines = []
    known = ImageFolder(root)
    for training, count in ((training, count) for training in (True, False) for count in workers):
        rates: dict[str, list[float]] = {"wrn": [], "torchvision": []}
        for number in range(rounds):
            for kind in sorted(rates, reverse=number % 2 == 1):  # neither is always the first
                batches = (ours if kind == "wrn" else theirs)(root, known, count, training)
                rates[kind].append(round(rate(batches, count, seconds), 2))
                del batches  # and its processes
        lines.append({"transform": "training" if training else "validation", "workers": count, "rates": rates})
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Medians over the rounds, as Markdown."""
    rows = [
        "| transform | workers | wrn, images/s | a worker | torchvision, images/s | a worker | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in lines:
        workers = line["workers"]
        mine, other = (statistics.median(line["rates"][kind]) for kind in ("wrn", "torchvision"))
        numbers = f"{mine:.1f} | {mine / workers:.1f} | {other:.1f} | {other / workers:.1f} | {mine / other:.2f}"
        rows.append(f"| {line['transform']} | {workers} | {numbers} |")
    return "\n".join(rows)


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = Path("/proc/cpuinfo")
    known = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.split(":")[1] for line in known if line.startswith("model name")]
    return {
        "cpu": names[0].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "pillow": PIL.__version__,
        "wrn": wrn.__version__,
    }


def main() -> None:
    """Measure and print a table and JSON."""
    parser = argparse.ArgumentParser(description="Pictures a second of the streaming loader, beside torchvision's.")
    parser.add_argument("tar", type=Path, help="pictures as val/<WordNet id>/*.JPEG")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each kind")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    where = machine()  # with the load before there is ours
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(given.tar) as archive:
            archive.extractall(folder, filter="data")
        lines = measure(Path(folder) / "val", given.seconds, given.rounds, given.workers)
    print(table(lines))
    print(json.dumps({"seconds": given.seconds, "rounds": given.rounds, "machine": where, "lines": lines}))


if __name__ == "__main__":
    main()
