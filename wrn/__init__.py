"""Wide Residual Networks (Zagoruyko & Komodakis, arXiv 1605.07146). See README.md.

Names are imported when they are first used, so that `import wrn` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wrn.data.loader import dataset
    from wrn.errors import Error
    from wrn.evaluation import evaluate
    from wrn.models.complexity import describe
    from wrn.models.creation import create_model
    from wrn.prediction import load
    from wrn.recipes import Recipe, recipe
    from wrn.runs import Run
    from wrn.training.loop import network_of
    from wrn.training.objective import objective
    from wrn.training.optim import optimizer, set_rates, start_epoch
    from wrn.training.session import train

__version__ = "0.1.0"
__all__ = [
    "Error",
    "Recipe",
    "Run",
    "create_model",
    "dataset",
    "describe",
    "evaluate",
    "load",
    "network_of",
    "objective",
    "optimizer",
    "recipe",
    "set_rates",
    "start_epoch",
    "train",
]

_HOME = {
    "Error": "wrn.errors",
    "Recipe": "wrn.recipes",
    "Run": "wrn.runs",
    "create_model": "wrn.models.creation",
    "dataset": "wrn.data.loader",
    "describe": "wrn.models.complexity",
    "evaluate": "wrn.evaluation",
    "load": "wrn.prediction",
    "network_of": "wrn.training.loop",
    "objective": "wrn.training.objective",
    "optimizer": "wrn.training.optim",
    "recipe": "wrn.recipes",
    "set_rates": "wrn.training.optim",
    "start_epoch": "wrn.training.optim",
    "train": "wrn.training.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wrn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
