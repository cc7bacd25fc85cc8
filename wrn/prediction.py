"""Trained networks as people use them: RGB in [0, 1] to logits, pictures to probabilities, a data set to an error."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from wrn import weights
from wrn.data import pictures
from wrn.data.batching import Dataset, Split
from wrn.data.catalog import entry
from wrn.data.loader import dataset
from wrn.data.preprocess import Preprocess
from wrn.errors import Error, MissingError, UsageError
from wrn.evaluation import evaluate, evaluating
from wrn.files import walk
from wrn.hardware import allow_tf32
from wrn.inference import BySize, fastest
from wrn.native.library import floats
from wrn.training.precision import choose, known_device


class TrainedModel(nn.Module):
    """A network with its preprocessing: RGB images (N, 3, H, W) in [0, 1] -> logits (N, classes); differentiable."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        classes: Sequence[str],
        image_size: int,
        imagenet: bool = False,
    ) -> None:
        """`imagenet`: pictures are brought to size as ImageNet's validation pictures are."""
        super().__init__()
        self.imagenet = imagenet
        self.how = "as it is"
        self.network = network
        self.preprocess = preprocess
        self.classes = tuple(classes)
        self.image_size = image_size

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self._preprocessed(images))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features of RGB images in [0, 1]: (N, 3, H, W) -> (N, F)."""
        return cast(Any, self.network).features(self._preprocessed(images))

    def _preprocessed(self, images: Tensor) -> Tensor:
        """Raises ValueError for whole numbers, and for a gradient that an optimised network does not have."""
        if not images.is_floating_point():
            raise UsageError(
                f"images: are {images.dtype}, must be RGB in [0, 1]; divide by 255, or give them to predict"
            )
        if self.how != "as it is" and images.requires_grad and torch.is_grad_enabled():
            raise UsageError("images: want a gradient, which an optimised network has not; load it without optimize")
        return self.preprocess(images * 255)

    @torch.no_grad()
    def predict(self, images: Any, batch_size: int = 256) -> Tensor:
        """Class probabilities (N, classes), float32 on the CPU, in evaluation mode.

        `images`: one or a sequence of paths or PIL images (resized and cropped as in training), or a uint8 array
        (N, H, W, 3), taken as it is. Raises wrn.Error naming a picture that cannot be read.
        """
        if isinstance(images, Tensor):
            raise UsageError("images: a tensor; call the model with RGB in [0, 1], or give a uint8 array (N, H, W, 3)")
        if isinstance(images, np.ndarray):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
                raise ValueError(f"images: {images.dtype} {images.shape}; an array must be uint8 (N, H, W, 3)")
        else:
            images = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        if batch_size < 1:
            raise UsageError(f"batch_size {batch_size}: must be at least 1")
        parts = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        answers = [self._answers(self._pixels(part)) for part in parts]
        return torch.cat(answers) if answers else floats(0, len(self.classes))

    def _answers(self, pixels: Tensor) -> Tensor:
        """Class probabilities of (N, H, W, 3) in 0..255."""
        pixels = pixels.to(next(self.parameters()).device).permute(0, 3, 1, 2)
        with evaluating(self):
            return self(pixels / 255).softmax(1).float().cpu()

    def _pixels(self, images: Any) -> Tensor:
        """(N, H, W, 3) in 0..255."""
        if isinstance(images, np.ndarray):
            return torch.from_numpy(np.ascontiguousarray(images))
        with ThreadPoolExecutor() as threads:  # Pillow decodes files side by side; images of the caller's may share one
            apply = map if any(isinstance(image, Image.Image) for image in images) else threads.map
            return torch.stack(list(apply(self._picture, images)))

    def _picture(self, image: Any) -> Tensor:
        if isinstance(image, Image.Image):
            return self._brought_to_size(image)
        if not isinstance(image, (str, os.PathLike)):
            raise UsageError(f"images: {type(image).__name__} among them; give paths, PIL images, or one uint8 array")
        try:
            return pictures.opened(Path(image), self._brought_to_size)
        except FileNotFoundError:
            raise MissingError(f"{image}: no such picture; check the path") from None
        except (Error, OSError) as error:
            raise Error(f"{image}: {error}; give a picture file") from error

    def _brought_to_size(self, image: Image.Image) -> Tensor:
        if not self.imagenet:
            return torch.from_numpy(pictures.to_square(image, self.image_size).copy())
        from wrn.data.imagenet_transforms import validation

        return validation(image, self.image_size).permute(1, 2, 0)


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu", *, optimize: bool = False) -> TrainedModel:
    """The trained network of a finished run (its folder, or its `model.safetensors`), fp32, in evaluation mode.

    On a GPU TF32 is switched off for the process: fp32 means fp32. `optimize`: for use alone, without gradients, as it
    answers soonest on this machine: in bf16 where that is near enough, BN folded (`wrn.inference.fastest`).

    Raises FileNotFoundError if there is none, ValueError for a device that is not there, wrn.Error if the run is
    unfinished or the file damaged.
    """
    device = known_device(device)
    allow_tf32(device, False)
    header = weights.header_of(path)
    network = weights.load_network(path)
    try:
        preprocess = weights.load_preprocess(path)
        imagenet = header.get("augment") == "imagenet" or entry(header["data"]).streamed
        model = TrainedModel(network, preprocess, header["classes"], header["image_size"], imagenet)
    except Error:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise Error(f"{path}: the model does not fit its own header ({error}); it was altered") from error
    model = model.to(device).eval()
    if optimize:
        model.network, model.how = fastest(model.network, header["model"], model.image_size)
    return model


def top_classes(
    run: str | Path, images: Sequence[str], top: int, device: str | None = None, optimize: bool = False
) -> list[dict[str, Any]]:
    """For each picture file the `top` likeliest classes: [{image, classes: [{class, probability}, …]}, …].

    A folder among `images` stands for the pictures in it and below, by their names' endings. A file that is no good
    picture has `error` instead of `classes`; see `must_be_pictures`.
    """
    if top < 1:
        raise UsageError(f"--top {top}: must be at least 1")
    if Path(run).suffix.lower() in pictures.SUFFIXES:
        raise UsageError(f"{run}: is a picture; name the run first: wrn predict RUN IMAGE")
    images = [file for image in images for file in _files(image)]
    model = load(run, device or choose().device, optimize=optimize)
    found: list[dict[str, Any]] = []
    for start in range(0, len(images), 256):
        part = images[start : start + 256]
        with ThreadPoolExecutor() as threads, torch.no_grad():
            made = list(threads.map(partial(_attempt, model), part))
            pixels = [each for each in made if isinstance(each, Tensor)]
            answers = iter(model._answers(torch.stack(pixels))) if pixels else iter(())
        for image, each in zip(part, made, strict=True):
            told = {"error": each} if isinstance(each, str) else {"classes": _likeliest(model, next(answers), top)}
            found.append({"image": str(image), **told})
    return found


def _attempt(model: TrainedModel, image: str) -> Tensor | str:
    """Its pixels, or why there are none."""
    try:
        return model._picture(image)
    except Error as error:
        return str(error)


def _likeliest(model: TrainedModel, probabilities: Tensor, top: int) -> list[dict[str, Any]]:
    found, indices = probabilities.topk(min(top, len(model.classes)))
    return [
        {"class": model.classes[index], "probability": round(probability, 6)}
        for probability, index in zip(found.tolist(), indices.tolist(), strict=True)
    ]


def must_be_pictures(found: Sequence[dict[str, Any]]) -> None:
    """Raise wrn.Error naming what in `top_classes` had no answer."""
    wrong = [line["error"] for line in found if "error" in line]
    if len(wrong) > 1:
        more = f"; and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise Error(f"{len(wrong)} of {len(found)} pictures have no answer: {'; '.join(wrong[:10])}{more}")
    if wrong:
        raise Error(wrong[0])


def _files(image: str) -> list[str]:
    """A picture's path, or those of the pictures in a folder and below; links are followed, hidden files left out."""
    if not Path(image).is_dir():
        if not Path(image).exists():  # before others are decoded
            raise MissingError(f"{image}: no such picture; check the path")
        return [image]
    found = []
    for folder, subfolders, names in walk(image):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        wanted = [name for name in names if Path(name).suffix.lower() in pictures.SUFFIXES and not name.startswith(".")]
        found += [str(Path(folder) / name) for name in wanted]
    if not found:
        raise MissingError(f"{image}: holds no pictures; name a picture, or a folder of some")
    return sorted(found)


