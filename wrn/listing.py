"""What `wrn list` shows. No torch."""

import dataclasses
from typing import Any

from wrn.data.catalog import DATASETS
from wrn.models.names import MODELS, parameter_count, parse
from wrn.recipes import RECIPES, Recipe


def models() -> list[dict[str, Any]]:
    """The paper's networks, their parameters with 10 classes, and where in the paper they stand."""
    rows = []
    for name, source in MODELS.items():
        spec = parse(name, "nominal" if "nominal" in source else "true")
        params = parameter_count(spec.blocks_per_group, spec.widen_factor, spec.kernels)
        rows.append({"model": name, "parameters": params, "blocks a group": spec.blocks_per_group, "source": source})
    return rows


def data_sets() -> list[dict[str, Any]]:
    """The catalogue."""
    return [
        {"data": name, "classes": known.classes, "augment": known.recipe.get("augment"), "what": known.summary}
        for name, known in DATASETS.items()
    ]


def recipes() -> list[dict[str, Any]]:
    """Every field of the recipes whose value differs between them, or that a number stands for."""
    named = {name: Recipe(recipe=name, **changes) for name, changes in RECIPES.items()}
    hidden = ("recipe", "model", "data", "depth_rule", "val_fraction", "image_size", "augment", "dropout")
    return [
        {
            "field": field.name,
            **{name: _text(getattr(each, field.name)) for name, each in named.items()},
            "meaning": field.metadata["meaning"],
        }
        for field in dataclasses.fields(Recipe)
        if field.name not in hidden
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
