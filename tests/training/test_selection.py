"""Runs that choose their epoch on a validation split, and touch the test set once."""

import json
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

import wrn
from wrn.data.loader import Resident
from wrn.training import loop

# The rate rises far too high before the fourth epoch, so that an earlier one is the best, and not one of the last two,
# whose checkpoints are kept in any case
RECIPE = wrn.recipe(
    "wrn-10-1", data="digits", image_size=16, epochs=5, milestones=(4,), rates=(4.0,), val=200, batch_size=256
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "selected"
    run = wrn.train(RECIPE, out, device="cpu", precision="fp32", quiet=True)
    assert run.result["selected_epoch"] < 4
    return run


def test_the_lines_of_the_epochs_know_nothing_of_the_test_set(finished):
    assert all(line["test_error"] is None and line["test_loss"] is None for line in finished.metrics)
    assert all(0 <= line["val_error"] <= 100 for line in finished.metrics)
    log = (finished.path / "train.log").read_text()
    assert "(1,242 + 200 to validate + 355 images" in log
    assert "val loss" in log
    assert log.count("test error") == 1  # the last line
    assert "validation error" in (finished.path / "curves.svg").read_text()


def test_the_result_is_of_the_epoch_with_the_lowest_validation_error(finished):
    errors = [line["val_error"] for line in finished.metrics]
    best = errors.index(min(errors)) + 1
    result = finished.result
    assert result["selected_epoch"] == best
    assert result["test_error_is"] == f"of epoch {best}, chosen on 200 validation images, in fp32"
    assert (result["best_test_error"], result["val_error"]) == (None, min(errors))
    assert result["train_loss"] == finished.metrics[best - 1]["train_loss"]
    # That network, from its checkpoint, scored by hand
    data = wrn.dataset(RECIPE, seed=finished.seed)
    network = wrn.network_of(RECIPE, 10, 0)
    tensors = load_file(finished.path / "checkpoints" / f"epoch-{best:04}-step-000000" / "tensors.safetensors")
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    with torch.inference_mode():
        logits = network.eval()(data.preprocess(data.test.images.permute(0, 3, 1, 2)))
    wrong = (logits.argmax(1) != data.test.labels).sum().item()
    assert result["test_error"] == pytest.approx(100 * wrong / 355)
    model = wrn.load(finished.path)
    torch.testing.assert_close(model.network.fc.weight, network.fc.weight)


def test_checkpoints_are_the_newest_two_and_the_selected_one(finished):
    names = {path.name for path in (finished.path / "checkpoints").iterdir()}
    best = finished.result["selected_epoch"]
    assert names == {f"epoch-{epoch:04}-step-000000" for epoch in (best, 4, 5)}


def test_the_test_set_is_used_once(monkeypatch, tmp_path):
    seen = []
    real = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", lambda *a, **k: seen.append(len(a[1])) or real(*a, **k))
    wrn.train(
        wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=2, val=100),
        tmp_path / "run",
        device="cpu",
        quiet=True,
    )
    assert seen == [100, 100, 355]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupted_and_continued_it_selects_the_same(finished, tmp_path, monkeypatch):
    made = 0
    real = Resident.batches

    def batches(*arguments, **options):
        nonlocal made
        for batch in real(*arguments, **options):
            made += 1
            if made == 12:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(Resident, "batches", batches)
    with pytest.raises(KeyboardInterrupt):
        wrn.train(RECIPE, tmp_path / "run", seed=finished.seed, device="cpu", precision="fp32", quiet=True)
    monkeypatch.undo()
    run = wrn.train(RECIPE, tmp_path / "run", seed=finished.seed, device="cpu", precision="fp32", quiet=True)
    there, here = (load_file(each.path / "model.safetensors") for each in (finished, run))
    assert all(torch.equal(there[name], here[name]) for name in there)
    assert run.result["selected_epoch"] == finished.result["selected_epoch"]


def test_a_lost_selected_checkpoint_is_said(finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    best = finished.result["selected_epoch"]
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"epoch-{best:04}-step-000000")
    with pytest.raises(wrn.Error, match="the selected epoch's checkpoint is damaged or gone"):
        wrn.train(RECIPE, tmp_path / "run", seed=finished.seed, device="cpu", precision="fp32", quiet=True)


def test_as_a_user_types_it(run_wrn, tmp_path):
    words = ["--val", "100", "--labels", "500", "--label-noise", "0.2", "--epochs", "1"]
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "digits", *words, "--out", "run")
    assert code == 0, err
    assert "(500 + 100 to validate + 355 images" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["train_images"] == 500
    assert {"val", "labels", "label_noise"} <= result["deviations"].keys()
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "digits", "--val", "2000", "--out", "other")
    assert (code, err.count("\n")) == (2, 1)
    assert "--val 2000: takes 200 images of each of 10 classes" in err
