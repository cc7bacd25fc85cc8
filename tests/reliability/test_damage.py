"""Bits that flip and files that end too early: each is detected and named, and the checkpoint before is used."""

import os
import random
import shutil

import pytest

import wrn
from tests.reliability.trials import RECIPE
from wrn import weights
from wrn.files import read_sealed
from wrn.runs import _UNSEALED
from wrn.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = wrn.recipe(**RECIPE)
    return wrn.train(recipe, tmp_path_factory.mktemp("runs") / "run", device="cpu", precision="fp32", quiet=True)


def newest(run):
    return run.path / "checkpoints" / "epoch-0003-step-000000"


def is_found(check):
    try:
        check()
    except (wrn.Error, *checkpoint._DAMAGE):
        return True
    return False


def flips(file, count, check, seed=0):
    """How many of so many single flipped bits of the file `check` raises for; the file is as before afterwards."""
    before, draw, found = file.read_bytes(), random.Random(seed), 0
    with file.open("r+b") as opened:
        for _ in range(count):
            place, bit = draw.randrange(len(before)), draw.randrange(8)
            opened.seek(place)
            opened.write(bytes([before[place] ^ 1 << bit]))
            opened.flush()
            found += is_found(check)
            opened.seek(place)
            opened.write(before[place : place + 1])
            opened.flush()
    assert file.read_bytes() == before
    return found


def truncations(file, check, step=512):
    """How many lengths below the file's own there are in such steps, and for how many of them `check` raises."""
    before, found, tried = file.read_bytes(), 0, 0
    for length in range((len(before) - 1) // step * step, -1, -step):
        with file.open("r+b") as opened:
            opened.truncate(length)
        found, tried = found + is_found(check), tried + 1
    file.write_bytes(before)
    return tried, found


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["tensors.safetensors", "checkpoint.json"])
def test_flipped_bits_of_a_checkpoint(run, tmp_path, survived, name, count):
    folder = shutil.copytree(newest(run), tmp_path / "checkpoint")
    found = flips(folder / name, count, lambda: checkpoint._checked(folder))
    survived(f"one bit of a checkpoint's {name} flips", count, found, long=count == 1000)


@pytest.mark.parametrize("name", ["tensors.safetensors", "checkpoint.json"])
def test_truncated_checkpoints(run, tmp_path, survived, name):
    folder = shutil.copytree(newest(run), tmp_path / "checkpoint")
    tried, found = truncations(folder / name, lambda: checkpoint._checked(folder), 512 if "tensors" in name else 64)
    assert tried > 50
    survived(f"a checkpoint's {name} is cut short", tried, found)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_model(run, tmp_path, survived, count):
    """The file alone, as it is passed on: no result.json beside it tells its hash."""
    file = shutil.copy(run.path / "model.safetensors", tmp_path)
    found = flips(tmp_path / "model.safetensors", count, lambda: weights.load_network(file))
    survived("one bit of a model.safetensors flips", count, found, long=count == 1000)


def test_truncated_models(run, tmp_path, survived):
    file = shutil.copy(run.path / "model.safetensors", tmp_path)
    tried, found = truncations(tmp_path / "model.safetensors", lambda: weights.load_network(file))
    assert tried > 500
    survived("a model.safetensors is cut short", tried, found)


