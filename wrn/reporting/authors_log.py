"""The logs of the authors' Lua code, with lines `json_stats: {…}`, and the two of their repository. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrn.errors import Error, MissingError
from wrn.files import parsed
from wrn.paper import authors_logs


@dataclass(frozen=True)
class AuthorsLog:
    """A run of theirs: an entry an epoch of epoch, lr, train_loss and test_error in percent."""

    title: str
    epochs: tuple[dict[str, Any], ...]

    @property
    def last(self) -> float:
        return self.epochs[-1]["test_error"]

    @property
    def best(self) -> dict[str, Any]:
        """The epoch with the least error on the test set."""
        return min(self.epochs, key=lambda line: line["test_error"])


def kept() -> list[AuthorsLog]:
    """Those of the authors' repository."""
    return [AuthorsLog(f"{log['network']} on {log['dataset']}", tuple(log["epochs"])) for log in authors_logs()]


def known(paths: Sequence[str | Path]) -> list[AuthorsLog]:
    """Those and the logs in these files."""
    return [*kept(), *read(paths)]


def read(paths: Sequence[str | Path]) -> list[AuthorsLog]:
    """Those of these files. Raises wrn.Error for a file without such lines or with damaged ones."""
    return [_read(Path(path)) for path in paths]


def _read(path: Path) -> AuthorsLog:
    if not path.is_file():
        raise MissingError(f"{path}: no such log; give a file with lines `json_stats: {{…}}`")
    lines = []
    told: dict[str, Any] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if text.startswith("json_stats:"):
            try:
                told = parsed(text.removeprefix("json_stats:"))
                lines.append(_epoch(told))
            except (ValueError, KeyError, TypeError) as error:
                raise Error(f"{path}, line {number}: no line of the authors' log ({error}); leave it out") from error
    if not lines:
        raise Error(f"{path}: has no line `json_stats: {{…}}`; leave it out")
    return AuthorsLog(_title(told, path), tuple(lines))


def _epoch(told: dict[str, Any]) -> dict[str, Any]:
    return {
        "epoch": int(told["epoch"]),
        "lr": float(told["lr"]),
        "train_loss": float(told["loss"] if "loss" in told else told["train_loss"]),
        "test_error": round(100 - float(told["test_acc"]), 4),
    }


def _title(told: dict[str, Any], path: Path) -> str:
    """`WRN-40-4 on cifar10_whitened`, as far as the log says."""
    name = str(told.get("model", path.name))
    if name == "wide-resnet" and "widen_factor" in told:
        name = f"WRN-{told.get('depth')}-{told['widen_factor']}"
    data = Path(str(told.get("dataset", ""))).stem
    return f"{name} on {data}" if data else name
