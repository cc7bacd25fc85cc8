"""The data sets by name: what each is, and what it needs. No torch, nothing is loaded here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wrn.errors import UsageError, unknown

Augment = Literal["flip-crop", "none"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set. Constants are in units of 0..255, per channel R, G, B; None: computed from the training split."""

    summary: str
    reader: str  # "module:function" that decodes it, imported when it is needed
    classes: int | None = None  # None: as many as are found
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what the paper's recipe is on this data
    shortened: Mapping[str, Any] = field(default_factory=dict)  # our convenience: counted as a deviation


# SPEC 3.1: the authors' code, for both sets
CIFAR10_MEAN, CIFAR10_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)

DATASETS: dict[str, Entry] = {
    "digits": Entry(
        summary="1,797 real scans of handwritten digits (scikit-learn's), 1,442 to train on and 355 to test",
        reader="wrn.data.digits:read",
        classes=10,
        recipe={"augment": "none"},
        shortened={"epochs": 20},
    ),
    "cifar10": Entry(
        summary="60,000 photographs of 10 things (Krizhevsky 2009), 50,000 to train on; downloaded once, 162 MiB",
        reader="wrn.data.cifar:read",
        classes=10,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        recipe={"augment": "flip-crop"},
    ),
    "cifar100": Entry(
        summary="the same in 100 classes; normalised with CIFAR-10's constants, as the authors' code did; 161 MiB",
        reader="wrn.data.cifar:read",
        classes=100,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        recipe={"augment": "flip-crop"},
    ),
    "glyphs-10": Entry(
        summary="60,000 synthetic 32x32 pictures of digits among distractors, in the spirit of SVHN; made here",
        reader="wrn.data.glyphs:read",
        classes=10,
        recipe={"augment": "none"},
    ),
    "glyphs-100": Entry(
        summary="the same of 100 characters of three alphabets",
        reader="wrn.data.glyphs:read",
        classes=100,
        recipe={"augment": "none"},
    ),
    "folder": Entry(
        summary="your own pictures: folder:PATH with train/CLASS/* and test/CLASS/*, or a tar of that",
        reader="wrn.data.folder:read",
        recipe={"augment": "flip-crop"},
    ),
}


def entry(data: str) -> Entry:
    """The catalogue's entry of a name (`digits`) or `folder:PATH`. Raises ValueError for a name that is not in it."""
    name, colon, path = data.partition(":")
    if name not in DATASETS:
        raise unknown("data set", data, DATASETS)
    if (name == "folder") != bool(path) or (colon and not path):
        raise UsageError(
            f"data set {data!r}: {'no path given; write folder:PATH' if name == 'folder' else 'takes no path'}"
        )
    return DATASETS[name]


def label(data: str) -> str:
    """A short name: `digits`; for `folder:some/where/birds.tar.gz`, `birds`."""
    path = data.partition(":")[2]
    name = Path(path).expanduser().resolve().name or "root" if path else data
    for suffix in (".gz", ".bz2", ".xz", ".tgz", ".tar"):
        name = name.removesuffix(suffix)
    return name