@pytest.mark.parametrize("step", [29, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["recipe.json", "env.json", "result.json"])
def test_every_bit_of_a_small_file(run, tmp_path, survived, name, step):
    file = tmp_path / name
    before, found = (run.path / name).read_bytes(), 0
    bits = range(0, 8 * len(before), step)
    for place, bit in (divmod(number, 8) for number in bits):
        file.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
        found += is_found(lambda: read_sealed(file, _UNSEALED[name]))
    survived(f"one bit of {name} flips", len(bits), found, long=step == 1)


def test_a_damaged_newest_checkpoint_and_files_beside_it(run, tmp_path, run_wrn):
    """The command goes on from the checkpoint before, says so, and writes recipe, environment and metrics again."""
    there = shutil.copytree(run.path, tmp_path / "run")
    (there / "result.json").unlink()
    expected = (there / "model.safetensors").read_bytes()
    damaged = ["recipe.json", "env.json", "metrics.jsonl", "checkpoints/epoch-0003-step-000000/tensors.safetensors"]
    for name in damaged:
        content = bytearray((there / name).read_bytes())
        content[len(content) // 2] ^= 1
        (there / name).write_bytes(content)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in RECIPE.items() if name not in ("model", "data")]
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "digits", *flags, "--device", "cpu", "--out", "run")
    assert (code, err) == (0, "")
    for name in ("recipe.json", "env.json", "metrics.jsonl"):
        assert f"run/{name}: damaged; written again from the newest checkpoint" in out
    assert "epoch-0003-step-000000: damaged (tensors.safetensors does not have its recorded hash); set aside" in out
    assert (there / "model.safetensors").read_bytes() == expected
    assert (there / "checkpoints" / "damaged-epoch-0003-step-000000").is_dir()
    for name in ("recipe.json", "env.json"):
        assert (there / name).read_bytes() == (run.path / name).read_bytes()


def test_a_copy_beside_the_checkpoints_does_no_harm(run, tmp_path):
    there = shutil.copytree(run.path, tmp_path / "run")
    newest = there / "checkpoints" / "epoch-0003-step-000000"
    shutil.copytree(newest, newest.with_name(f"{newest.name}-backup"))
    newest.with_name("epoch-9999-step-000000").write_text("no folder")
    (there / "result.json").unlink()
    wrn.train(wrn.recipe(**RECIPE), there, device="cpu", quiet=True)
    assert (there / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


def test_what_is_kept_for_good_stays_when_it_is_not_asked_for_again(tmp_path):
    recipe = wrn.recipe(**RECIPE)
    run = wrn.train(recipe, tmp_path / "run", device="cpu", keep_every=1, quiet=True)
    for name in ("result.json", "checkpoints/epoch-0003-step-000000/checkpoint.json"):
        (run.path / name).unlink()
    wrn.train(recipe, run.path, device="cpu", quiet=True)
    kept = sorted(path.name[:10] for path in (run.path / "checkpoints").glob("epoch-*"))
    assert kept == ["epoch-0001", "epoch-0002", "epoch-0003"]


def test_metrics_of_a_finished_run_are_compared_with_its_checkpoint(run, tmp_path):
    there = shutil.copytree(run.path, tmp_path / "run")
    text = (there / "metrics.jsonl").read_text()
    for content in (text.replace('"epoch": 2', '"epoch": 6'), text[: len(text) // 2], None):
        (there / "metrics.jsonl").unlink()
        if content is not None:
            (there / "metrics.jsonl").write_text(content)
        assert wrn.Run(there).metrics == run.metrics
        (there / "metrics.jsonl").write_text(text)


def test_a_damaged_model_given_by_its_path(run, tmp_path, run_wrn):
    content = bytearray((run.path / "model.safetensors").read_bytes())
    content[-100] ^= 16
    (tmp_path / "model.safetensors").write_bytes(content)
    code, _, err = run_wrn("eval", "model.safetensors")
    assert (code, err.count("\n")) == (1, 1)
    assert "model.safetensors: damaged" in err


def test_the_clock_does_not_order_checkpoints(run, tmp_path):
    """The oldest file is the newest checkpoint."""
    there = shutil.copytree(run.path, tmp_path / "run")
    for number, path in enumerate(sorted((there / "checkpoints").iterdir(), reverse=True)):
        os.utime(path, (10_000 * number, 10_000 * number))
    (there / "result.json").unlink()
    wrn.train(wrn.recipe(**RECIPE), there, device="cpu", quiet=True)
    assert "continuing after epoch 3" in (there / "train.log").read_text()
