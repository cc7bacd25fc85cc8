"""Ways to compute, which change nothing beyond rounding."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import wrn
from wrn.training.precision import choose


def step_of(execution, recipe):
    """The logits, gradients and running statistics of one step in float64, where rounding decides nothing."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(64, 3, 32, 32, generator=generator), torch.arange(64) % 10
    network = execution.place(wrn.network_of(recipe, 10, seed=0)).double().train()
    logits = execution.compiled(network)(execution.arrange(images.double()))
    F.cross_entropy(logits, labels).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"logits": logits.detach()}, gradients, dict(network.named_buffers())


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low", "lowest"])
def test_compiled_is_eager(memory):
    """With low memory too, whose second forward pass must not count in the statistics again."""
    recipe = wrn.recipe("wrn-10-2", data="digits", batch_size=64)
    compiled = step_of(choose("cpu", "fp32", compile=True, memory=memory), recipe)
    eager = step_of(choose("cpu", "fp32"), recipe)
    for ours, exact in zip(compiled, eager, strict=True):
        for name, value in exact.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.slow
def test_low_memory_keeps_less_when_compiled_and_does_not_stay_on():
    recipe, kept = wrn.recipe("wrn-10-2", data="digits", batch_size=64), []
    for memory in ("normal", "low", "normal"):
        torch._dynamo.reset()
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            step_of(choose("cpu", "fp32", compile=True, memory=memory), recipe)
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.75 * kept[0] == 0.75 * kept[2]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"memory": "none"}, "must be normal, low or lowest"),
        ({"precision": "fp16"}, "must be fp32, tf32 or bf16"),
        ({"device": "cpu", "precision": "tf32"}, "NVIDIA's GPUs have it"),
        ({"device": "gpu"}, "no such device"),
        ({"device": "cpu", "compile": True, "native": True}, "are for CPUs, uncompiled"),
    ],
)
def test_what_cannot_be_had_is_told(asked, says):
    with pytest.raises(ValueError, match=says):
        choose(**asked)


def test_tf32_is_what_the_execution_says_whatever_the_process_was_set_to():
    """Settings alone, which a CPU has too; what they do is for a GPU to show (test_gpu)."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    execution = replace(choose("cpu", "fp32"), precision="tf32")
    before = [each.allow_tf32 for each in flags]
    try:
        execution.apply()
        assert all(each.allow_tf32 for each in flags)
        with execution.exact().autocast():
            assert not any(each.allow_tf32 for each in flags)
        assert all(each.allow_tf32 for each in flags), "for the backward pass"
        choose("cpu", "fp32").apply()
        assert not any(each.allow_tf32 for each in flags)
    finally:
        for each, allowed in zip(flags, before, strict=True):
            each.allow_tf32 = allowed
