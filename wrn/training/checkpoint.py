"""Checkpoints: a folder of safetensors + JSON each, written whole or not at all, checked by hash when read.

One holds all that a run needs to go on to the same bits, and to write its other files again: the weights and the
optimiser's memory; how far it has come, with the lines of `metrics.jsonl`; `recipe.json` and `env.json`. No state of a
random generator is among them: order, augmentation and dropout follow from (seed, epoch, step), an order by importance
from what is kept of that too (`wrn.training.importance`).
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wrn.errors import Error
from wrn.files import remove_folder, sealed, sha256_of, write_whole
from wrn.runs import CHECKPOINT, newest_first, read_checkpoint

KEEP = 2
_TENSORS = "tensors.safetensors"
_DAMAGE = (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, SafetensorError)
"""What reading a damaged checkpoint raises. A failing disk does not count: it ends the command, checkpoints stay."""


@dataclass(frozen=True)
class Belongings:
    """What a checkpoint belongs to, and keeps a copy of."""

    identity: dict[str, Any]  # what must be the same where it is continued
    files: dict[str, Any] = field(default_factory=dict)  # the run's own, by their names, as JSON
    copies: tuple[Path, ...] = ()  # and as they are


@dataclass
class Progress:
    """How far a run has come; with the tensors, all it needs to go on."""

    epoch: int = 0  # finished ones
    step: int = 0  # steps done in the epoch after those
    loss_sum: float = 0.0  # over the images of that epoch so far
    wrong: int = 0
    images: int = 0
    timed_images: int = 0  # those whose step was timed: not the compiling ones
    seconds: float = 0.0  # of timed training in that epoch
    wall_seconds: float = 0.0  # of all training in that epoch
    total_seconds: float = 0.0  # of the finished epochs
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def selected(self) -> int | None:
        """The epoch with the lowest validation error so far, the first of equals; None without a validation split."""
        judged = [line for line in self.metrics if line.get("val_error") is not None]
        return min(judged, key=lambda line: line["val_error"])["epoch"] if judged else None

    def read(self, loss: float, wrong: int, images: int) -> None:
        """Add what one step came to: its mean loss, and its wrong answers of so many images."""
        self.images += images
        self.loss_sum += loss * images
        self.wrong += wrong

    def count(self, images: int, seconds: float, timed: bool) -> None:
        """Add one step that is done: its seconds, and whether these count for the rate."""
        self.step += 1
        self.wall_seconds += seconds
        if timed:
            self.timed_images += images
            self.seconds += seconds

    def wait(self, seconds: float) -> None:
        """Add the time that a GPU's last steps took to finish, which were counted when they were only launched."""
        self.wall_seconds += seconds
        self.seconds += seconds if self.timed_images else 0.0

    @property
    def rate(self) -> float:
        """Training images a second in this epoch so far."""
        return self.timed_images / self.seconds if self.seconds else 0.0

    def after_epoch(self, line: dict[str, Any]) -> "Progress":
        """The progress at the end of the epoch that `line` describes."""
        total = self.total_seconds + line["seconds"]
        return Progress(epoch=line["epoch"], total_seconds=total, metrics=[*self.metrics, line])


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    belongings: Belongings,
    keep_every: int | None = None,
) -> None:
    """Write one checkpoint of all that learns into `folder`, then remove the older ones but for the newest two.

    The end of each `keep_every`th epoch stays too, and that of the epoch selected on a validation split. Nothing is
    removed before the new one has been read back. Raises wrn.Error for weights that are not finite and for a disk that
    gives back something else, OSError where it cannot be written.
    """
    target = folder / f"epoch-{progress.epoch:04}-step-{progress.step:06}"
    if target.exists():  # the same instant of the same run
        return
    tensors = _tensors(model, optimizer)
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise Error(f"epoch {progress.epoch}, step {progress.step}: {broken[0]} is not finite; not saved; lower --lr")

    def write(temporary: Path) -> None:
        temporary.mkdir()
        save_file(tensors, temporary / _TENSORS)
        for path in belongings.copies:
            shutil.copyfile(path, temporary / path.name)
        content = {
            "progress": asdict(progress),
            "identity": belongings.identity,
            "files": belongings.files,
            "sha256": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
        }
        (temporary / CHECKPOINT).write_text(sealed(content), encoding="utf-8", newline="\n")

    write_whole(target, write)
    try:
        _checked(target)
    except _DAMAGE as error:
        _set_aside(target)
        raise Error(f"{target}: reads back as something else ({error}); check the disk") from error
    # That of the epoch selected before this one too: should this be damaged, it is what training goes on from
    selected = {progress.selected, Progress(metrics=progress.metrics[:-1]).selected}
    for epoch, step, old in newest_first(folder)[KEEP:]:
        stays = step == 0 and (epoch in selected or (keep_every and epoch % keep_every == 0))
        if not stays:
            remove_folder(old)