def evaluate_run(
    run: str | Path, data: str | None = None, device: str | None = None, optimize: bool = False
) -> dict[str, Any]:
    """Score a finished run in fp32 on its own test split or that of another data set with (some of) its classes.

    `optimize`: not in fp32 but as `load(optimize=True)` computes it.

    Returns test_error (percent), test_loss, wrong, images, data, and whether the run's own data changed since it was
    trained. Raises wrn.Error for unfinished or damaged runs and for classes that the network does not know.
    """
    execution = choose(device, "fp32")
    execution.apply()
    header = weights.header_of(run)
    model = load(run, execution.device, optimize=optimize)
    name = data or header["data"]
    if data is None and name.startswith("folder:") and not Path(name.partition(":")[2]).expanduser().exists():
        raise MissingError(f"{name}: is not there, seen from this folder; name it with --data")
    read = partial(
        dataset,
        name,
        image_size=model.image_size,
        augment="imagenet" if model.imagenet and name.startswith(("folder:", "imagenet")) else None,
        device=execution.device,
        fitted=model.preprocess,
    )
    try:
        known = read(val_fraction=header["val_fraction"])  # the same pictures, also if they lie elsewhere now
    except UsageError:
        if data is None:
            raise
        known = read()  # it has a test split of its own
    network = model.network if optimize else execution.place(model.network)
    scores = evaluate(network, _relabelled(known, model.classes), arrange=execution.arrange)
    how = network.how(scores.count) if isinstance(network, BySize) else model.how  # but for a small last batch
    return {
        "test_error": scores.error,
        "test_loss": scores.loss,
        "wrong": scores.wrong,
        "images": scores.count,
        "data": known.name,
        "changed_since": data is None and known.fingerprint != header["data_fingerprint"],
        "precision": "bf16" if "bf16" in how else "fp32",
    }


def _relabelled(data: Dataset, classes: tuple[str, ...]) -> Split:
    """The test split with its labels in the order of the network's classes."""
    if strangers := [name for name in data.classes if name not in classes]:
        raise Error(
            f"data set {data.name}: has a class {strangers[0]!r} that the network was not trained on; "
            f"it knows {', '.join(classes)}"
        )
    order = torch.tensor([classes.index(name) for name in data.classes], device=data.test.labels.device)
    return replace(data.test, labels=order[data.test.labels])  # type: ignore[type-var]  # both kinds are dataclasses
