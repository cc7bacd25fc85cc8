"""Held-out, few and wrong labels: how many, of which classes, and what they depend on."""

import numpy as np
import pytest

import wrn
from wrn.data.splits import divide

LABELS = np.random.default_rng(0).permutation(np.arange(5000) % 10)


def parts(seed=0, **fields):
    return divide(LABELS, 10, wrn.recipe("wrn-10-1", data="digits", **fields), seed)


def test_nothing_asked_nothing_changed():
    found = parts()
    assert len(found.val) == 0
    np.testing.assert_array_equal(found.train, np.arange(5000))
    np.testing.assert_array_equal(found.train_labels, LABELS)


def test_validation_is_class_balanced_disjoint_and_by_seed():
    found = parts(val=500)
    assert np.bincount(LABELS[found.val]).tolist() == [50] * 10
    assert len(np.union1d(found.train, found.val)) == 5000
    assert len(found.train) == 4500
    np.testing.assert_array_equal(found.val, parts(val=500).val)
    common = len(np.intersect1d(found.val, parts(seed=1, val=500).val))
    assert common < 100  # 50 by chance


def test_a_share_that_does_not_come_out_even_differs_by_one():
    counts = np.bincount(LABELS[parts(val=503).val])
    assert sorted(counts.tolist()) == [50] * 7 + [51] * 3


def test_few_labels_are_class_balanced_and_leave_the_validation_split_alone():
    found = parts(val=500, labels=400)
    assert np.bincount(LABELS[found.train]).tolist() == [40] * 10
    np.testing.assert_array_equal(found.val, parts(val=500).val)
    assert not set(found.train) & set(found.val)


def test_label_noise_is_exactly_that_share_and_falls_on_every_other_class_alike():
    found = parts(label_noise=0.4)
    wrong = found.train_labels != LABELS
    assert wrong.sum() == 2000
    shift = (found.train_labels[wrong] - LABELS[wrong]) % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == 0
    expected = 2000 / 9
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 26.1  # chi-square, 8 degrees of freedom, 0.1%
    # Each class loses about as many
    lost = np.bincount(LABELS[wrong], minlength=10)
    assert ((lost - 200) ** 2 / (200 * 0.6)).sum() < 27.9


def test_noise_is_of_what_is_trained_on_and_never_in_validation():
    found = parts(val=500, labels=1000, label_noise=0.25)
    assert (found.train_labels != LABELS[found.train]).sum() == 250


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"val": 5000}, "--val 5000: takes 500 images of each of 10 classes"),
        ({"labels": 5001}, "--labels 5001"),
        ({"labels": 9}, "some of the 10 classes without an image"),
        ({"val": 4000, "labels": 2000}, "--labels 2000"),
        ({"val": -1}, "val -1: out of range"),
        ({"labels": 0}, "labels 0: out of range"),
        ({"labels": 100, "drop_last": True}, "labels 100: out of range; it must be at least 128: the recipe leaves"),
        ({"label_noise": 1.0}, "label_noise 1.0: out of range"),
    ],
)
def test_what_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        parts(**fields)


def test_the_data_set_has_these_parts():
    data = wrn.dataset("digits", val=100, labels=200, label_noise=0.5, seed=3)
    plain = wrn.dataset("digits")
    assert (len(data.train), len(data.val), len(data.test)) == (200, 100, 355)
    assert data.fingerprint == plain.fingerprint
    places = divide(plain.train.labels.numpy(), 10, wrn.recipe("wrn-10-1", data="digits", val=100, labels=200), 3)
    assert (data.val.images == plain.train.images[places.val]).all()
    assert (data.val.labels == plain.train.labels[places.val]).all()
    assert (data.train.images == plain.train.images[places.train]).all()
    assert (data.train.labels != plain.train.labels[places.train]).sum() == 100
