"""Every number the paper prints, and exact counts of its networks: one source for tests and tables."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def paper() -> dict[str, Any]:
    """The content of `paper.json`. Error rates are percentages; `params_computed` counts BN and biases."""
    return json.loads(files(__name__).joinpath("paper.json").read_text(encoding="utf-8"))


@cache
def experiment(name: str) -> dict[str, Any] | None:
    """One table or figure by its id (`table4`); None if the paper has none such."""
    return next((entry for entry in paper()["experiments"] if entry["id"] == name), None)


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one table or figure. Raises KeyError if the paper has none such."""
    found = experiment(name)
    if found is None:
        raise KeyError(name)
    return found["rows"]


@cache
def authors_logs() -> list[dict[str, Any]]:
    """Two logs of the authors' repository: network, dataset, source, epochs {epoch, lr, train_loss, test_error}."""
    return json.loads(files(__name__).joinpath("authors_logs.json").read_text(encoding="utf-8"))
