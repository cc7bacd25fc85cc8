"""When steps are recorded and what replaying them does; that CUDA does it right is for a GPU to show (test_gpu)."""

import sys
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wrn
from wrn.training import steps
from wrn.training.optim import read_rates_from_device, set_rates, start_epoch


class Recorded(TorchDispatchMode):
    """As a CUDA graph: the same operations on the same memory again, with the numbers that Python gave them then."""

    shapes: ClassVar = []

    def __init__(self, objective, optimizer, images, labels):
        super().__init__()
        self.shapes.append(len(images))
        self.images, self.labels, self.calls = images.clone(), labels.clone(), []
        optimizer.zero_grad()
        with self:
            self.found = steps.step(objective, optimizer, self.images, self.labels)
        self.is_done = True  # while CUDA computes nothing that it records

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def replay(self, images, labels):
        for place, new in zip((self.images, self.labels), (images, labels), strict=True):
            place.copy_(new)  # raises where shapes differ
        for operation, args, kwargs, made in [] if self.is_done else self.calls:
            again = operation(*args, **kwargs)
            for place, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                if isinstance(place, torch.Tensor) and place.data_ptr() != new.data_ptr():
                    place.copy_(new)
        self.is_done = False
        return self.found


def trained(recipe, sizes, way, teacher=None):
    """What the steps of each epoch came to, on batches of these sizes, and all that was learnt."""
    draw, told = torch.Generator().manual_seed(0), []
    torch.manual_seed(0)  # for dropout
    network = wrn.network_of(recipe, 10, seed=0, steps=recipe.epochs * len(sizes)).train()
    learnt = wrn.objective(network, recipe, teacher, images=torch.zeros(1, 3, 32, 32), samples=sum(sizes))
    optimizer = wrn.optimizer(learnt.trained, recipe)
    as_on_cuda = {"sgd": {"fused": True}, "rmsprop": {"capturable": True, "foreach": True}}.get(recipe.optimizer, {})
    for settings in (optimizer.defaults, *optimizer.param_groups):
        settings.update(as_on_cuda)
    if way == "rates on the device":
        read_rates_from_device(optimizer)
    step = steps.Steps(learnt, optimizer, graphs=way == "graphs")
    for epoch in range(1, recipe.epochs + 1):
        learnt.start_epoch(epoch)
        start_epoch(optimizer, recipe, epoch)
        for done, size in enumerate(sizes):
            set_rates(optimizer, recipe, epoch, done / len(sizes))
            found = step(torch.randn(size, 3, 32, 32, generator=draw), torch.arange(size) % 10)
            told.append([float(each) for each in found])
    return told, learnt.trained.state_dict()


@pytest.mark.parametrize(
    ("model", "fields", "recorded"),
    [
        ("wrn-10-1", {"dropout": 0.3, "milestones": (3,), "reset_momentum": True}, [6]),
        ("wrn-10-1", {"recipe": "fast", "matrix_decay": 0.1, "weight_decay": 1e-4}, [6]),
        ("wrn-10-1", {"optimizer": "rmsprop", "lr": 1e-3, "milestones": (3,)}, [6]),
        ("wrn-10-1", {"teacher": "of-the-test", "teacher_weight": 1.0, "teacher_weight_end": 0.1}, [6]),
        ("dsn", {"recipe": "own", "stages": (3,)}, [6, 6]),  # from then on without companions
    ],
)
def test_replayed_steps_are_those_that_python_would_have_made(monkeypatch, model, fields, recorded):
    """Rates that change between them included; a smaller last batch goes on its own and leaves what is recorded."""
    monkeypatch.setattr(steps, "_Graph", Recorded)
    monkeypatch.setattr(Recorded, "shapes", [])
    monkeypatch.setattr(steps.Steps, "_aside", lambda self, *batch: steps.step(self.objective, self.optimizer, *batch))
    rmsprop = sys.modules[torch.optim.RMSprop.__module__]
    monkeypatch.setattr(rmsprop, "_get_capturable_supported_devices", lambda *_: ["cpu"])
    recipe = wrn.recipe(model, data="cifar10", epochs=4, **fields)
    sizes, teacher = [6, 6, 6, 4], wrn.create_model("wrn-10-1", num_classes=10) if "teacher" in fields else None
    floats, _ = trained(recipe, sizes, "rates in Python", teacher)
    usual, weights = trained(recipe, sizes, "rates on the device", teacher)
    graphs, others = trained(recipe, sizes, "graphs", teacher)
    assert Recorded.shapes == recorded
    assert graphs == usual
    assert all(torch.equal(others[name], value) for name, value in weights.items())
    torch.testing.assert_close(torch.tensor(usual), torch.tensor(floats), rtol=1e-3, atol=1e-3)  # the rate in float32


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "rmsprop"])
def test_a_gradient_that_is_not_finite_moves_no_weight(optimizer):
    recipe = wrn.recipe("wrn-10-1", data="digits", optimizer=optimizer)
    network = wrn.network_of(recipe, 10, seed=0).train()
    learnt, made = wrn.objective(network, recipe), wrn.optimizer(network, recipe)
    step, images, labels = steps.Steps(learnt, made), torch.randn(4, 3, 8, 8), torch.arange(4)
    step(images, labels)
    kept = [tensor.clone() for tensor in (*network.parameters(), *tree_leaves(list(made.state.values())))]
    images[1, 2, 3, 4] = float("inf")
    assert not step(images, labels)[1].isfinite()
    now = [*network.parameters(), *tree_leaves(list(made.state.values()))]
    assert all(torch.equal(before, after) for before, after in zip(kept, now, strict=True))
    images[1, 2, 3, 4] = 0
    assert step(images, labels)[1].isfinite()
    assert not torch.equal(kept[0], next(network.parameters()))


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
    step = steps.Steps(learnt, optimizer)
    # What the objective draws at an epoch's start it reads; its order is on the device, as that of a later epoch is
    order = learnt.drawn.order if recipe.sampling == "importance" else None
    batches, done = there.batches(recipe, seed=0, epoch=1, order=order), 0
    with Crossings() as crossings:
        for images, labels in batches:
            set_rates(optimizer, recipe, 1, done / train.steps(recipe))
            step(images, labels)
            done += 1
    assert done == train.steps(recipe)
    assert crossings.seen == []
