"""When passes are recorded and when replayed; that CUDA does it right is for a GPU to show (test_gpu)."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wrn
from wrn.training import passes
from wrn.training.optim import set_rates


class Recorded:
    """As a CUDA graph: passes that run again on the tensors they first ran on, and leave what they find in the same."""

    made = 0

    def __init__(self, objective, optimizer, images, labels):
        Recorded.made += 1
        self.given = images.clone(), labels.clone()
        self.work = lambda: passes.passes(objective, optimizer, *self.given)
        self.found = None

    def replay(self, images, labels):
        for place, new in zip(self.given, (images, labels), strict=True):
            place.copy_(new)  # raises where shapes differ
        fresh = self.work()
        self.found = self.found or fresh
        for place, new in zip(self.found[:3], fresh[:3], strict=True):
            place.copy_(new)
        return self.found


def test_each_shape_is_recorded_after_its_first_batches_and_nothing_else_changes(monkeypatch):
    monkeypatch.setattr(passes, "_Graph", Recorded)
    eager = []

    def aside(self, images, labels):
        eager.append(len(labels))
        return passes.passes(self.objective, self.optimizer, images, labels)

    monkeypatch.setattr(passes.Passes, "_aside", aside)
    recipe = wrn.recipe("wrn-10-1", data="digits")
    sizes, draw = [6] * 6 + [4] + [6] * 5, torch.Generator().manual_seed(0)
    batches = [(torch.randn(n, 3, 8, 8, generator=draw), torch.arange(n)) for n in sizes]
    told, weights = {}, {}
    for graphs in (False, True):
        network = wrn.network_of(recipe, 10, seed=0).train()
        learnt, optimizer = wrn.objective(network, recipe), wrn.optimizer(network, recipe)
        called, told[graphs] = passes.Passes(learnt, optimizer, graphs), []
        for batch in batches:
            loss, norm, wrong, count = called(*batch)
            told[graphs].append((loss.item(), norm.item(), wrong.item(), count))
            optimizer.step()
        weights[graphs] = network.state_dict()
    assert told[True] == told[False]
    assert all(torch.equal(weights[True][name], value) for name, value in weights[False].items())
    assert (Recorded.made, eager) == (2, [6] * 3 + [4] + [6] * 3)


class Crossings(TorchDispatchMode):
    """Operations that have to do with tensors of more than one device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, made)) if isinstance(each, torch.Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.seen.append(operation)
        return made


@pytest.mark.parametrize(
    ("model", "name", "fields"),
    [
        ("wrn-16-1", "paper", {"dropout": 0.3, "padding": "zero"}),
        ("wrn-16-1", "fast", {}),
        ("wrn-16-1", "fast", {"drop_path": 0.5, "drop_path_per": "sample"}),
        ("pre-resnet-20-basic-cifar", "own", {}),
    ],
)
def test_steps_stay_on_their_device(model, name, fields):
    """On torch's device without numbers, where reading one raises: a GPU would have to be waited for."""
    recipe = wrn.recipe(model, data="digits", recipe=name, augment="flip-crop", labels=320, **fields)
    train = wrn.dataset(recipe).train
    there = replace(
        train, images=train.images.to("meta"), labels=train.labels.to("meta"), preprocess=train.preprocess.to("meta")
    )
    network = wrn.network_of(recipe, 10, seed=0, steps=100).to("meta").train()
    learnt = wrn.objective(network, recipe, samples=len(train))
    optimizer = wrn.optimizer(network, recipe)
    # What the objective draws at an epoch's start it reads; its order is on the device, as that of a later epoch is
    order = learnt.drawn.order if recipe.sampling == "importance" else None
    batches, steps = there.batches(recipe, seed=0, epoch=1, order=order), 0
    with Crossings() as crossings:
        for images, labels in batches:
            set_rates(optimizer, recipe, 1, steps / train.steps(recipe))
            passes.passes(learnt, optimizer, images, labels)
            optimizer.step()
            steps += 1
    assert steps == train.steps(recipe)
    assert crossings.seen == []
