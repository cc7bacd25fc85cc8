"""The data sets by name: what each is, and what it needs. No torch, nothing is loaded here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wrn.errors import UsageError, unknown

Augment = Literal["flip-crop", "v1", "imagenet", "none"]
Padding = Literal["reflect", "zero"]
Preprocess = Literal["meanstd", "meanstd-own", "unit", "zca", "gcn", "gcn-mean", "pixel-mean"]

AUGMENTATIONS: dict[Augment, str] = {
    "flip-crop": "mirror half of the images, pad 4 by reflection, crop at one of 9 x 9 offsets (paper)",
    "v1": "the same, but one offset for a whole batch and exactly half of it mirrored (the paper's first version)",
    "imagenet": "scale and aspect crop, colour jitter, PCA lighting, mirror half (fb.resnet.torch)",
    "none": "none",
}
PREPROCESSING: dict[Preprocess, str] = {
    "meanstd": "minus the mean, by the standard deviation, of each channel: the authors' constants, else its own",
    "meanstd-own": "the same with the constants of the training images",
    "unit": "divided by 255",
    "zca": "global contrast normalisation and ZCA whitening, fitted to the training images",
    "gcn": "global contrast normalisation: each image minus its own mean, scaled to one length",
    "gcn-mean": "the same, minus the mean of the training images, pixel by pixel",
    "pixel-mean": "minus the mean of the training images, pixel by pixel, by one deviation of all values",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set. Constants are in units of 0..255, per channel R, G, B; None: computed from the training split."""

    summary: str
    reader: str  # "module:function" that decodes it, imported when it is needed
    classes: int | None = None  # None: as many as are found
    images: tuple[int, int] | None = None  # to train on and to test; None: as many as are found
    takes_path: bool = False  # named as NAME:PATH
    origins: tuple[str, ...] = ()  # where its files may be had from: "root", a folder; "url", a mirror
    streamed: bool = False  # too large for memory: decoded and augmented by worker processes, again in each epoch
    # The authors' constants, for `meanstd`; without them it computes them, as `meanstd-own` does
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)  # what the paper's recipe is on this data
    shortened: Mapping[str, Any] = field(default_factory=dict)  # our convenience: counted as a deviation


# The authors' code, for both sets
CIFAR10_MEAN, CIFAR10_STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)

IMAGENET_MEAN, IMAGENET_STD = (
    (123.675, 116.28, 103.53),
    (58.395, 57.12, 57.375),
)  # fb.resnet.torch's, for 0..1

_SVHN = {  # section 3 of the paper
    "preprocess": "unit",
    "augment": "none",
    "lr": 0.01,
    "lr_decay": 0.1,
    "milestones": (80, 120),
    "epochs": 160,
}

DATASETS: dict[str, Entry] = {
    "digits": Entry(
        summary="1,797 real scans of handwritten digits (scikit-learn's); no download",
        reader="wrn.data.digits:read",
        classes=10,
        images=(1_442, 355),
        recipe={"augment": "none"},
        shortened={"epochs": 20},
    ),
    "cifar10": Entry(
        summary="photographs of 10 things (Krizhevsky 2009); downloaded once, 162 MiB",
        reader="wrn.data.cifar:read",
        classes=10,
        images=(50_000, 10_000),
        origins=("root", "url"),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        recipe={"augment": "flip-crop"},
    ),
    "cifar100": Entry(
        summary="the same of 100 things; meanstd is CIFAR-10's constants, as in the authors' code; 161 MiB",
        reader="wrn.data.cifar:read",
        classes=100,
        images=(50_000, 10_000),
        origins=("root", "url"),
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        recipe={"augment": "flip-crop"},
    ),
    "svhn": Entry(
        summary="house numbers (Netzer et al. 2011), train and extra, as in the paper; downloaded once, 1.5 GiB",
        reader="wrn.data.svhn:read",
        classes=10,
        images=(604_388, 26_032),
        origins=("root", "url"),
        recipe=_SVHN,
    ),
    "svhn-train": Entry(
        summary="the same without extra; 235 MiB",
        reader="wrn.data.svhn:read",
        classes=10,
        images=(73_257, 26_032),
        origins=("root", "url"),
        recipe=_SVHN,
    ),
    "glyphs-10": Entry(
        summary="synthetic pictures of digits among distractors, in the spirit of SVHN; made here, no download",
        reader="wrn.data.glyphs:read",
        classes=10,
        images=(50_000, 10_000),
        recipe={"augment": "none"},
    ),
    "glyphs-100": Entry(
        summary="the same of 100 characters of three alphabets",
        reader="wrn.data.glyphs:read",
        classes=100,
        images=(50_000, 10_000),
        recipe={"augment": "none"},
    ),
    "imagenet": Entry(
        summary="ILSVRC 2012, from train/ and val/ folders that you have: wrn data prepare imagenet --root FOLDER",
        reader="wrn.data.imagenet:read",
        classes=1000,
        images=(1_281_167, 50_000),
        origins=("root",),
        streamed=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        recipe={  # fb.resnet.torch's, whichever of the recipes is named
            "image_size": 224,
            "augment": "imagenet",
            "lr_decay": 0.1,
            "milestones": (31, 61),
            "epochs": 90,
            "batch_size": 256,
            "weight_decay": 1e-4,
            "nesterov": True,
            "bn_init": "ones",
            "linear_init": "uniform",
            "reset_momentum": False,
            "drop_last": False,
        },
    ),
    "folder": Entry(
        summary="your own pictures: folder:PATH with train/CLASS/* and test/CLASS/*, or a tar of that",
        reader="wrn.data.folder:read",
        takes_path=True,
        recipe={"augment": "flip-crop"},
    ),
    "parquet": Entry(
        summary="Hugging Face's Parquet files of images and labels: parquet:PATH, a folder or a file",
        reader="wrn.data.parquet:read",
        takes_path=True,
        recipe={"augment": "flip-crop"},
    ),
}


def entry(data: str) -> Entry:
    """The catalogue's entry of a name (`digits`) or NAME:PATH. Raises ValueError for a name that is not in it."""
    name, colon, path = data.partition(":")
    if name not in DATASETS:
        hint = f"; for the pictures in that folder write folder:{data}" if not colon and Path(data).exists() else ""
        raise unknown("data set", data, DATASETS, hint)
    takes_path = DATASETS[name].takes_path
    if takes_path != bool(path) or (colon and not path):
        raise UsageError(f"data set {data!r}: {f'no path given; write {name}:PATH' if takes_path else 'takes no path'}")
    return DATASETS[name]


def streams(data: str, augment: str) -> bool:
    """Whether pictures are read from their files in every epoch, as for `augment` imagenet, not kept in memory."""
    return entry(data).streamed or augment == "imagenet"


def label(data: str) -> str:
    """A short name: `digits`; for `folder:some/where/birds.tar.gz`, `birds`."""
    path = data.partition(":")[2]
    name = Path(path).expanduser().resolve().name or "root" if path else data
    for suffix in (".gz", ".bz2", ".xz", ".tgz", ".tar", ".parquet"):
        name = name.removesuffix(suffix)
    return name
