"""The file of a trained network: safetensors, with all that it takes to use it in the header."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wrn.data import whitening
from wrn.data.batching import Dataset
from wrn.data.preprocess import MeanStd, Preprocess
from wrn.errors import Error, MissingError
from wrn.files import parsed, seal_of, sha256_of
from wrn.models.creation import create_model
from wrn.recipes import Recipe
from wrn.runs import WHITENING, Run

_HEADER = "wrn"
_FIELDS: dict[str, Any] = {
    "model": str,
    "depth_rule": str | None,
    "dropout": float | int,
    "classes": list,
    "image_size": int,
    "preprocess": dict,
    "data": str,
    "data_fingerprint": str,
    "val_fraction": float | int,
    "tensors": str,
}
"""What a header must have to be of use, and of what type."""


def save(path: Path, network: nn.Module, data: Dataset, recipe: Recipe, test_error: float) -> None:
    """Write a finished network as safetensors, with what `load` needs in the header. `path` must be a scratch file."""
    header = {
        "format": 1,
        "model": recipe.model,
        "depth_rule": recipe.depth_rule,
        "dropout": recipe.dropout,
        "drop_path": recipe.drop_path,
        "drop_path_per": recipe.drop_path_per,
        "classes": list(data.classes),
        "image_size": recipe.image_size,
        "preprocess": data.preprocess.constants(),
        "data": recipe.data,
        "augment": recipe.augment,
        "val_fraction": recipe.val_fraction,
        "data_fingerprint": data.fingerprint,
        "test_error": test_error,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    header["tensors"] = digest(tensors)
    save_file(tensors, path, metadata={_HEADER: json.dumps(header | {"seal": seal_of(header)})})


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the numbers under their names, whatever device and layout they lie in."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        numbers = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # which NumPy has not
        found.update(f"{name} {numbers.dtype} {numbers.shape}".encode())
        found.update(numbers.data)
    return found.hexdigest()


def header_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts in the header of a run's `model.safetensors`, given the run or the file."""
    file = file_of(path)
    try:
        with safe_open(file, "pt") as opened:
            header = parsed((opened.metadata() or {})[_HEADER])
            if header.pop("seal") != seal_of(header):
                raise ValueError("its header is not what was written")
            for name, kind in _FIELDS.items():
                if not isinstance(header[name], kind):
                    raise ValueError(f"{name} is {header[name]!r}")
            if not 1 <= header["image_size"] <= 10_000:  # as in recipes: a picture is brought to this size
                raise ValueError(f"image_size is {header['image_size']}")
            for name in (header["data"], *header["classes"]):
                if not isinstance(name, str) or not name.isprintable():  # it is shown in terminals
                    raise ValueError(f"a name is {name!r}")
            return header
    except FileNotFoundError:
        raise MissingError(f"{path}: no such run or model; give the folder that `wrn train` named") from None
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Error(
            f"{file}: no model of ours, or damaged ({error}); give a finished run. Weights from elsewhere go into "
            "wrn.create_model(NAME, num_classes=...).load_state_dict(...)"
        ) from error


def load_network(path: str | os.PathLike[str]) -> nn.Module:
    """The trained network alone, on the CPU, given the run or the file. Raises wrn.Error if it is damaged."""
    header = header_of(path)
    try:
        made = {
            "name": header["model"],
            "num_classes": len(header["classes"]),
            "dropout": header["dropout"],
            "drop_path": header.get("drop_path"),
            "drop_path_per": header.get("drop_path_per", "batch"),
            "image_size": header["image_size"],
            "depth_rule": header["depth_rule"],
        }
        with torch.device("meta"):  # what the header promises takes no memory until the file is seen to hold it
            network = create_model(**made)
        _must_hold(file_of(path), network.state_dict())
        tensors = load_file(file_of(path))
        if digest(tensors) != header["tensors"]:
            raise Error(f"{path}: damaged (its weights are not what was written); take another copy, or train it again")
        network.load_state_dict(tensors, assign=True)
    except Error:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise Error(f"{path}: the model does not fit its own header ({error}); it was altered") from error
    return network


def _must_hold(file: Path, expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError if the file's tensors have other names, shapes or types."""
    types = {torch.float32: "F32", torch.int64: "I64"}
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
        if names != expected.keys():
            raise ValueError(f"{min(names ^ expected.keys())} is in one of them alone")
        for name, tensor in expected.items():
            found = opened.get_slice(name)
            if list(found.get_shape()) != list(tensor.shape) or found.get_dtype() != types[tensor.dtype]:
                raise ValueError(f"{name} is {found.get_dtype()} {found.get_shape()}, not {list(tensor.shape)}")


def load_preprocess(path: str | os.PathLike[str]) -> Preprocess:
    """The preprocessing that the network was trained with: from the header or, if it whitens, from the run's file.

    On the CPU, as `load_network`.
    """
    constants = header_of(path)["preprocess"]
    if "whitening" in constants:
        return whitening.load(file_of(path).with_name(WHITENING), constants["whitening"])
    numbers = [constants.get(name) for name in ("mean", "std")]
    for each in numbers:
        if not isinstance(each, list) or len(each) != 3 or not all(isinstance(value, (int, float)) for value in each):
            raise Error(f"{path}: its preprocessing is {constants}, not mean and std of three channels; it was altered")
    with torch.device("cpu"):  # not where the process makes what it makes
        return MeanStd(*numbers)


def file_of(path: str | os.PathLike[str]) -> Path:
    """`model.safetensors` of a finished run, or the file itself. Raises wrn.Error for a run that is not finished."""
    path = Path(path)
    if not path.is_dir():
        return path
    run = Run(path)
    recorded = run.result.get("model_sha256")  # raises, saying why, if the run is not finished
    file = path / "model.safetensors"
    if not file.exists():
        raise MissingError(f"{file}: missing; delete {path / 'result.json'} and run the training command again")
    if recorded is not None and sha256_of(file) != recorded:
        raise Error(f"{file}: damaged; delete {path / 'result.json'} and run the training command again")
    return file
