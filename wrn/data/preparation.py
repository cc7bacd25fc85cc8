"""Finding the source of a data set, and what is known of its prepared copy. No torch."""

import importlib
import json
from pathlib import Path
from typing import Any, NoReturn

from wrn.data.arrays import Request, channel_statistics
from wrn.data.cache import folder_of, kept
from wrn.data.catalog import entry, label
from wrn.errors import Error
from wrn.recipes import Recipe, recipe


def source_of(wanted: Recipe, request: Request) -> Any:
    """What the reader of the recipe's data set finds: a `Source`, or for a streamed set its lister."""
    module, function = entry(wanted.data).reader.split(":")
    return getattr(importlib.import_module(module), function)(wanted.data, request)


def prepared(wanted: Recipe) -> dict[str, Any]:
    """Where the prepared copy lies and what it holds, or what brings it there. Nothing is prepared by this."""
    known = entry(wanted.data)
    request = Request(image_size=wanted.image_size, val_fraction=wanted.val_fraction)
    source = source_of(wanted, request)
    folder = folder_of("data", label(wanted.data), source.key)
    try:
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        lies_in = info["origin"]["root"] if known.streamed else str(folder)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # or damaged, so that it would be made again
        usual = recipe(wanted.model, data=wanted.data)
        size = f" --image-size {wanted.image_size}" if wanted.image_size != usual.image_size else ""
        share = f" --val-fraction {wanted.val_fraction:g}" if wanted.val_fraction else ""
        return {"prepared": False, "lies_in": None, "prepare_with": f"wrn data prepare {wanted.data}{size}{share}"}
    found: dict[str, Any] = {
        "prepared": True,
        "lies_in": lies_in,
        "bytes": sum(file.stat().st_size for file in Path(folder).iterdir()),
        "origin": info["origin"].get("where"),
        "classes": len(info["classes"]),
        "class_names": info["classes"],
    }

    def gone() -> NoReturn:
        raise Error(f"{folder}: is damaged; wrn data prepare {wanted.data} makes it again")

    arrays = kept("data", label(wanted.data), source.key, gone, _unheard).arrays
    found |= {"train_images": len(arrays["train_labels"]), "test_images": len(arrays["test_labels"])}
    if known.streamed:
        return found
    mean, std = channel_statistics(arrays["train_images"])
    return found | {
        "own_mean": [round(value, 3) for value in mean],
        "own_std": [round(value, 3) for value in std],
    }


def _unheard(line: str) -> None:
    pass
