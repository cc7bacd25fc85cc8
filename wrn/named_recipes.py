"""The recipes that have a name: the paper's, its released codes', and those of the other networks' papers. Data alone.

Fields are those of `wrn.recipes.Recipe`; milestones and stages belong to the recipe's `epochs`. Schedules in
iterations are rounded to epochs of 50,000 images.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wrn.data.catalog import DATASETS


@dataclass(frozen=True)
class Named:
    """A recipe's name in full."""

    source: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what differs from the paper's text
    on: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)  # what else, on single data sets
    of_the_paper: bool = False  # whether the paper's schedules for single data sets are part of it


_HE = {  # Section 4.2: 64k iterations of 128, divided by 10 after 32k and 48k. By one deviation of all values: ours
    "epochs": 164,
    "milestones": (83, 124),
    "lr_decay": 0.1,
    "nesterov": False,
    "weight_decay": 1e-4,
    "preprocess": "pixel-mean",
    "padding": "zero",
}
_WARM = {"lr": 0.01, "milestones": (2, 83, 124), "rates": (0.1, 0.01, 0.001)}  # 400 iterations, rounded to an epoch
_BY_LAYER = {"nesterov": False, "conv_init": "published", "layer_rules": True, "padding": "zero"}

RECIPES: dict[str, Named] = {
    "paper": Named("the printed text; where it is silent, the usual choice", of_the_paper=True),
    "authors": Named(
        "the Lua code behind the printed numbers",
        {"bn_init": "uniform", "reset_momentum": True, "drop_last": True},
        of_the_paper=True,
    ),
    "authors-pytorch": Named(
        "the authors' later PyTorch code",
        {"bn_init": "uniform", "reset_momentum": True, "linear_init": "normal", "nesterov": False},
        of_the_paper=True,
    ),
    "fast": Named(
        "ours, not the paper's, for a quarter of the epochs: Muon, one cycle of the rate, smoothed labels, images "
        "drawn by importance",
        {
            "optimizer": "muon",
            "schedule": "one-cycle",
            "milestones": (),
            "epochs": 50,
            "label_smoothing": 0.1,
            "batch_size": 64,
            "sampling": "importance",
            "pad": 2,
            "bn_window": 0.025,
        },
    ),
    "vgg": Named(
        "the authors' Lua script, whitened data",
        {"bn_init": "uniform", "reset_momentum": True, "drop_last": True, "preprocess": "zca"},
    ),
    "resnet": Named("He et al. 2015; 64k iterations", _HE),
    "resnet-110": Named("the same for 110 layers, which begin slowly", {**_HE, **_WARM}),
    "pre-resnet": Named("He et al. 2016: the same, 200 epochs as in their code", {**_HE, **_WARM, "epochs": 200}),
    "stochastic-depth": Named(
        "Huang et al. 2016 and their code; the epoch is chosen on a validation split",
        {
            "epochs": 500,
            "milestones": (250, 375),
            "lr_decay": 0.1,
            "weight_decay": 1e-4,
            "preprocess": "pixel-mean",
            "padding": "zero",
        },
        on={
            "cifar10": {"val": 5000},
            "cifar100": {"val": 5000},
            "svhn": {
                "epochs": 50,
                "milestones": (30, 35),
                "preprocess": "pixel-mean",
                "val": 6000,
            },
        },
    ),
    "nin": Named(
        # Uncertain: their text drops the rate by hand. 120k iterations of 128, after 100k a tenth, is what a
        # configuration for Caffe from its first author has, to our knowledge.
        "Lin et al. 2014; schedule uncertain",
        {
            **_BY_LAYER,
            "epochs": 307,
            "milestones": (257,),
            "lr_decay": 0.1,
            "weight_decay": 1e-4,
            "dropout": 0.5,
            "preprocess": "zca",
        },
    ),
    "dsn": Named(
        # Three runs of its released solvers, 50k + 120k + 30k iterations of 100. Uncertain: the second's drop to
        # .00125 after 100k is theirs to our knowledge; the paper names .025 and 1e-4 alone
        "Lee et al. 2015 and their code: companions for 100 epochs, then without",
        {
            **_BY_LAYER,
            "epochs": 400,
            "stages": (101,),
            "lr": 0.025,
            "milestones": (301, 341),
            "rates": (0.00125, 0.0001),
            "batch_size": 100,
            "dropout": 0.5,
            "preprocess": "gcn",
            "loss": "squared-hinge",
        },
        on={"cifar100": {"loss": "cross-entropy"}},
    ),
    "fitnet": Named(
        # Uncertain: how long the hints last. The released file of the second stage, which the first reads too, says 288
        "Romero et al. 2015 and their code: hints, then the teacher's answers; needs --teacher",
        {
            **_BY_LAYER,
            "optimizer": "rmsprop",
            "epochs": 576,
            "stages": (289,),
            "teacher_fade": (4 / 288, 400 / 288),
            "lr": 0.005,
            "milestones": (),
            "weight_decay": 0.0,
            "preprocess": "zca",
            "pad": 8,
        },
    ),
    "highway": Named(
        "Srivastava et al. 2015 and their code",
        {
            **_BY_LAYER,
            "nesterov": True,
            "epochs": 400,
            "lr": 0.025,
            "lr_decay": 0.1,
            "milestones": (201, 301, 351),
            "batch_size": 100,
            "weight_decay": 1e-3,
            "dropout": 0.2,
            "preprocess": "gcn-mean",
            "pad": 8,
        },
    ),
    "elu": Named(
        # Uncertain: what lies between the drop after 35k iterations of 100 and the last 50k; here nothing
        "Clevert et al. 2016: more dropout for 100 epochs, yet more for 80",
        {
            "epochs": 250,
            "stages": (71, 171),
            "lr": 0.01,
            "lr_decay": 0.1,
            "milestones": (71,),
            "nesterov": False,
            "batch_size": 100,
            "dropout": 0.5,
            "preprocess": "zca",
            "padding": "zero",
        },
    ),
    "fb-resnet": Named(
        "fb.resnet.torch on ImageNet, whose own networks draw by the fan-out",
        {**DATASETS["imagenet"].recipe, "conv_init": "fan-out"},
    ),
}
