"""What `wrn list` shows. No torch."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from wrn.data.catalog import AUGMENTATIONS, DATASETS, PREPROCESSING, entry
from wrn.data.preparation import prepared
from wrn.experiments.catalog import EXPERIMENTS
from wrn.models.names import MODELS, parse, rule_of
from wrn.paper import experiment as of_the_paper
from wrn.recipes import RECIPES, Recipe, recipe


def models() -> list[dict[str, Any]]:
    """The paper's networks: size with 10 classes, ImageNet's with 1,000, own recipe, where they stand."""
    sizes = json.loads(files("wrn.models").joinpath("sizes.json").read_text(encoding="utf-8"))
    return [
        {
            "model": name,
            "params": sizes[name]["params"],
            "macs": sizes[name]["macs"],
            "image_size": parse(name, rule_of(source)).image_size,
            "own_recipe": parse(name, rule_of(source)).recipe,
            "source": source,
        }
        for name, source in MODELS.items()
    ]


def experiments() -> list[dict[str, Any]]:
    """What `wrn reproduce` knows: the paper's tables and figures, and more."""
    return [
        {
            "experiment": name,
            "title": known.title,
            "rows": len(known.rows),
            "data": list(dict.fromkeys(column.data for column in known.columns)),
            "paper_versions": list(known.versions) if of_the_paper(name) else [],
        }
        for name, known in EXPERIMENTS.items()
    ]


def data_sets() -> list[dict[str, Any]]:
    """The catalogue. Without numbers: as many as are found."""
    return [
        {
            "data": f"{name}:PATH" if known.takes_path else name,
            "classes": known.classes,
            "train_images": known.images and known.images[0],
            "test_images": known.images and known.images[1],
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
    """The named recipes: where from, and every field in which they differ from the paper's; of that, what it is."""
    usual = Recipe().to_dict()
    rows = []
    for name, named in RECIPES.items():
        changes = Recipe.from_dict(named.fields).to_dict()
        told = _TOLD if name == "paper" else [f for f in changes if changes[f] != usual[f]]
        papers = {data: known.recipe for data, known in DATASETS.items()} if named.of_the_paper else {}
        on = {data: _schedule(more) for data, more in papers.items() if _schedule(more)} | dict(named.on)
        rows.append(
            {
                "recipe": name,
                "source": named.source,
                "fields": {field: changes[field] for field in told},
                "on_single_data_sets": on or None,
            }
        )
    return rows


def _schedule(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what `wrn list data` tells, how images are treated."""
    return {name: value for name, value in fields.items() if name not in ("image_size", "preprocess", "augment")}


_TOLD = (
    "optimizer", "epochs", "batch_size", "lr", "lr_decay", "milestones", "momentum", "nesterov", "weight_decay",
    "reset_momentum", "drop_last", "conv_init", "bn_init", "linear_init", "pad", "padding",
)  # fmt: skip
