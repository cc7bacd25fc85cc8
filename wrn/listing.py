"""What `wrn list` shows. No torch."""

import dataclasses
import json
from importlib.resources import files
from typing import Any

from wrn.data.catalog import AUGMENTATIONS, DATASETS, PREPROCESSING, entry
from wrn.data.preparation import prepared
from wrn.models.names import MODELS, parse, rule_of
from wrn.recipes import RECIPES, Recipe, recipe

_OF_DATA = ("preprocess", "val", "labels", "label_noise")


def models() -> list[dict[str, Any]]:
    """The paper's networks: size with 10 classes, ImageNet's with 1,000, own recipe, where they stand."""
    sizes = json.loads(files("wrn.models").joinpath("sizes.json").read_text(encoding="utf-8"))
    return [
        {
            "model": name,
            "parameters": sizes[name]["params"],
            "MACs": sizes[name]["macs"],
            "image": parse(name, rule_of(source)).image_size,
            "own recipe": parse(name, rule_of(source)).recipe,
            "source": source,
        }
        for name, source in MODELS.items()
    ]


def data_sets() -> list[dict[str, Any]]:
    """The catalogue. Without numbers: as many as are found."""
    return [
        {
            "data": f"{name}:PATH" if known.takes_path else name,
            "classes": known.classes,
            "train": known.images and known.images[0],
            "test": known.images and known.images[1],
            "preprocess": known.recipe.get("preprocess", "meanstd"),
            "augment": known.recipe["augment"],
            "what": known.summary,
        }
        for name, known in DATASETS.items()
    ]


def data_set(data: str, **fields: Any) -> dict[str, Any]:
    """What a data set is, how the paper's recipe treats it, and where it lies. Raises ValueError for unknown names."""
    known, wanted = entry(data), recipe("wrn-16-1", data=data, **fields)
    usual = Recipe().to_dict()
    found: dict[str, Any] = {
        "data": data,
        "what": known.summary,
        "classes": known.classes,
        "train_images": known.images and known.images[0],
        "test_images": known.images and known.images[1],
        "image_size": wanted.image_size,
        "preprocess": wanted.preprocess,
        "preprocess_is": PREPROCESSING[wanted.preprocess],
        "mean": known.mean if wanted.preprocess == "meanstd" else None,
        "std": known.std if wanted.preprocess == "meanstd" else None,
        "augment": wanted.augment,
        "augment_is": AUGMENTATIONS[wanted.augment],
        "recipe": {
            name: value
            for name, value in wanted.to_dict().items()
            if value != usual[name] and name not in ("model", "data", "preprocess", "augment", "image_size")
        },
    }
    return found | prepared(wanted)


def recipes() -> list[dict[str, Any]]:
    """Every field of the recipes whose value differs between them, or that a number stands for."""
    named = {name: Recipe(recipe=name, **changes) for name, changes in RECIPES.items()}
    hidden = ("recipe", "model", "data", "depth_rule", "val_fraction", "image_size", "augment", "dropout", *_OF_DATA)
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
