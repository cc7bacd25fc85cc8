"""`wrn train` as its users meet it: real runs, real signals, damaged files."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import wrn
from wrn.data.loader import Resident
from wrn.files import parsed, read_sealed, write_sealed
from wrn.runs import newest_first
from wrn.training import checkpoint, session
from wrn.training.loop import Training

FAST = ("train", "wrn-10-1", "--data", "digits", "--image-size", "16", "--device", "cpu")


def weights(run):
    return load_file(run / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of three epochs with dropout and augmentation, in bf16 if the machine has it."""
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=3, dropout=0.2, augment="flip-crop")
    return wrn.train(recipe, tmp_path_factory.mktemp("runs") / "finished", seed=4, device="cpu", quiet=True)


def test_what_a_run_folder_holds(finished):
    names = {path.name for path in finished.path.iterdir()}
    assert names == {
        "recipe.json", "env.json", "metrics.jsonl", "checkpoints", "model.safetensors", "predictions.safetensors",
        "result.json", "curves.svg", "train.log",
    }  # fmt: skip
    assert len(list((finished.path / "checkpoints").iterdir())) == 2
    lines = [json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    fields = {"epoch", "lr", "train_loss", "train_error", "test_loss", "test_error", "images_per_second", "seconds"}
    assert all(fields <= line.keys() for line in lines)
    assert [line["lr"] for line in lines] == [0.1, 0.02, 0.004]
    result = finished.result
    assert result["test_error"] == pytest.approx(lines[-1]["test_error"], abs=2)  # that one in the run's precision
    assert {line["test_precision"] for line in lines} == {result["precision"]}
    assert result["best_test_error"] == min(line["test_error"] for line in lines)
    assert "chosen on the test set" in result["best_test_error_is"]
    assert set(result["deviations"]) == {"epochs", "dropout", "augment", "image_size"}
    assert result["parameters"] == wrn.describe("wrn-10-1").params
    env = finished.env
    assert env["execution"]["threads"] == torch.get_num_threads()
    assert {"python", "torch", "wrn"} <= env["versions"].keys()
    assert finished.recipe.epochs == 3
    assert finished.seed == 4


def test_reported_error_is_that_of_the_kept_predictions_and_model_in_fp32(finished, run_wrn):
    kept = load_file(finished.path / "predictions.safetensors")
    wrong = (kept["logits"].argmax(1) != kept["labels"]).float().mean().item() * 100
    assert finished.result["test_error"] == pytest.approx(wrong, abs=1e-4)
    model, digits = wrn.load(finished.path), wrn.dataset(finished.recipe)
    pixels, labels = digits.test.pixels(slice(None))
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), kept["logits"], rtol=1e-3, atol=1e-3)
    assert torch.equal(labels, kept["labels"])
    code, out, _ = run_wrn("eval", finished.path, "--json")
    assert code == 0
    assert json.loads(out)["test_error"] == finished.result["test_error"]


def test_same_seed_same_bits_other_seed_others(finished, tmp_path):
    again = wrn.train(finished.recipe, tmp_path / "again", seed=4, device="cpu", quiet=True)
    assert same(weights(again.path), weights(finished.path))
    keys = ("train_loss", "train_error", "test_loss", "test_error")
    assert [[line[k] for k in keys] for line in again.metrics] == [[line[k] for k in keys] for line in finished.metrics]
    other = wrn.train(finished.recipe, tmp_path / "other", seed=5, device="cpu", quiet=True)
    assert not same(weights(other.path), weights(finished.path))


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle_of_an_epoch_then_continued_to_the_same_bits(
    finished, tmp_path, number, code, run_wrn
):
    out = tmp_path / "run"
    words = [*FAST, "--epochs", "3", "--dropout", "0.2", "--augment", "flip-crop", "--seed", "4", "--out", str(out)]
    # In a process of its own, which the signal meets at the 17th of its batches, of 12 an epoch
    interrupted = f"""
import os, sys
from wrn.data.loader import Resident
from wrn.cli import main
whole, seen = Resident.batches, 0
def batches(self, *a, **k):
    global seen
    for batch in whole(self, *a, **k):
        seen += 1
        if seen == 17:
            os.kill(os.getpid(), {int(number)})
        yield batch
Resident.batches = batches
sys.exit(main({words!r}))
"""
    process = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True)
    assert process.returncode == code, process.stderr
    step = int(re.search(r"interrupted in epoch 2 after step (\d+) of 12, saved", process.stdout)[1])
    assert 0 < step < 12
    assert not (out / "result.json").exists()
    refused, _, err = run_wrn("eval", out)
    assert (refused, err.count("\n")) == (1, 1)
    assert "not finished" in err

    done, said, err = run_wrn(*words)
    assert done == 0, err
    assert f"continuing after epoch 1, step {step}" in said
    assert same(weights(out), weights(finished.path))
    assert [line["train_loss"] for line in wrn.Run(out).metrics] == [line["train_loss"] for line in finished.metrics]


