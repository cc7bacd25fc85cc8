"""The resident loader: what a batch is, and what it depends on."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import wrn


@pytest.fixture(scope="module")
def digits():
    return wrn.dataset("digits")


def recipe(**fields):
    return wrn.recipe("wrn-10-1", data="digits", **fields)


def test_digits_are_the_real_scans_in_a_fixed_stratified_split(digits):
    assert (len(digits.train), len(digits.test), digits.classes) == (1442, 355, tuple("0123456789"))
    whole = torch.bincount(torch.cat([digits.train.labels, digits.test.labels]))
    assert whole.tolist() == np.bincount(load_digits().target).tolist()
    share = torch.bincount(digits.test.labels) / whole
    assert ((share > 0.19) & (share < 0.21)).all()
    assert digits.train.images.shape[1:] == (32, 32, 3)
    assert torch.equal(digits.train.images[..., 0], digits.train.images[..., 2])
    # The first scan of the file is a training one: shrunk back, it is that scan
    first = digits.train.images[0, ..., 0].float().view(8, 4, 8, 4).mean((1, 3)) / 255 * 16
    assert np.abs(first.numpy() - load_digits().images[0]).mean() < 1.0


def test_an_epoch_is_every_image_once_in_an_order_of_its_own(digits):
    orders = []
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        batches = list(digits.train.batches(recipe(), seed=seed, epoch=epoch))
        assert [len(labels) for _, labels in batches] == [128] * 11 + [34]
        sums = torch.cat([images.double().sum((1, 2, 3)) for images, _ in batches])
        orders.append(sums)
        whole = digits.preprocess(digits.train.images.permute(0, 3, 1, 2)).double().sum((1, 2, 3))
        torch.testing.assert_close(sums.sort()[0], whole.sort()[0])
    assert torch.equal(orders[0], orders[3])
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_last_batch_can_be_left_out(digits):
    sizes = [len(labels) for _, labels in digits.train.batches(recipe(drop_last=True), seed=0, epoch=1)]
    assert sizes == [128] * 11


@pytest.mark.parametrize("augment", ["none", "flip-crop"])
def test_starting_in_the_middle_changes_nothing(digits, augment):
    what = recipe(augment=augment)
    whole = [(x, y, torch.rand(3)) for x, y in digits.train.batches(what, seed=3, epoch=5)]
    later = [(x, y, torch.rand(3)) for x, y in digits.train.batches(what, seed=3, epoch=5, start=7)]
    assert len(later) == 5
    for a, b in zip(whole[7:], later, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), "images, labels and later draws are the same"
    assert not torch.equal(whole[0][2], whole[1][2])


def test_preprocessed_training_images_have_mean_0_and_deviation_1(digits):
    images = torch.cat([x for x, _ in digits.train.batches(recipe(), seed=0, epoch=1)]).double()
    assert images.shape[1:] == (3, 32, 32)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert (images.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-4


def test_labels_stay_with_their_images(digits):
    batches = digits.train.batches(recipe(augment="none"), seed=0, epoch=1)
    images, labels = next(batches)
    whole = digits.preprocess(digits.train.images.permute(0, 3, 1, 2))
    for image, label in zip(images[:20], labels[:20], strict=True):
        places = (whole == image).flatten(1).all(1).nonzero().flatten()
        assert label in digits.train.labels[places]