def load_newest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> tuple[Progress, dict[str, Any], list[str]]:
    """Restore the newest undamaged checkpoint in place; returns how far it had come, the run's files, and remarks.

    A damaged checkpoint is set aside under another name, so that it neither counts as one nor is lost; a remark says
    so. A `Progress()` at zero means there was none. Raises wrn.Error if none is readable, or if it belongs to another
    seed or data. The caller must hold the run's lock.
    """
    remarks: list[str] = []
    for scratch in folder.glob(".epoch-*"):  # of a process that was killed
        shutil.rmtree(scratch)
    for _, _, path in newest_first(folder):
        try:
            content = _checked(path)
            # First of all: where the data have other classes now, nothing fits, and nothing is damaged
            if not (strange := _strange(content["identity"], identity)):
                progress, tensors = Progress(**content["progress"]), load_file(path / _TENSORS)
                _must_fit(tensors, model)
        except _DAMAGE as error:
            aside = _set_aside(path)
            remarks.append(f"checkpoint {path}: damaged ({error}); set aside as {aside.name}")
            continue
        if strange:
            raise Error(f"{path}: {strange}; restore what it was, or start over with --fresh")
        _restore(tensors, model, optimizer)
        return progress, content["files"], remarks
    if any(folder.glob("damaged-*")):  # now or at an earlier try
        raise Error(f"{folder}: every checkpoint is damaged; put back a good one, or start over with --fresh")
    return Progress(), {}, remarks


def size_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of one checkpoint, before the first step too: SGD keeps one number more for each weight."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    memory = sum(parameter.nbytes for group in optimizer.param_groups for parameter in group["params"])
    return weights + memory


def load_epoch(folder: Path, epoch: int, model: nn.Module) -> None:
    """Give the network the weights it had after that epoch. Raises wrn.Error if its checkpoint is gone or damaged."""
    path = folder / f"epoch-{epoch:04}-step-{0:06}"
    try:
        _checked(path)
        tensors = load_file(path / _TENSORS)
    except _DAMAGE as error:
        raise Error(
            f"{path}: the selected epoch's checkpoint is damaged or gone ({error}); put it back, or start over with "
            "--fresh"
        ) from error
    _load(tensors, model)


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        for part, tensor in optimizer.state.get(parameter, {}).items():
            if tensor is not None:
                tensors[f"optimizer.{name}/{part}"] = torch.as_tensor(tensor)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    _load(tensors, model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for key, tensor in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "optimizer":
                name, _, part = rest.partition("/")
                parameter = parameters[name]
                if tensor.shape == parameter.shape:  # in the parameter's layout
                    tensor = torch.empty_like(parameter).copy_(tensor)
                optimizer.state[parameter][part] = tensor.to(parameter.device)


def _load(tensors: dict[str, Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():  # these share the model's storage; copy_ keeps its layout
            tensor.copy_(tensors[name])


def _strange(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """In what a checkpoint is of another run; None if it is of this one."""
    changes = (f"{n} was {there.get(n)} and is {value} now" for n, value in here.items() if there.get(n) != value)
    return next(changes, None)


def _checked(path: Path) -> dict[str, Any]:
    """What the checkpoint says, if its files are what was written."""
    content = read_checkpoint(path)
    for name in {_TENSORS, *content["sha256"]}:
        if Path(name).name != name or sha256_of(path / name) != content["sha256"][name]:
            raise ValueError(f"{name} does not have its recorded hash")
    return content


def _must_fit(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Raise ValueError for tensors that are not those of this network, or an optimiser's for its parameters."""
    expected, parameters = model.state_dict(), dict(model.named_parameters())
    for name in expected.keys() | tensors.keys():
        known = expected.get(name)
        kind, _, rest = name.partition(".")
        if known is None and kind == "optimizer":
            known = parameters.get(rest.partition("/")[0])
            if known is not None and tensors[name].numel() == 1:  # a count of steps
                continue
        if known is None or name not in tensors or tensors[name].shape != known.shape:
            raise ValueError(f"its {name} is not that of this network")
        if tensors[name].dtype != known.dtype:
            raise ValueError(f"its {name} is of type {tensors[name].dtype}")


def _set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name that is no checkpoint's."""
    aside = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return path.rename(aside)
