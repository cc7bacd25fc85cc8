"""Runs on whitened data: what is stored, once, and that everything after training uses exactly that."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import wrn
from wrn.data import whitening
from wrn.data.loader import Resident
from wrn.training import checkpoint

RECIPE = wrn.recipe("wrn-10-1", data="digits", epochs=2, preprocess="zca", image_size=16, augment="flip-crop")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return wrn.train(RECIPE, tmp_path_factory.mktemp("runs") / "whitened", device="cpu", precision="fp32", quiet=True)


def weights(run):
    return load_file(run / "model.safetensors")


def test_it_is_stored_once_and_named_by_checkpoints_and_model(finished):
    stored = whitening.load(finished.path / "whitening.safetensors")
    for folder in (finished.path / "checkpoints").iterdir():
        assert (
            json.loads((folder / "checkpoint.json").read_text())["identity"]["preprocess"]["whitening"] == stored.digest
        )
    assert finished.result["preprocess"] == {"whitening": stored.digest}
    matrices = []
    for path in finished.path.rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            matrices += [path.name for name in file.keys() if file.get_tensor(name).numel() == 768**2]  # noqa: SIM118
    assert matrices == ["whitening.safetensors"] * 3, "the run's, and a copy in each checkpoint"


def test_it_is_there_before_the_first_checkpoint(tmp_path, monkeypatch):
    there = []
    real = checkpoint.save
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda folder, *a: there.append((folder.parent / "whitening.safetensors").exists()) or real(folder, *a),
    )
    wrn.train(RECIPE, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
    assert there == [True, True]


def test_load_and_predict_whiten_by_themselves(finished, run_wrn):
    data, model = wrn.dataset(RECIPE), wrn.load(finished.path)
    with torch.inference_mode():
        logits = model(data.test.images.permute(0, 3, 1, 2).float() / 255)
    kept = load_file(finished.path / "predictions.safetensors")["logits"]
    torch.testing.assert_close(logits, kept, atol=1e-3, rtol=1e-3)
    probabilities = model.predict(data.test.images.numpy())
    torch.testing.assert_close(probabilities, kept.softmax(1), atol=1e-3, rtol=1e-3)
    code, out, err = run_wrn("eval", finished.path, "--json")
    assert code == 0, err
    assert json.loads(out)["test_error"] == pytest.approx(finished.result["test_error"])


def test_it_is_differentiable_down_to_the_pixels(finished):
    pixels, labels = wrn.dataset(RECIPE).test.pixels(slice(0, 4))
    pixels.requires_grad_()
    torch.nn.functional.cross_entropy(wrn.load(finished.path)(pixels), labels).backward()
    assert pixels.grad.isfinite().all()
    assert pixels.grad.abs().max() > 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupted_and_continued_to_the_same_bits_without_fitting_again(finished, tmp_path, monkeypatch, empty_cache):
    made = 0
    real = Resident.batches

    def batches(*arguments, **options):
        nonlocal made
        for batch in real(*arguments, **options):
            made += 1
            if made == 15:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(Resident, "batches", batches)
    with pytest.raises(KeyboardInterrupt):
        wrn.train(RECIPE, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
    monkeypatch.undo()
    shutil.rmtree(empty_cache / "whitening")
    monkeypatch.setattr(whitening, "fit", None)  # it would be called in vain
    wrn.train(RECIPE, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
    there, here = weights(finished.path), weights(tmp_path / "run")
    assert all(torch.equal(there[name], here[name]) for name in there)


def test_a_damaged_one_is_fitted_again_and_told_from_another_by_the_checkpoints(finished, tmp_path, run_wrn):
    run = shutil.copytree(finished.path, tmp_path / "run")
    file = run / "whitening.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    code, _, err = run_wrn("eval", run)
    assert (code, err.count("\n")) == (1, 1)
    assert "not the whitening that the model was trained with" in err
    (run / "result.json").unlink()
    wrn.train(RECIPE, run, device="cpu", precision="fp32", quiet=True)  # from the newest checkpoint's copy
    assert whitening.load(file).digest == finished.result["preprocess"]["whitening"]

    other = whitening.fit(np.random.default_rng(0).integers(0, 256, (900, 16, 16, 3), np.uint8), lambda *told: None)
    file.unlink()
    whitening.save(other, file)
    (run / "result.json").unlink()
    with pytest.raises(wrn.Error, match="preprocess was"):
        wrn.train(RECIPE, run, device="cpu", precision="fp32", quiet=True)


def test_a_model_without_its_whitening_says_so(finished, tmp_path):
    shutil.copy(finished.path / "model.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError, match="the model needs the whitening that its run wrote beside it"):
        wrn.load(tmp_path / "model.safetensors")
    shutil.copy(finished.path / "whitening.safetensors", tmp_path)
    wrn.load(tmp_path / "model.safetensors")
