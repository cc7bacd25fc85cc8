"""Every number the paper prints, and exact counts of its networks: one source for tests and tables."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def paper() -> dict[str, Any]:
    """The content of `paper.json`. Error rates are percentages; `params_computed` counts BN and biases."""
    return json.loads(files(__name__).joinpath("paper.json").read_text(encoding="utf-8"))


def rows(experiment: str) -> list[dict[str, Any]]:
    """The rows of one table or figure, by its id (`table4`). Raises KeyError if the paper has none such."""
    for entry in paper()["experiments"]:
        if entry["id"] == experiment:
            return entry["rows"]
    raise KeyError(experiment)
