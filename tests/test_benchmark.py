"""The benchmark's contestants do the same work, and its figures are consistent."""

import json
import time
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import wrn
from wrn.benchmark.baselines import UsualWRN, batches, timm_batches, torchvision_batches, torchvision_streamed
from wrn.benchmark.memory import OPTNET, TORCH7, counted
from wrn.benchmark.streaming import bench_streaming
from wrn.benchmark.timing import alternate, summary


def test_the_usual_network_is_the_same_network():
    ours, usual = wrn.create_model("wrn-16-2", num_classes=10, seed=0), UsualWRN(16, 2, 10)
    usual.load_state_dict(dict(zip(usual.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(usual.train()(images), ours.train()(images), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(usual.eval()(images), ours.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("load", [batches, torchvision_batches])
def test_the_usual_pictures_are_crops_of_the_padded_ones(load):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")
    loaded, labels = next(load(images, np.array([4, 5, 6]), 3, workers=0))
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    pixels = np.rint((loaded.permute(0, 2, 3, 1).numpy() * std + mean) * 255).astype("uint8")
    for picture, label in zip(pixels, labels.tolist(), strict=True):
        padded = np.pad(images[label - 4], ((4, 4), (4, 4), (0, 0)), mode="reflect")
        crops = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
        assert any(np.array_equal(picture, crop) or np.array_equal(picture, crop[:, ::-1]) for crop in crops)


def test_torchvisions_pictures_are_the_normalised_centres(tmp_path):
    pytest.importorskip("torchvision")
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    loaded, _ = next(torchvision_streamed(str(tmp_path), ["a.png"], 2, 224, workers=0, training=False))
    expected = (pixels[16:240, 38:262] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(loaded[1].permute(1, 2, 0), expected, atol=1e-5)
    loaded, _ = next(torchvision_streamed(str(tmp_path), ["a.png"], 2, 224, workers=0, training=True))
    assert loaded.shape == (2, 3, 224, 224)
    assert not torch.equal(loaded[0], loaded[1])


def test_bench_stream(tmp_path, monkeypatch):
    """From pictures at any depth of a folder that is named relative to where one is."""
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        path = tmp_path / f"{number}" / "deep" / f"{number}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (300, 256), (number, 100, 200)).save(path)
    found = bench_streaming(".", (1,), rounds=1, turn=0.0)
    assert [(row["transform"], row["contestant"]) for row in found["rows"]] == [
        (transform, name) for transform in ("training", "validation") for name in ("wrn", "torchvision")
    ]
    for own, other in zip(found["rows"][::2], found["rows"][1::2], strict=True):
        ratio = own["images_per_second"] / other["images_per_second"]
        assert own["times torchvision"] == pytest.approx(ratio, abs=0.006)


def test_timms_loader_gives_such_batches():
    pytest.importorskip("timm")
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype="uint8")
    loaded, labels = next(timm_batches(images, np.arange(6), 6, workers=0, device="cpu"))
    assert (loaded.shape, loaded.dtype) == ((6, 3, 32, 32), torch.float32)
    assert set(labels.tolist()) <= set(range(6))
    assert abs(loaded.mean().item()) < 0.5 < loaded.std().item()


def test_memory_of_the_papers_framework_is_that_of_its_layers():
    """WRN-10-1 by hand: every convolution and BN keeps what it gives, and the gradient of what it is given."""
    maps = 4 * 8 * 32 * 32  # bytes of 8 images' channel
    given = [3, 16, 16, 16, 16, 16]  # conv1; bn1 conv1 bn2 conv2 of group 1; where its branch parts
    given += [16, 16, 16, 32 / 4, 32 / 4, 16]  # group 2: bn1 conv1 shortcut bn2 conv2, parting
    given += [32 / 4, 32 / 4, 32 / 4, 64 / 16, 64 / 16, 32 / 4, 64 / 16]  # group 3, and the last BN
    made = [16, 16, 16, 16, 16, 16, 32 / 4, 32 / 4, 32 / 4, 32 / 4, 32 / 4, 4, 4, 4, 4, 4]
    weights = 2 * 4 * wrn.describe("wrn-10-1").params
    found = counted("wrn-10-1", 8)
    assert found[TORCH7] == weights + maps * (sum(made) + sum(given))
    assert found[OPTNET] == weights + maps * (sum(made) + 3 * 16)


@pytest.mark.slow
def test_bench_startup(run_wrn):
    code, out, err = run_wrn("bench", "startup", "--rounds", 1, "--json")
    assert code == 0, err
    first, ours, usual = json.loads(out)["rows"]
    assert first["seconds"] < 0.5 * ours["seconds"], "the help does not import torch"
    assert ours["ratio to usual loop, until its first step"] == pytest.approx(
        ours["seconds"] / usual["seconds"], abs=0.01
    )


def test_contestants_take_turns_and_medians_count():
    order = []
    seconds = alternate(
        {"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.02))[0]}, 3, turn=0.0
    )
    assert order == ["a", "a", "b", "b"] + ["a", "a", "b", "b"] * 3
    assert min(seconds["b"]) > 0.02 > sorted(seconds["a"])[1]
    assert summary([0.3, 0.1, 0.2]) == {"ms": 200, "ms_min": 100, "ms_max": 300}


def test_bench_train(run_wrn, tmp_path):
    words = ("bench", "train", "wrn-10-1", "--compare", "--rounds", 1, "--batch-size", 32)
    code, out, err = run_wrn(*words, "--json", "--out", tmp_path / "found.json")
    assert code == 0, err
    found = json.loads(out)
    assert json.loads((tmp_path / "found.json").read_text()) == found
    own, *others = found["rows"]
    libraries = ["torchvision", "timm"]
    names = ["wrn", "usual loop, fp32", "usual loop, ", *(name for name in libraries if find_spec(name))]
    assert all(row["contestant"].startswith(name) for row, name in zip(found["rows"], names, strict=True))
    for row in others:
        assert own[f"times {row['contestant']}"] == pytest.approx(row["ms"] / own["ms"], abs=0.006)
    assert own["share_of_bare_convolutions"] == pytest.approx(own["bare_convolutions_ms"] / own["ms"], abs=0.002)
    assert 0 < own["share_of_bare_convolutions"] < 5, "timed apart, so that a busy machine may make a part the larger"
    assert own["images_per_second"] == pytest.approx(32_000 / own["ms"], rel=0.01)


def test_an_imagenet_network_is_counted_at_the_size_it_is_timed_at(run_wrn):
    """Of its usual 224 pixels it would be fifty times as many multiplications."""
    code, out, err = run_wrn("bench", "train", "resnet-18", "--rounds", 1, "--batch-size", 8, "--json")
    assert code == 0, err
    found = json.loads(out)
    (own,), kind = found["rows"], "bf16" if "bf16" in found["execution"] else "fp32"
    rate = 2 * 3 * 8 * 37_523_456 / (own["ms"] / 1000)  # multiply-accumulates of 32 x 32 pixels
    share = rate / 1e12 / found["peaks"][f"matmul_{kind}_tflops"]
    assert own["share_of_matmul_peak"] == pytest.approx(share, rel=0.01, abs=0.002)


def test_bench_infer_prints_a_table(run_wrn):
    code, out, err = run_wrn("bench", "infer", "wrn-10-1", "--rounds", 1)
    assert code == 0, err
    header, *rows = [line.split("|")[1:-1] for line in out.splitlines() if line.startswith("| ")]
    assert "times eager fp32" in [cell.strip() for cell in header]
    assert len(rows) >= 4
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "wrn-13-1-b313", "--compare"), "blocks B(3,3)"),
        (("train", "nin", "--compare"), "blocks B(3,3)"),
        (("train", "--rounds", 0), "at least 1"),
        (("train", "wrn-10-1", "--batch-size", 0), "at least 1"),
        (("infer", "wrn-10-1", "--batch-sizes", 0), "at least 1"),
        (("infer", "--compare"), "--compare"),
        (("fig4", "wrn-16-4"), "wrn-16-4"),
        (("train", "wrn-10-1", "--batch-size", 9999), "lower it"),
        (("train", "wrn-11-1"), "the nearest is"),
        (("train", "wrn-10-1", "--data", "imagenet"), "`wrn bench stream FOLDER` times decoding"),
        (("memory", "wrn-11-1"), "the nearest is"),
        (("walk",), "walk"),
        (("stream", ".", "--workers", 0), "at least 1"),
        (("stream",), "FOLDER"),
    ],
)
def test_what_makes_no_sense_is_told(words, says, run_wrn):
    code, _, err = run_wrn("bench", *words)
    assert (code, says in err) == (2, True), err


def test_a_folder_without_good_pictures_is_told(run_wrn, tmp_path):
    code, _, err = run_wrn("bench", "stream", tmp_path)
    assert (code, err) == (
        1,
        f"wrn: error: {tmp_path}: no pictures there; name a folder of some, such as ImageNet's val/\n",
    )
    (tmp_path / "a.png").write_text("no picture")
    code, _, err = run_wrn("bench", "stream", tmp_path)
    assert (code, f"{tmp_path / 'a.png'}: is no picture" in err) == (1, True), err
