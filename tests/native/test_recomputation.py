"""Low memory computes the same numbers, to the bit, and keeps less until the backward pass."""

import shutil
import sys

import pytest
import torch
import torch.nn.functional as F

import wrn
from wrn.native.library import capable
from wrn.native.memory import keep_freed_memory, pooled
from wrn.training.precision import choose

WAYS = [
    "fp32",
    pytest.param("native fp32", marks=pytest.mark.skipif(not capable("fp32"), reason="needs AVX2")),
    pytest.param("native bf16", marks=pytest.mark.skipif(not capable("bf16"), reason="needs AVX512-BF16")),
]


def way(name, memory):
    return choose("cpu", name.split()[-1], native=name.startswith("native"), memory=memory)


def step(name, memory, model, **fields):
    """Loss, gradients and running statistics of a step, and the bytes kept for its backward pass."""
    recipe, execution = wrn.recipe(model, data="digits", batch_size=32, **fields), way(name, memory)
    images, labels = next(wrn.dataset(recipe).train.batches(recipe, seed=0, epoch=1))
    network = execution.place(wrn.network_of(recipe, 10, seed=0)).train()
    torch.manual_seed(1)
    keep_freed_memory()
    before = pooled()
    with execution.autocast():
        loss = F.cross_entropy(network(execution.arrange(images)).float(), labels)
    kept = pooled().in_use - before.in_use if before else None
    loss.backward()
    gradients = {key: value.grad for key, value in network.named_parameters()}
    return {"loss": loss.detach(), "next draw": torch.rand(()), **gradients, **dict(network.named_buffers())}, kept


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("memory", ["low", "lowest"])
@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("wrn-10-2", {}),
        ("wrn-16-1", {"dropout": 0.3}),
        ("wrn-13-1-b313", {}),
        ("pre-resnet-11-cifar", {}),
        ("resnet-14-cifar", {"drop_path": 0.5}),
        ("wrn-16-1", {"drop_path": 0.5}),
        ("resnet-18", {"image_size": 32}),
    ],
)
def test_low_memory_has_the_same_bits(model, fields, memory, name):
    normal, _ = step(name, "normal", model, **fields)
    low, _ = step(name, memory, model, **fields)
    for key, value in normal.items():
        assert (value is None and low[key] is None) or torch.equal(value, low[key]), key


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("c++"), reason="needs Linux and a C++ compiler")
@pytest.mark.parametrize("name", WAYS)
def test_low_memory_keeps_less(name):
    kept = {memory: step(name, memory, "wrn-16-2")[1] for memory in ("normal", "low", "lowest")}
    assert kept["low"] < 0.6 * kept["normal"]
    assert kept["lowest"] < 0.3 * kept["normal"]


def test_gradients_of_images_pass_through():
    """As an attack on the images wants them, while weights stand still."""
    network = wrn.create_model("wrn-10-1", num_classes=10, seed=0).train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    found = {}
    for memory in ("normal", "low", "lowest"):
        images = torch.ones(4, 3, 16, 16, requires_grad=True)
        with choose("cpu", "fp32", memory=memory).autocast():
            network(images).logsumexp(1).sum().backward()
        found[memory] = images.grad
    assert torch.equal(found["low"], found["normal"])
    assert torch.equal(found["lowest"], found["normal"])


def test_a_run_with_low_memory_is_the_same_run(run_wrn, tmp_path):
    for memory in ("normal", "lowest"):
        words = ("train", "wrn-10-1", "--data", "digits", "--epochs", 1, "--labels", 100, "--precision", "fp32")
        code, _, err = run_wrn(*words, "--memory", memory, "--out", memory)
        assert code == 0, err
    models = [(tmp_path / memory / "model.safetensors").read_bytes() for memory in ("normal", "lowest")]
    assert models[0] == models[1]
