"""Fitting, keeping and storing what treats whole images: GCN + ZCA, GCN, the mean image."""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from wrn.data.arrays import Progress
from wrn.data.cache import Notice, kept
from wrn.data.preprocess import WholeImage, contrast_normalised
from wrn.errors import Error, MissingError, UsageError
from wrn.files import parsed

BIAS = 0.1  # added to the diagonal of the covariance; pylearn2's filter_bias
_LARGEST = 64  # side of an image; a matrix for 64 x 64 has 12,288^2 numbers
_PIECE = 2000  # images at a time


def fit(images: npt.NDArray[np.uint8], progress: Progress) -> WholeImage:
    """The whitening of training images (N, H, W, 3), in float64: W = V (L + 0.1)^(-1/2) V' of their covariance V L V'.

    For 50,000 CIFAR images about 1.3 TFLOP and 0.5 GB beside the images. Raises ValueError for images above 64 x 64.
    """
    side = images.shape[1]
    if side > _LARGEST:
        raise UsageError(
            f"--preprocess zca: a matrix for images of {side} x {side} is too large; take --image-size {_LARGEST}"
        )
    dimensions = images[0].size
    total = torch.zeros(dimensions, dtype=torch.float64)
    products = torch.zeros(dimensions, dimensions, dtype=torch.float64)
    for start in range(0, len(images), _PIECE):
        pixels = torch.from_numpy(images[start : start + _PIECE]).permute(0, 3, 1, 2)
        vectors = contrast_normalised(pixels.flatten(1).double())
        total += vectors.sum(0)
        products.addmm_(vectors.T, vectors)
        progress("fitting ZCA: covariance", min(start + _PIECE, len(images)), len(images))
    mean = total / len(images)
    covariance = products.div_(len(images)).sub_(torch.outer(mean, mean))
    covariance.diagonal().add_(BIAS)
    progress("fitting ZCA: eigenvectors", 0, 1)
    values, vectors = torch.linalg.eigh(covariance)
    return WholeImage(mean, (vectors * values.rsqrt()) @ vectors.T)


def fitted(name: str, images: npt.NDArray[np.uint8], progress: Progress, notice: Notice) -> WholeImage:
    """`fit`, done once for the same training images and then read from the cache."""
    digest = hashlib.sha256()
    for start in range(0, len(images), _PIECE):
        digest.update(images[start : start + _PIECE].tobytes())
    key = {
        "images": digest.hexdigest(),
        "shape": list(images.shape),
        "scale": WholeImage.LENGTH,
        "bias": BIAS,
        "version": 1,
    }

    def make() -> tuple[dict[str, np.ndarray], dict[str, object]]:
        found = fit(images, progress)
        return {name: part.numpy() for name, part in found.numbers().items()}, {}

    arrays = kept("whitening", name, key, make, notice).arrays
    return WholeImage(torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["matrix"]))


def centred(kind: str, images: npt.NDArray[np.uint8]) -> WholeImage:
    """What needs no matrix, of training images (N, H, W, 3): "gcn", "gcn-mean" or "pixel-mean".

    "pixel-mean" divides by one deviation, that of all values, as the released code of stochastic depth does.
    """
    contrast = kind != "pixel-mean"
    total, squares = torch.zeros(images[0].size, dtype=torch.float64), 0.0
    for start in range(0, len(images) if kind != "gcn" else 0, _PIECE):
        pixels = torch.from_numpy(images[start : start + _PIECE]).permute(0, 3, 1, 2).flatten(1).double()
        total += (contrast_normalised(pixels) if contrast else pixels).sum(0)
        squares += pixels.square().sum().item()
    mean = total / len(images)
    deviation = (squares / images.size - mean.mean().item() ** 2) ** 0.5
    return WholeImage(mean, contrast=contrast, scale=1.0 if contrast else deviation or 1.0)


def save(whitening: WholeImage, path: Path) -> None:
    """Write it as safetensors. `path` must be a scratch file."""
    about = {"contrast": whitening.contrast, "length": WholeImage.LENGTH, "bias": BIAS, "sha256": whitening.digest}
    save_file(whitening.numbers(), path, metadata={"wrn": json.dumps(about)})


def load(path: Path, digest: str | None = None) -> WholeImage:
    """What `save` wrote. Raises wrn.Error if it is missing, damaged, or not the one of that `digest`."""
    try:
        with safe_open(path, "pt") as file:
            about, names = parsed(file.metadata()["wrn"]), file.keys()
            whitening = WholeImage(contrast=about["contrast"], **{name: file.get_tensor(name) for name in names})
            recorded, mean, matrix = about["sha256"], whitening.mean, whitening.matrix
            if mean.ndim != 1 or (matrix is not None and matrix.shape != (len(mean), len(mean))):
                raise ValueError("its numbers are not those of one size of images")
    except FileNotFoundError:
        raise MissingError(f"{path}: missing; the model needs the whitening that its run wrote beside it") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise Error(f"{path}: damaged ({error}); start the run over with --fresh") from error
    if whitening.digest != recorded or digest not in (None, recorded):
        raise Error(f"{path}: not the whitening that the model was trained with; start the run over with --fresh")
    return whitening
