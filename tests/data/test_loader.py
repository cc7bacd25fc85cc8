"""The resident loader: what a batch is, and what it depends on."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import wrn
from wrn.randomness import key


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


def v1_batches(**fields):
    recipe_ = recipe(augment="v1", batch_size=64, **fields)
    data = wrn.dataset(recipe_)
    for images, labels in data.train.batches(recipe_, seed=0, epoch=1):
        yield data, images, labels


def test_v1_draws_one_offset_a_batch_and_mirrors_exactly_half():
    """Found out from the batch alone: of the 81 offsets, those that all of its images can have been cropped at."""
    data, images, _ = next(v1_batches())
    order = torch.randperm(1442, generator=torch.Generator().manual_seed(key(0, 1, "order")))[:64]
    pixels = data.preprocess(data.train.images[order].permute(0, 3, 1, 2))
    padded = torch.nn.functional.pad(pixels, (4, 4, 4, 4), mode="reflect")
    common, mirrored = [], []
    for top in range(9):
        for left in range(9):
            plain = padded[:, :, top : top + 32, left : left + 32]
            is_plain = (plain == images).flatten(1).all(1)
            turned = padded.flip(3)[:, :, top : top + 32, left : left + 32]
            is_turned = (turned == images).flatten(1).all(1)
            if (is_plain | is_turned).all():
                common.append((top, left))
                mirrored.append((is_turned & ~is_plain).sum().item())
    assert common, "no offset is that of the whole batch"
    assert 32 in mirrored


def test_v1_changes_its_offset_from_batch_to_batch():
    from wrn.data.augment import draw_v1

    draws = draw_v1(1442, 64, torch.Generator().manual_seed(0))
    batches = list(zip(draws.offset.split(64), draws.flip.split(64), strict=True))
    assert all((offset == offset[0]).all() and flip.sum() == len(flip) // 2 for offset, flip in batches)
    assert len({tuple(offset[0].tolist()) for offset, _ in batches}) > 10
    assert len({tuple(flip.tolist()) for _, flip in batches}) == len(batches)
    offsets = torch.cat([draw_v1(81 * 640, 1, torch.Generator().manual_seed(1)).offset])
    counts = torch.bincount((offsets[:, 0] + 4) * 9 + offsets[:, 1] + 4, minlength=81)
    assert ((counts - 640) ** 2 / 640).sum() < 124.8  # chi-square, 80 degrees of freedom, 0.1%


def test_a_recipe_that_says_otherwise_of_the_data_is_refused(digits):
    for fields in ({"preprocess": "unit"}, {"val": 100}, {"image_size": 16}):
        with pytest.raises(ValueError, match=f"{next(iter(fields))}: the data set has .* make it by wrn.dataset"):
            digits.train.batches(recipe(**fields), seed=0, epoch=1)
    with pytest.raises(ValueError, match="data: the data set has digits and the recipe cifar10"):
        digits.train.batches(wrn.recipe("wrn-10-1", data="cifar10"), seed=0, epoch=1)


def test_an_augmentation_of_the_other_loader_is_refused(digits):
    import dataclasses

    with pytest.raises(ValueError, match="augment: the data set has flip-crop or v1 or none and the recipe imagenet"):
        digits.train.batches(dataclasses.replace(recipe(), augment="imagenet"), seed=0, epoch=1)


def test_zero_padding_is_of_what_the_network_sees():
    import torch

    fields = {"augment": "flip-crop", "pad": 6, "batch_size": 1442}
    zeros = wrn.recipe("wrn-10-1", data="digits", padding="zero", **fields)
    reflected = wrn.recipe("wrn-10-1", data="digits", **fields)
    data = wrn.dataset(zeros)
    images, _ = next(data.train.batches(zeros, seed=0, epoch=1))
    others, _ = next(data.train.batches(reflected, seed=0, epoch=1))
    outside = (images == 0).all(1)
    assert 0.1 < outside.float().mean() < 0.25  # on average 3.2 of 32 rows and as many columns
    inside = ~outside[:, None].expand_as(images)
    assert torch.equal(images[inside], others[inside])