def test_finished_run_is_left_alone(finished, run_wrn):
    before = {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}
    words = ("--epochs", 3, "--dropout", 0.2, "--augment", "flip-crop", "--seed", 4, "--out", finished.path)
    code, out, _ = run_wrn(*FAST, *words)
    assert code == 0
    assert "already finished" in out
    assert {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")} == before


def test_another_recipes_run_is_refused_with_the_difference(finished, run_wrn):
    before = weights(finished.path)
    words = ("--epochs", 4, "--augment", "flip-crop", "--seed", 4, "--out", finished.path)
    code, out, err = run_wrn(*FAST, *words)
    assert (code, out) == (1, "")
    assert "dropout is 0.2 there and 0.0 now; epochs is 3 there and 4 now" in err
    assert err.count("\n") == 1
    assert same(weights(finished.path), before)


def test_another_precision_is_refused(finished, run_wrn):
    other = {"bf16": "fp32", "fp32": "bf16"}[finished.result["precision"]]
    words = ("--epochs", 3, "--dropout", 0.2, "--augment", "flip-crop", "--seed", 4, "--out", finished.path)
    code, _, err = run_wrn(*FAST, *words, "--precision", other)
    assert code == 1
    assert f"precision is {finished.result['precision']} there and {other} now" in err


def test_fresh_starts_over_and_touches_no_other_file(run_wrn, tmp_path):
    assert run_wrn(*FAST, "--epochs", 1, "--out", "run")[0] == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    code, out, _ = run_wrn(*FAST, "--epochs", 1, "--lr", 0.05, "--out", "run", "--fresh")
    assert code == 0
    assert "but image_size 16, epochs 1, lr 0.05" in out
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert wrn.Run(tmp_path / "run").recipe.lr == 0.05


def test_a_folder_of_other_files_is_refused(run_wrn, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    code, _, err = run_wrn(*FAST, "--out", "mine")
    assert code == 1
    assert "holds files but no run" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_no_permission_to_write(run_wrn, tmp_path):
    (tmp_path / "file").write_text("")  # root may write anywhere, but not below a file
    code, _, err = run_wrn(*FAST, "--out", "file/run")
    assert code == 1
    assert err.startswith("wrn: error: ")
    assert err.count("\n") == 1


def test_diverging_run_stops_and_says_where(run_wrn, tmp_path):
    code, _, err = run_wrn(*FAST, "--epochs", 3, "--lr", 1e18, "--out", "run")
    assert code == 1
    assert re.search(r"epoch 1, learning rate 1e\+18: the (loss|gradient) of step \d+ is (nan|inf)", err)
    assert err.removeprefix("wrn: ") in (tmp_path / "run" / "train.log").read_text()
    assert err.count("\n") == 1
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(finished, tmp_path, monkeypatch):
    """One batch of the second epoch is poisoned; without it, the run goes on from the first to the same end."""
    real = Resident.batches

    def poisoned(self, recipe, *, epoch, **how):
        for step, (images, labels) in enumerate(real(self, recipe, epoch=epoch, **how)):
            yield (images * float("inf") if (epoch, step) == (2, 4) else images), labels

    monkeypatch.setattr(Resident, "batches", poisoned)
    with pytest.raises(wrn.Error, match=r"epoch 2, learning rate 0\.02: the loss of step 5 is nan"):
        wrn.train(finished.recipe, tmp_path / "run", seed=4, device="cpu", quiet=True)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0001-step-000000"]
    wrn.train(finished.recipe, tmp_path / "run", seed=4, device="cpu", quiet=True)
    assert same(weights(tmp_path / "run"), weights(finished.path))


def test_a_gradient_that_is_not_finite_stops_before_its_step(finished, tmp_path, monkeypatch):
    """The loss is finite, one number of one gradient is not; the next step would have hidden where it came from."""
    real, backward = Training.prepare, []

    def poisoned(training):
        real(training)

        def spoil(gradient):
            backward.append(1)
            return gradient.index_fill(0, torch.tensor([0]), float("inf")) if len(backward) == 17 else gradient

        training.network.fc.bias.register_hook(spoil)

    monkeypatch.setattr(Training, "prepare", poisoned)
    with pytest.raises(wrn.Error, match=r"epoch 2, learning rate 0\.02: the gradient of step 5 is inf"):
        wrn.train(finished.recipe, tmp_path / "run", seed=4, device="cpu", quiet=True)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0001-step-000000"]


@pytest.mark.parametrize("how", ["flipped bit", "truncated", "no json", "json changed"])
def test_damaged_checkpoint_is_passed_over(tmp_path, how):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=3)
    whole = wrn.train(recipe, tmp_path / "whole", device="cpu", quiet=True)
    run = tmp_path / "run"
    shutil.copytree(whole.path, run)
    for name in ("result.json", "model.safetensors"):
        (run / name).unlink()
    newest = run / "checkpoints" / "epoch-0003-step-000000"
    tensors, state = newest / "tensors.safetensors", newest / "checkpoint.json"
    content = bytearray(tensors.read_bytes())
    match how:
        case "flipped bit":
            content[len(content) // 2] ^= 4
            tensors.write_bytes(bytes(content))
        case "truncated":
            tensors.write_bytes(bytes(content[: len(content) // 3]))
        case "no json":
            state.unlink()
        case "json changed":
            state.write_text(state.read_text().replace('"epoch": 3', '"epoch": 2', 1))
    wrn.train(recipe, run, device="cpu", quiet=True)
    assert "damaged" in (run / "train.log").read_text()
    assert same(weights(run), weights(whole.path))


def test_stray_temporary_files_and_a_stopped_write_do_no_harm(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=2)
    whole = wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    expected = weights(whole.path)
    (whole.path / "result.json").unlink()  # stopped just before the end
    (whole.path / "model.safetensors").unlink()
    stray = whole.path / "checkpoints" / ".epoch-0009-step-000000.abc"
    stray.mkdir()
    (stray / "tensors.safetensors").write_bytes(b"half")
    shutil.rmtree(whole.path / "checkpoints" / "epoch-0002-step-000000")
    wrn.train(recipe, whole.path, device="cpu", quiet=True)
    assert same(weights(whole.path), expected)


def test_data_that_changed_since_is_refused(pictures, tmp_path, run_wrn):
    words = (
        "train",
        "wrn-10-1",
        "--data",
        f"folder:{pictures}",
        "--device",
        "cpu",
        "--epochs",
        1,
        "--out",
        tmp_path / "run",
    )
    assert run_wrn(*words)[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    before = sorted((tmp_path / "run" / "checkpoints").iterdir())
    for split in ("train", "test"):  # with a class more nothing fits any longer, which is no damage
        shutil.copytree(pictures / split / "one", pictures / split / "two")
    code, _, err = run_wrn(*words)
    assert (code, "data was" in err) == (1, True), err
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == before
    for split in ("train", "test"):
        shutil.rmtree(pictures / split / "two")
    assert run_wrn(*words)[0] == 0
    (tmp_path / "run" / "result.json").unlink()
    (pictures / "train" / "one" / "000.png").unlink()
    code, _, err = run_wrn(*words)
    assert code == 1
    assert "data was" in err


def test_what_another_process_trained_meanwhile_is_left_alone(tmp_path, monkeypatch):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1)
    room = session._must_have_room

    def slowly(training):  # the last thing before the folder is this process's own
        monkeypatch.setattr(session, "_must_have_room", room)
        wrn.train(recipe, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
        room(training)

    monkeypatch.setattr(session, "_must_have_room", slowly)
    with pytest.raises(wrn.Error, match="another process has trained here meanwhile"):
        wrn.train(recipe, tmp_path / "run", device="cpu", precision="bf16", quiet=True)
    assert wrn.Run(tmp_path / "run").result["precision"] == "fp32"


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="needs links that can be told from files as these are opened")
def test_no_link_in_a_run_folder_is_written_through(tmp_path, run_wrn):
    """A stranger's run could append to any file of the user's so."""
    (tmp_path / "mine.txt").write_text("mine\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.log").symlink_to(tmp_path / "mine.txt")
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1)
    write_sealed(tmp_path / "run" / "recipe.json", {"seed": 0, "recipe": recipe.to_dict()})
    with pytest.raises(wrn.Error, match=r"train\.log: is a link, which is not written through; remove it"):
        wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    assert (tmp_path / "mine.txt").read_text() == "mine\n"


def test_fresh_removes_a_link_to_checkpoints_and_not_what_it_leads_to(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1)
    run = wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    (run.path / "checkpoints").rename(tmp_path / "scratch")
    (run.path / "checkpoints").symlink_to(tmp_path / "scratch")
    before = sorted((tmp_path / "scratch").rglob("*"))
    assert wrn.train(recipe, run.path, device="cpu", fresh=True, quiet=True).finished
    assert sorted((tmp_path / "scratch").rglob("*")) == before
    assert not (run.path / "checkpoints").is_symlink()


@pytest.mark.parametrize("folders", [errno.EINVAL, errno.EIO])
def test_a_disk_that_syncs_no_folders_will_do(folders, tmp_path, monkeypatch):
    """As those of some networks."""
    fsync = os.fsync

    def of_files(handle):
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(folders, os.strerror(folders))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", of_files)
    if folders == errno.EINVAL:
        write_sealed(tmp_path / "a.json", {})
    else:
        with pytest.raises(OSError, match=r"a\.json"):
            write_sealed(tmp_path / "a.json", {})


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "1" + "0" * 400, "[" * 100_000, "not JSON"]
)
def test_json_is_of_numbers_that_are_some(text):
    with pytest.raises(ValueError, match=r"is no number|nested too deeply|Expecting value"):
        parsed(text)


def test_a_field_beyond_all_numbers_is_told_in_one_line(finished, tmp_path, run_wrn):
    shutil.copytree(finished.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "result.json").write_text(json.dumps({"test_error": 10**400}))
    for words in (("eval", "run"), ("report", "."), ("report", ".", "--json")):
        _, out, err = run_wrn(*words)
        assert "Traceback" not in out + err
        assert "NaN" not in out
        assert "Infinity" not in out


def test_keep_every(run_wrn, tmp_path):
    assert run_wrn(*FAST, "--epochs", 5, "--keep-every", 2, "--out", "run")[0] == 0
    kept = sorted(path.name[:10] for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["epoch-0002", "epoch-0004", "epoch-0005"]


def test_checkpoints_are_ordered_by_epoch_not_by_time(tmp_path):
    for name in ("epoch-0010-step-000000", "epoch-0009-step-000000", "epoch-0009-step-000123"):
        (tmp_path / name).mkdir()
    found = [path.name for _, _, path in newest_first(tmp_path)]
    assert found == ["epoch-0010-step-000000", "epoch-0009-step-000123", "epoch-0009-step-000000"]


def test_statistics_average_over_a_share_of_the_steps(tmp_path):
    """Against the first BN's means, averaged by hand while nothing is learnt. An epoch has 8 steps."""
    for epochs, momentum in ((1, 0.1), (8, 1 / 16)):
        changed = {"epochs": epochs, "lr": 1e-12, "bn_window": 0.25, "labels": 512, "image_size": 16}
        recipe = wrn.recipe("wrn-10-1", data="digits", recipe="fast", sampling="shuffled", **changed)
        run = wrn.train(recipe, tmp_path / str(epochs), device="cpu", precision="fp32", quiet=True)
        stem, mean = wrn.network_of(recipe, 10, 0, steps=1).conv1, torch.zeros(16)
        for epoch in range(1, epochs + 1):
            for images, _ in wrn.dataset(recipe).train.batches(recipe, seed=0, epoch=epoch):
                with torch.no_grad():
                    mean += momentum * (stem(images).mean((0, 2, 3)) - mean)
        found = wrn.load(run.path).network.group1[0].bn1
        torch.testing.assert_close(found.running_mean, mean, rtol=1e-4, atol=1e-5)


def test_a_share_of_the_steps_wants_their_number():
    with pytest.raises(ValueError, match="say how many"):
        wrn.network_of(wrn.recipe("wrn-10-1", data="digits", recipe="fast"), 10, seed=0)


def test_drop_last_with_too_few_images(pictures, run_wrn):
    code, _, err = run_wrn("train", "wrn-10-1", "--data", f"folder:{pictures}", "--recipe", "authors", "--out", "run")
    assert code == 1
    assert "lower --batch-size" in err


def test_header_of_the_model_is_enough_to_load_it(finished, tmp_path):
    shutil.copy(finished.path / "model.safetensors", tmp_path / "alone.safetensors")
    with safe_open(tmp_path / "alone.safetensors", "pt") as file:
        header = json.loads(file.metadata()["wrn"])
    assert (header["model"], header["classes"]) == ("wrn-10-1", list("0123456789"))
    assert same(wrn.load(tmp_path / "alone.safetensors").network.state_dict(), weights(finished.path))


def test_bf16_keeps_master_weights_and_statistics_in_fp32(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=1, labels=256)
    run = wrn.train(recipe, tmp_path / "run", device="cpu", precision="bf16", quiet=True)
    assert {t.dtype for t in weights(run.path).values()} == {torch.float32, torch.int64}
    assert run.metrics[-1]["test_precision"] == "bf16"
    assert run.result["test_error_is"] == "of the last epoch, in fp32"
    assert run.result["precision"] == "bf16"


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("at", [1, 7, 11, 12, 17, 22])  # steps counted over both epochs of 11
def test_interrupted_at_any_step_momentum_reset_included(tmp_path, monkeypatch, at):
    """A real SIGINT, sent while batch `at` is made: also the first and last steps of an epoch, and the whole run's."""
    recipe = wrn.recipe(
        "wrn-10-1", data="digits", image_size=16, recipe="authors", epochs=2, milestones=(2,), dropout=0.1
    )
    key = (tmp_path.parent.name, "authors")
    if key not in _WHOLE:
        _WHOLE[key] = weights(wrn.train(recipe, tmp_path / "whole", device="cpu", quiet=True).path)
    made = 0
    real = Resident.batches

    def batches(*arguments, **options):
        nonlocal made
        for batch in real(*arguments, **options):
            made += 1
            if made == at:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    monkeypatch.setattr(Resident, "batches", batches)
    with pytest.raises(KeyboardInterrupt):
        wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    monkeypatch.undo()
    wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    assert same(weights(tmp_path / "run"), _WHOLE[key])
    assert [line["epoch"] for line in wrn.Run(tmp_path / "run").metrics] == [1, 2]


_WHOLE = {}


def test_the_number_of_decoding_threads_changes_nothing(pictures, tmp_path, monkeypatch):
    found = []
    for workers in (1, 4):
        monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / f"cache{workers}"))
        found.append(wrn.dataset(f"folder:{pictures}", workers=workers).fingerprint)
    assert found[0] == found[1]


def test_the_recorded_execution_is_kept(tmp_path):
    """Begun in fp32 on the CPU, continued without saying so."""
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=2)
    whole = wrn.train(recipe, tmp_path / "run", device="cpu", precision="fp32", quiet=True)
    expected = weights(whole.path)
    (whole.path / "result.json").unlink()
    shutil.rmtree(whole.path / "checkpoints" / "epoch-0002-step-000000")
    wrn.train(recipe, whole.path, quiet=True)
    assert whole.result["precision"] == "fp32"
    assert same(weights(whole.path), expected)
    env = read_sealed(whole.path / "env.json")
    env["execution"]["device"] = "cuda:99"
    write_sealed(whole.path / "env.json", env)
    (whole.path / "result.json").unlink()
    with pytest.raises(ValueError, match="not on this machine"):
        wrn.train(recipe, whole.path, quiet=True)


