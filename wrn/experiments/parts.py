"""What a table or figure of the paper is made of. Data alone: what runs them is `wrn.reproduction`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network and how it is trained; with each column's data set it is one recipe."""

    model: str
    paper: int | None = None  # which row of paper.json's experiment; None: the paper has no such row
    name: str | None = None  # what claims and `--rows` call it; None: the model
    recipe: str = "authors"
    fields: Mapping[str, Any] = field(default_factory=dict)  # of the recipe
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # the same, on single data sets alone
    only: tuple[str, ...] = ()  # the columns that it has; none: all
    precision: str | None = None  # None: as all others
    teacher: str | None = None  # the network whose run it learns from, trained first
    cannot: str | None = None  # why it cannot be run

    @property
    def key(self) -> str:
        return self.name or self.model


@dataclass(frozen=True)
class Column:
    """Errors on one data set: `key` is what paper.json calls them, `result` what `result.json` does."""

    key: str
    title: str
    data: str
    tolerance: float  # points of error within which ours and the paper's count as the same
    result: str = "test_error"


# Tolerances: about twice what the same network differs by from seed to seed. The authors' one public log has 5.11 as
# its last error, 4.92 as its best, where the paper prints 4.97
CIFAR10 = Column("cifar10", "CIFAR-10", "cifar10", 0.3)
CIFAR100 = Column("cifar100", "CIFAR-100", "cifar100", 0.6)
SVHN = Column("svhn", "SVHN", "svhn", 0.1)
TOP1 = Column("top1", "ImageNet top-1", "imagenet", 0.4)
TOP5 = Column("top5", "ImageNet top-5", "imagenet", 0.3, "test_top5_error")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says of a table: of each pair (worse, better) of rows the second has the lower error."""

    text: str
    pairs: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] = ()  # none: all; "time": not the error, but the time


@dataclass(frozen=True, kw_only=True)
class Rise:
    """What the paper says of curves: after the first drop of the rate the error sinks, then rises until the next."""

    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Times:
    """What the paper prints of time, as ratios to the row `to`: forward and backward passes of one minibatch."""

    key: str  # of the paper's row
    to: str
    batch_size: int
    image_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One table or figure."""

    id: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim | Rise, ...] = ()
    # Fields of the recipe by version of the paper, on CIFAR
    versions: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"v4": {}})
    curves: bool = False  # a figure of training curves
    times: Times | None = None
    base: str | None = None  # the row that all others differ from in one thing
    seeds: int | None = None  # None: as many as the paper


# v1 and the proceedings whitened CIFAR and drew one crop for a whole batch; v4 kept what Tables 2 to 4 had printed
ZCA_V1 = {"preprocess": "zca", "augment": "v1"}
ALWAYS_ZCA = {"v1": ZCA_V1, "bmvc": ZCA_V1, "v4": {"preprocess": "zca"}}
ZCA_THEN_MEANSTD = {"v1": ZCA_V1, "bmvc": ZCA_V1, "v4": {}}


def chain(*worst_first: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a claim that each row is better than the one before."""
    return tuple(pairwise(worst_first))


def best(row: str, *others: str) -> tuple[tuple[str, str], ...]:
    """The pairs of a claim that one row is better than all others."""
    return tuple((other, row) for other in others)
