"""Ways to compute, which change nothing beyond rounding."""

import pytest
import torch
import torch.nn.functional as F

import wrn
from wrn.hardware import allow_tf32, tf32
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
        ({"device": "cpu", "graphs": True}, "cpu has none, CUDA devices do"),
    ],
)
def test_what_cannot_be_had_is_told(asked, says):
    with pytest.raises(ValueError, match=says):
        choose(**asked)


def test_tf32_is_what_it_is_said_to_be_and_on_cpus_left_alone():
    """Settings alone, which a CPU has too; what they do is for a GPU to show (test_gpu)."""
    flags = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before, of_all = [each.fp32_precision for each in flags], torch.backends.fp32_precision
    recurrent, older = torch.backends.cudnn.rnn.fp32_precision, torch.backends.cudnn.allow_tf32

    def allowed():
        return [each.fp32_precision == "tf32" for each in flags]

    try:
        choose("cpu", "fp32").apply()
        with choose("cpu", "fp32").autocast():
            assert [each.fp32_precision for each in flags] == before
        allow_tf32("cuda", True)
        with tf32("cuda", False):
            assert allowed() == [False, False]
            assert torch.backends.cudnn.allow_tf32 is False, "and torch can tell, as it must to export"
        assert allowed() == [True, True], "for the backward pass"
        assert torch.backends.cudnn.allow_tf32 is True
        torch.backends.cudnn.allow_tf32 = False
        with tf32("cuda", True):
            assert allowed() == [True, True]
        assert allowed() == [False, True]
        torch.backends.fp32_precision = "tf32"  # by the user, for all of torch
        allow_tf32("cuda", False)
        with tf32("cuda", False):
            assert allowed() == [False, False]
        assert allowed() == [False, False], "for the backward pass"
    finally:
        torch.backends.fp32_precision = of_all
        torch.backends.cudnn.allow_tf32 = older
        for each, value in zip(flags, before, strict=True):
            each.fp32_precision = value
        torch.backends.cudnn.rnn.fp32_precision = recurrent
