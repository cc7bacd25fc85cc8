"""Stopped and continued anywhere: the bits of a run of one piece, and the rates of its recipe."""

import itertools
import shutil

import pytest
import torch

import wrn
from wrn.runs import newest_first

EPOCHS = 12
RECIPE = {
    "model": "wrn-10-1", "data": "digits", "epochs": EPOCHS, "dropout": 0.3, "augment": "flip-crop",
    "preprocess": "zca", "labels": 96, "image_size": 16, "batch_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with dropout, ZCA and augmentation that keeps the checkpoint of every epoch."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return wrn.train(wrn.recipe(**RECIPE), out, device="cpu", precision="fp32", keep_every=1, quiet=True)


def test_continued_after_every_epoch(whole, tmp_path, survived):
    good = 0
    for epoch in range(EPOCHS):
        out = shutil.copytree(whole.path, tmp_path / f"after{epoch}")
        for name in ("result.json", "model.safetensors", "metrics.jsonl"):
            (out / name).unlink()
        for reached, _, path in newest_first(out / "checkpoints"):
            if reached > epoch:
                shutil.rmtree(path)
        wrn.train(wrn.recipe(**RECIPE), out, device="cpu", quiet=True)
        good += (out / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
        losses = [[line["train_loss"] for line in wrn.Run(path).metrics] for path in (out, whole.path)]
        assert losses[0] == losses[1]
    survived("stopped after each epoch of a run with dropout, ZCA and augmentation", EPOCHS, good)


def test_the_rate_is_right_at_all_200_epochs_wherever_it_was_stopped(survived):
    """What the optimiser of a process that begins with that epoch, or in the middle of it, really uses."""
    recipe = wrn.recipe("wrn-16-4", data="cifar10")
    spells = [(59, 0.1), (60, 0.02), (40, 0.004), (41, 0.0008)]  # it drops as epochs 60, 120 and 160 begin
    rates = list(itertools.chain.from_iterable([rate] * count for count, rate in spells))
    good = 0
    for epoch in range(1, 201):
        used = []
        for within in (False, True):
            weight = torch.nn.Linear(1, 1, bias=False)
            optimizer = wrn.optimizer(weight, recipe)
            if within:
                wrn.set_rates(optimizer, recipe, epoch, 0.5)
            else:
                wrn.start_epoch(optimizer, recipe, epoch)
            before = weight.weight.item()
            weight.weight.grad = torch.ones(1, 1)
            optimizer.step()  # Nesterov's first step is 1.9 times the gradient with its decay
            used.append((before - weight.weight.item()) / (1.9 * (1 + 5e-4 * before)))
        good += all(rate == pytest.approx(rates[epoch - 1], rel=1e-3) for rate in used)
    survived("the rate that is used in each of 200 epochs, begun there or within", 200, good)
