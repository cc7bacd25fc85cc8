"""Samples drawn by importance: against each sample's own gradient, and what an epoch must sum to."""

import pytest
import torch
import torch.nn.functional as F

import wrn
from wrn.training.importance import LEAST, MOST, draw

SMALL = {"image_size": 16, "labels": 100, "batch_size": 32, "epochs": 3}


def importances(count=500):
    return torch.rand(count, generator=torch.Generator().manual_seed(0)) ** 4


def test_the_mean_over_draws_is_that_over_all_samples():
    importance = importances()
    values = torch.randn(len(importance), 3, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for seed in range(400):
        order, weights = draw(importance, torch.Generator().manual_seed(seed))
        assert len(order) == len(weights) == len(importance)
        found.append((values[order] * weights[:, None]).mean(0))
    found = torch.stack(found)
    assert ((found.mean(0) - values.mean(0)).abs() < 4 * found.std(0) / len(found) ** 0.5).all()


def test_the_important_come_more_often_within_limits():
    importance = importances()
    order, weights = draw(importance, torch.Generator().manual_seed(0))
    counts = torch.bincount(order, minlength=len(importance))[order]
    often = 1 / weights
    assert ((counts - often).abs() < 1).all(), "as often as said, rounded up or down"
    by_importance = often[importance[order].argsort()]
    assert (by_importance.diff() >= 0).all()
    # The mean is taken to 1 after the limits, which moves them a little
    assert pytest.approx(often.min().item(), rel=0.05) == LEAST
    assert pytest.approx(often.max().item(), rel=0.05) == MOST


def test_equals_are_drawn_once_each():
    order, weights = draw(torch.ones(70), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(70))
    assert not torch.equal(order, torch.arange(70))
    torch.testing.assert_close(weights, torch.ones(70))


def test_importance_is_the_length_of_each_samples_gradient_by_the_logits():
    recipe = wrn.recipe("wrn-10-1", data="digits", sampling="importance", label_smoothing=0.1, **SMALL)
    data = wrn.dataset(recipe)
    network = wrn.network_of(recipe, 10, seed=0)
    objective = wrn.objective(network, recipe, samples=len(data.train), seed=0)
    objective.start_epoch(1)
    images, labels = next(data.train.batches(recipe, seed=0, epoch=1, order=objective.order))
    assert torch.equal(labels, data.train.labels[objective.order[:32]])
    loss, logits = objective(images, labels)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, label_smoothing=0.1))
    scores = logits.detach().requires_grad_()
    F.cross_entropy(scores, labels, label_smoothing=0.1, reduction="sum").backward()
    torch.testing.assert_close(objective.drawn.importance[objective.order[:32]], scores.grad.norm(dim=1))
    assert (objective.drawn.importance[objective.order[32:]] == 1).all(), "not seen yet"


def test_the_next_epoch_draws_by_what_was_found():
    recipe = wrn.recipe("wrn-10-1", data="digits", sampling="importance", **SMALL)
    objective = wrn.objective(wrn.network_of(recipe, 10, seed=0), recipe, samples=100, seed=0)
    objective.start_epoch(1)
    first = objective.order.clone()
    objective.start_epoch(1)
    assert torch.equal(objective.order, first), "an epoch that goes on keeps its samples"
    objective.drawn.take(torch.where(first < 10, 1.0, 0.01))
    objective.start_epoch(2)
    assert (objective.order < 10).sum() >= 25
    assert objective.drawn.position == 0


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        ("wrn-10-1", {"loss": "squared-hinge"}, "another loss"),
        ("wrn-10-1", {"teacher": "run"}, "teacher"),
        ("dsn", {}, "companions"),
    ],
)
def test_what_it_is_not_for_is_refused(model, fields, says):
    with pytest.raises(ValueError, match=says):
        wrn.recipe(model, data="digits", sampling="importance", **fields)


@pytest.mark.parametrize(
    ("model", "data", "fields"),
    [
        ("wrn-10-1", "digits", {"loss": "squared-hinge", "label_smoothing": 0.0}),
        ("wrn-10-1", "digits", {"teacher": "run"}),
        ("dsn", "digits", {}),
        ("resnet-18", "imagenet", {}),
        ("resnet-18", "folder:birds", {"augment": "imagenet"}),
    ],
)
def test_where_it_cannot_be_the_fast_recipe_shuffles(model, data, fields):
    assert wrn.recipe("wrn-10-1", data="digits", recipe="fast").sampling == "importance"
    assert wrn.recipe(model, data=data, recipe="fast", **fields).sampling == "shuffled"


def test_it_wants_to_know_of_how_many_samples():
    recipe = wrn.recipe("wrn-10-1", data="digits", sampling="importance")
    with pytest.raises(ValueError, match="of how many samples"):
        wrn.objective(wrn.network_of(recipe, 10, seed=0), recipe)


def test_streamed_pictures_are_refused(pictures):
    recipe = wrn.recipe("resnet-18", data=f"folder:{pictures}", augment="imagenet", sampling="importance")
    with pytest.raises(ValueError, match="not held in memory"):
        wrn.dataset(recipe)