def test_every_checkpoint_damaged_is_refused_and_nothing_thrown_away(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, epochs=2)
    run = wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    (run.path / "result.json").unlink()
    for path in (run.path / "checkpoints").iterdir():
        (path / "checkpoint.json").write_text("{}")
    for _ in range(2):  # nor does trying again start over
        with pytest.raises(wrn.Error, match="every checkpoint is damaged"):
            wrn.train(recipe, run.path, device="cpu", quiet=True)
    assert len(list((run.path / "checkpoints").glob("damaged-*/tensors.safetensors"))) == 2


def test_a_lost_model_is_written_again_from_the_last_checkpoint(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.path, run)
    for name in ("result.json", "model.safetensors", "metrics.jsonl"):
        (run / name).unlink()
    again = wrn.train(finished.recipe, run, seed=4, device="cpu", quiet=True)
    assert same(weights(run), weights(finished.path))
    assert again.result["test_error"] == finished.result["test_error"]
    assert again.metrics == finished.metrics


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits")
    model = wrn.network_of(recipe, 10, seed=0)
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    with pytest.raises(wrn.Error, match=r"fc\.weight is not finite"):
        checkpoint.save(tmp_path, model, wrn.optimizer(model, recipe), checkpoint.Progress(epoch=1), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["recipe.json", "env.json"])
