"""Trained networks as people use them: RGB in [0, 1] to logits, pictures to probabilities."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wrn.data import pictures
from wrn.data.loader import Dataset
from wrn.data.preprocess import MeanStd
from wrn.errors import Error, MissingError, UsageError
from wrn.models.creation import create_model
from wrn.models.wide_resnet import WideResNet
from wrn.recipes import Recipe
from wrn.runs import Run
from wrn.training.precision import choose, forbid_tf32

HEADER = "wrn"
_NEEDED = {
    "model",
    "depth_rule",
    "dropout",
    "classes",
    "image_size",
    "preprocess",
    "data",
    "val_fraction",
    "data_fingerprint",
}


class TrainedModel(nn.Module):
    """A network with its preprocessing: RGB images (N, 3, H, W) in [0, 1] -> logits (N, classes); differentiable."""

    def __init__(self, network: nn.Module, preprocess: MeanStd, classes: Sequence[str], image_size: int) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.classes = tuple(classes)
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess(images * 255))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features of RGB images in [0, 1]: (N, 3, H, W) -> (N, F)."""
        return cast(WideResNet, self.network).features(self.preprocess(images * 255))

    @torch.inference_mode()
    def predict(self, images: Any, batch_size: int = 256) -> Tensor:
        """Class probabilities (N, classes), float32 on the CPU, in evaluation mode.

        `images`: one or a sequence of paths or PIL images (resized and cropped as in training), or a uint8 array
        (N, H, W, 3), taken as it is. Raises wrn.Error naming a picture that cannot be read.
        """
        pixels = self._pixels(images)
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        probabilities = [
            self(torch.from_numpy(pixels[start : start + batch_size]).to(device).permute(0, 3, 1, 2) / 255).softmax(1)
            for start in range(0, len(pixels), batch_size)
        ]
        self.train(was_training)
        return torch.cat(probabilities).cpu() if probabilities else torch.empty(0, len(self.classes))

    def _pixels(self, images: Any) -> np.ndarray:
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
                raise ValueError(f"images: {images.dtype} {images.shape}; an array must be uint8 (N, H, W, 3)")
            return np.ascontiguousarray(images)
        many = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        decoded = [self._picture(image) for image in many]
        return np.stack(decoded) if decoded else np.empty((0, self.image_size, self.image_size, 3), np.uint8)

    def _picture(self, image: Any) -> np.ndarray:
        if isinstance(image, Image.Image):
            return pictures.to_square(image, self.image_size)
        try:
            return pictures.decode(Path(image), self.image_size)
        except FileNotFoundError:
            raise MissingError(f"{image}: no such picture; check the path") from None
        except (Error, OSError) as error:
            raise Error(f"{image}: {error}; give a picture file") from error


def save(path: Path, network: nn.Module, data: Dataset, recipe: Recipe, **facts: Any) -> None:
    """Write a finished network as safetensors, with what `load` needs in the header. `path` must be a scratch file."""
    header = {
        "format": 1,
        "model": recipe.model,
        "depth_rule": recipe.depth_rule,
        "dropout": recipe.dropout,
        "classes": list(data.classes),
        "image_size": recipe.image_size,
        "preprocess": data.preprocess.constants(),
        "data": recipe.data,
        "val_fraction": recipe.val_fraction,
        **facts,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata={HEADER: json.dumps(header)})


def header_of(path: str | Path) -> dict[str, Any]:
    """The facts in the header of a run's `model.safetensors`, given the run or the file."""
    file = _model_file(path)
    try:
        with safe_open(file, "pt") as opened:
            header = json.loads(opened.metadata()[HEADER])
            if missing := _NEEDED - header.keys():
                raise KeyError(min(missing))
            return header
    except FileNotFoundError:
        raise MissingError(f"{path}: no such run or model; give the folder that `wrn train` named") from None
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise Error(f"{file}: no model of ours, or damaged ({error}); give a finished run") from error


def load(path: str | Path, device: str = "cpu") -> TrainedModel:
    """The trained network of a finished run (its folder, or its `model.safetensors`), fp32, in evaluation mode.

    TF32 is switched off for the process: fp32 means fp32.

    Raises FileNotFoundError if there is none, wrn.Error if the run is unfinished or the file damaged.
    """
    forbid_tf32()
    header = header_of(path)
    try:
        network = create_model(
            header["model"],
            num_classes=len(header["classes"]),
            dropout=header["dropout"],
            depth_rule=header["depth_rule"],
        )
        network.load_state_dict(load_file(_model_file(path)))
        preprocess = MeanStd(**header["preprocess"])
        model = TrainedModel(network, preprocess, header["classes"], header["image_size"])
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise Error(f"{path}: the model does not fit its own header ({error}); it was altered") from error
    return model.to(device).eval()


def _model_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_dir():
        return path
    run = Run(path)
    if not run.finished:
        _ = run.result  # says what is the matter
    return path / "model.safetensors"


def top_classes(run: str | Path, images: Sequence[str], top: int, device: str | None = None) -> list[dict[str, Any]]:
    """For each picture file the `top` likeliest classes: [{image, classes: [{class, probability}, …]}, …]."""
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")
    model = load(run, device or choose().device)
    probabilities, indices = model.predict(images).topk(min(top, len(model.classes)))
    return [
        {
            "image": str(image),
            "classes": [
                {"class": model.classes[index], "probability": round(probability, 6)}
                for index, probability in zip(row_indices, row, strict=True)
            ],
        }
        for image, row_indices, row in zip(images, indices.tolist(), probabilities.tolist(), strict=True)
    ]
