"""Preprocessing against independent computations, on real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

import wrn
from wrn.data import whitening
from wrn.data.preprocess import MeanStd, WholeImage

JPEG = Path(__file__).parents[2] / "data" / "cifar10-jpeg.tar.gz"


def nothing(*told):
    pass


def crops(count=3000, side=8):
    """Crops of two real photographs, a pixel of them each 3 x 3 pixels, uint8 (count, side, side, 3)."""
    photographs = [photograph[::3, ::3] for photograph in load_sample_images().images]
    draws = np.random.default_rng(0)
    found = []
    for number in range(count):
        photograph = photographs[number % 2]
        top, left = (draws.integers(0, size - side) for size in photograph.shape[:2])
        found.append(photograph[top : top + side, left : left + side])
    return np.stack(found)


def whitened_by_hand(images, others):
    """What pylearn2 does, in float64, by a singular value decomposition of the data: whitened `others`."""

    def normalised(pictures):
        rows = [np.concatenate([picture[..., c].ravel() for c in range(3)]).astype(np.float64) for picture in pictures]
        rows = [row - row.mean() for row in rows]
        lengths = [np.sqrt((row**2).sum()) / 55 for row in rows]
        return np.stack([row / (1 if length < 1e-8 else length) for row, length in zip(rows, lengths, strict=True)])

    x = normalised(images)
    mean = x.mean(0)
    _, singular, v = np.linalg.svd((x - mean) / np.sqrt(len(x)), full_matrices=False)
    matrix = v.T @ np.diag((singular**2 + 0.1) ** -0.5) @ v
    return (normalised(others) - mean) @ matrix


def relative(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("shape", [(4, 3, 8, 6), (1, 3, 1, 1), (2, 3, 5, 1), (0, 3, 4, 4)])
def test_mean_and_deviation_have_the_same_bits_in_either_layout(shape):
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
    expected = (images.numpy() - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    for layout in (torch.contiguous_format, torch.channels_last):
        given = images.contiguous(memory_format=layout)
        found = MeanStd(mean, std)(given)
        np.testing.assert_array_equal(found, expected)
        assert found.is_contiguous(memory_format=layout)
        each = torch.vmap(MeanStd(mean, std))(given[:, None])  # as one takes the gradient of each image
        torch.testing.assert_close(each[:, 0], found, rtol=0, atol=0)


def test_zca_is_the_formula_on_photographs():
    images = crops()
    fitted = whitening.fit(images, nothing)
    found = fitted(torch.from_numpy(images).permute(0, 3, 1, 2)).flatten(1).numpy()
    assert relative(found, whitened_by_hand(images, images)) < 1e-4


def test_whitened_training_data_has_the_covariance_the_formula_predicts():
    images = crops()
    found = whitening.fit(images, nothing).double()(torch.from_numpy(images).permute(0, 3, 1, 2)).flatten(1).numpy()
    x = images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float64)
    x -= x.mean(1, keepdims=True)
    x *= 55 / np.linalg.norm(x, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    predicted = vectors @ np.diag(values / (values + 0.1)) @ vectors.T  # C (C + 0.1)^-1
    assert np.abs(np.cov(found.T, bias=True) - predicted).max() < 1e-4
    assert np.abs(found.mean(0)).max() < 1e-5


@pytest.mark.slow  # a minute, of the singular value decomposition
@pytest.mark.skipif(not JPEG.exists(), reason="needs data/cifar10-jpeg.tar.gz")
def test_zca_is_the_formula_on_cifar_in_full_size():
    images = wrn.dataset(f"folder:{JPEG}").train.images[::10].numpy()
    fitted = whitening.fit(images, nothing)
    found = fitted(torch.from_numpy(images[:500]).permute(0, 3, 1, 2)).flatten(1).numpy()
    assert relative(found, whitened_by_hand(images, images[:500])) < 1e-4


def test_a_constant_picture_becomes_zeros_before_whitening_and_has_a_gradient():
    fitted = whitening.fit(crops(500), nothing)
    grey = torch.full((1, 3, 8, 8), 77.0, requires_grad=True)
    found = fitted(grey)
    torch.testing.assert_close(found.flatten(), (-fitted.mean) @ fitted.matrix)
    found.sum().backward()
    assert grey.grad.isfinite().all()


def test_the_gradient_through_zca_is_right():
    fitted = whitening.fit(crops(300, side=4), nothing).double()
    pixels = torch.from_numpy(crops(2, side=4)).permute(0, 3, 1, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(fitted, (pixels,))


def test_it_is_fitted_once_for_the_same_pictures(empty_cache):
    images, told = crops(500), []
    first = whitening.fitted("photographs", images, lambda *what: told.append(what), nothing)
    assert told
    told.clear()
    again = whitening.fitted("photographs", images.copy(), lambda *what: told.append(what), nothing)
    assert not told
    assert first.digest == again.digest
    images[0, 0, 0, 0] ^= 1
    assert whitening.fitted("photographs", images, lambda *what: told.append(what), nothing).digest != first.digest
    assert told


def test_a_stored_whitening_is_checked(tmp_path):
    fitted = whitening.fit(crops(300, side=4), nothing)
    path = tmp_path / "whitening.safetensors"
    whitening.save(fitted, path)
    assert torch.equal(whitening.load(path, fitted.digest).matrix, fitted.matrix)
    with pytest.raises(wrn.Error, match="not the whitening that the model was trained with"):
        whitening.load(path, "0" * 64)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(wrn.Error, match="not the whitening"):
        whitening.load(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="missing"):
        whitening.load(path)


def test_pictures_too_large_for_a_matrix_are_refused():
    with pytest.raises(ValueError, match="take --image-size 64"):
        whitening.fit(np.zeros((2, 65, 65, 3), np.uint8), nothing)


def test_each_kind_of_preprocessing_of_a_data_set():
    pixels = wrn.dataset("digits").train.images.permute(0, 3, 1, 2)
    own = wrn.dataset("digits", preprocess="meanstd-own").preprocess(pixels)
    torch.testing.assert_close(own.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(own.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    unit = wrn.dataset("digits", preprocess="unit").preprocess(pixels)
    torch.testing.assert_close(unit, pixels / 255)
    # No authors' constants are known for digits, so that they are its own
    assert torch.equal(wrn.dataset("digits").preprocess(pixels), own)
    zca = wrn.dataset("digits", preprocess="zca", image_size=8)
    assert isinstance(zca.preprocess, WholeImage)
    assert zca.preprocess.matrix.shape == (192, 192)


def test_what_is_fitted_is_fitted_to_what_is_trained_on():
    data = wrn.dataset("digits", preprocess="meanstd-own", val=400, labels=100)
    pixels = data.train.images.permute(0, 3, 1, 2)
    torch.testing.assert_close(data.preprocess(pixels).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_whitening_comes_before_augmentation():
    """A batch of the loader is flip and crop of whitened pictures, not the whitening of flipped and cropped ones."""
    recipe = wrn.recipe("wrn-10-1", data="digits", preprocess="zca", augment="flip-crop", image_size=8, batch_size=32)
    data = wrn.dataset(recipe)
    images, _ = next(iter(data.train.batches(recipe, seed=0, epoch=1)))
    whole = data.preprocess(data.train.images.permute(0, 3, 1, 2))  # (M, 3, 8, 8)
    padded = torch.nn.functional.pad(whole, (4, 4, 4, 4), mode="reflect")
    for image in images[:8]:
        windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 1, 4, 5)  # (M, 9, 9, 3, 8, 8)
        near = [(windows - each).abs().amax((3, 4, 5)).min() for each in (image, image.flip(2))]
        assert min(near) < 1e-5


@pytest.mark.parametrize("kind", ["gcn", "gcn-mean", "pixel-mean"])
def test_whole_images_without_a_matrix_are_their_formula(kind, tmp_path):
    images, others = crops(700), crops(900)[700:]

    def rows(pictures):
        found = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1).astype(np.float64)
        if kind == "pixel-mean":
            return found
        found -= found.mean(1, keepdims=True)
        return found * 55 / np.linalg.norm(found, axis=1, keepdims=True)

    wanted = rows(others)
    if kind != "gcn":
        wanted = wanted - rows(images).mean(0)
    if kind == "pixel-mean":
        wanted = wanted / images.astype(np.float64).std()  # one for all, of the values as they were
    fitted = whitening.centred(kind, images)
    found = fitted(torch.from_numpy(others).permute(0, 3, 1, 2)).flatten(1).numpy()
    assert relative(found, wanted) < 1e-5
    whitening.save(fitted, tmp_path / "file")
    again = whitening.load(tmp_path / "file", fitted.digest)
    assert torch.equal(again(torch.from_numpy(others).permute(0, 3, 1, 2)).flatten(1), torch.from_numpy(found))


def test_runs_with_them_can_be_used_alone(tmp_path, run_wrn):
    for kind in ("gcn", "gcn-mean", "pixel-mean"):
        recipe = wrn.recipe("wrn-10-1", data="digits", preprocess=kind, epochs=1, image_size=8)
        run = wrn.train(recipe, tmp_path / kind, device="cpu", precision="fp32", quiet=True)
        data = wrn.dataset(recipe)
        pixels, _ = data.test.pixels(slice(0, 9))
        assert torch.equal(data.preprocess(pixels * 255), next(data.test.in_order(9))[0])
        kept = load_file(run.path / "predictions.safetensors")["logits"][:9]
        torch.testing.assert_close(wrn.load(run.path)(pixels).detach(), kept, rtol=1e-3, atol=1e-3)