@pytest.mark.parametrize("content", ["[]", "{}", '{"seed": 0', ""])
def test_damaged_json_of_a_run(finished, run_wrn, tmp_path, name, content):
    """It is written again from the newest checkpoint; without one, nothing is lost by saying that it is damaged."""
    run = shutil.copytree(finished.path, tmp_path / "run")
    before = (run / name).read_text()
    (run / name).write_text(content)
    (run / "result.json").unlink()
    words = (*FAST, "--epochs", 3, "--dropout", 0.2, "--augment", "flip-crop", "--seed", 4, "--out", "run")
    code, out, err = run_wrn(*words)
    assert code == 0, err
    assert f"{name}: damaged; written again" in out
    assert (run / name).read_text() == before
    shutil.rmtree(run / "checkpoints")
    (run / name).write_text(content)
    (run / "result.json").unlink()
    code, _, err = run_wrn(*words)
    assert code == 1
    assert f"{name}: damaged" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_compiled_run_trains_and_continues_to_the_same_bits(tmp_path, run_wrn):
    words = (*FAST, "--epochs", 2, "--compile", "--out", "run")
    code, out, err = run_wrn(*words)
    assert code == 0, err
    assert "compiled" in out
    run = wrn.Run(tmp_path / "run")
    assert run.metrics[-1]["images_per_second"] > 0
    expected = weights(run.path)
    (run.path / "result.json").unlink()
    shutil.rmtree(run.path / "checkpoints" / "epoch-0002-step-000000")
    code, out, err = run_wrn(*words[:-3], "--out", "run")  # compiled again though not asked for
    assert code == 0, err
    assert same(weights(run.path), expected)


