"""What only a CUDA device shows: `pytest -m gpu`. Skipped, visibly, where there is none."""

import pytest
import torch
from safetensors.torch import load_file

import wrn

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trains_on_the_gpu_and_is_used_on_the_cpu(tmp_path, precision):
    recipe = wrn.recipe("wrn-10-2", data="digits", epochs=6, augment="flip-crop", dropout=0.1)
    run = wrn.train(recipe, tmp_path / "run", device="cuda", precision=precision, quiet=True)
    assert run.result["test_error"] < 15
    assert run.metrics[-1]["peak_memory"] > 0
    kept = load_file(run.path / "predictions.safetensors")["logits"]
    pixels, _ = wrn.dataset("digits").test.pixels(slice(None))
    with torch.inference_mode():
        torch.testing.assert_close(wrn.load(run.path)(pixels), kept, rtol=1e-2, atol=1e-2)


def test_batches_are_the_same_on_both_devices():
    recipe = wrn.recipe("wrn-10-1", data="digits", augment="flip-crop")
    here, there = wrn.dataset("digits"), wrn.dataset("digits", device="cuda")
    pairs = zip(here.train.batches(recipe, seed=1, epoch=2), there.train.batches(recipe, seed=1, epoch=2), strict=True)
    for (images, labels), (images_gpu, labels_gpu) in pairs:
        torch.testing.assert_close(images, images_gpu.cpu(), rtol=1e-6, atol=1e-6)
        assert torch.equal(labels, labels_gpu.cpu())


def test_compiled_run(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=2)
    run = wrn.train(recipe, tmp_path / "run", device="cuda", compile=True, quiet=True)
    assert run.metrics[-1]["images_per_second"] > 0