def test_the_default_command_reaches_2_percent(run_wrn):
    code, out, err = run_wrn("train")
    assert code == 0, err
    error = float(re.search(r"test error (\d+\.\d+)%.*wrn predict runs/digits", out.splitlines()[-1])[1])
    assert error <= 2.0


@pytest.mark.parametrize("given", [{"seed": "0"}, {"seed": 1.5}, {"seed": True}, {"native": "false"}, {"fresh": 1}])
def test_what_is_of_the_wrong_type_is_refused_before_there_is_a_folder(given, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(given))} .*: must be"):
        wrn.train(wrn.recipe("wrn-10-1", data="digits", epochs=1), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"teacher": "runs/a"}, "teacher 'runs/a': is no network; name a run in the recipe"),
        ({"keep_every": "3"}, "--keep-every 3: must be a whole number"),
        ({"keep_every": 0}, "--keep-every 0: must be a whole number, at least 1"),
    ],
)
def test_so_are_other_kinds_of_things(given, says, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)):
        wrn.train(wrn.recipe("wrn-10-1", data="digits", epochs=1), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def test_a_device_of_torch_and_a_teacher_in_bf16_will_do(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1)
    teacher = wrn.create_model("wrn-10-1", num_classes=10, seed=0).bfloat16()
    run = wrn.train(recipe, tmp_path / "run", device=torch.device("cpu"), precision="bf16", teacher=teacher, quiet=True)
    assert run.result["device"] == "cpu"


def test_the_callers_modes_are_left_as_they_are(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.no_grad():
            wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    wrn.train(recipe, tmp_path / "other", device="cpu", deterministic=True, quiet=True)
    assert not torch.are_deterministic_algorithms_enabled()


def test_training_does_not_hang_on_the_default_type(tmp_path):
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=64, epochs=1, dropout=0.2, augment="flip-crop")
    expected = wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True)
    torch.set_default_dtype(torch.float64)
    try:
        found = wrn.train(recipe, tmp_path / "other", device="cpu", quiet=True)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(weights(found.path), weights(expected.path))


def test_saving_within_an_epoch_is_no_training(tmp_path, monkeypatch):
    """8 steps of 32 images, each saved, on a disk that takes half a second."""
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *parts: (time.sleep(0.5), save(*parts)))
    recipe = wrn.recipe("wrn-10-1", data="digits", image_size=16, labels=250, batch_size=32, epochs=1)
    run = wrn.train(recipe, tmp_path / "run", device="cpu", checkpoint_every=1e-9, quiet=True)
    assert run.metrics[0]["images_per_second"] > 250 / (8 * 0.5)
    assert run.metrics[0]["seconds"] > 8 * 0.5


def test_fresh_leaves_a_folder_of_others_alone(pictures):
    before = sorted(pictures.rglob("*"))
    with pytest.raises(wrn.Error, match="holds files but no run"):
        wrn.train(wrn.recipe("wrn-10-1", data="digits", epochs=1), pictures, fresh=True)
    assert sorted(pictures.rglob("*")) == before
