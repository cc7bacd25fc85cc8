"""`folder:PATH`: what it reads, and what it refuses before training starts."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_pictures
from PIL import Image

import wrn
from wrn.data import pictures as decoding
from wrn.data.batching import order_of


def test_folder_and_tar_hold_the_same(pictures, tmp_path):
    plain = wrn.dataset(f"folder:{pictures}")
    assert (len(plain.train), len(plain.test), plain.classes) == (24, 12, ("one", "zero"))
    for name, mode, prefix in (("a.tar", "w", "."), ("b.tar.gz", "w:gz", "pictures"), ("c.tar.xz", "w:xz", "")):
        with tarfile.open(tmp_path / name, mode) as archive:
            for split in ("test", "train"):
                archive.add(pictures / split, arcname=f"{prefix}/{split}" if prefix else split)
        packed = wrn.dataset(f"folder:{tmp_path / name}")
        for ours, theirs in ((packed.train, plain.train), (packed.test, plain.test)):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
        assert packed.fingerprint == plain.fingerprint


def test_every_size_and_mode_becomes_rgb_squares(pictures):
    colour = np.zeros((60, 40, 3), np.uint8)
    colour[:, :, 0] = 200
    train = pictures / "train" / "one"
    whole = Image.fromarray(colour)
    for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr"):
        suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
        whole.convert(mode).save(train / f"mode-{mode}.{suffix}")
    Image.fromarray(np.full((9, 90), 40_000, np.uint16)).save(train / "mode-16bit.png")
    data = wrn.dataset(f"folder:{pictures}")
    assert len(data.train) == 24 + 9
    names = sorted(p.name for p in train.iterdir())
    by_name = {name: data.train.images[i] for i, name in enumerate(names)}
    assert by_name["mode-RGB.png"].shape == (32, 32, 3)
    assert (by_name["mode-RGB.png"] == torch.tensor([200, 0, 0])).all()
    assert (by_name["mode-RGBA.png"] == torch.tensor([200, 0, 0])).all()
    assert (by_name["mode-16bit.png"] == round(40_000 / 257)).all()


def test_shorter_side_is_resized_and_the_centre_cropped():
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 255  # the middle third
    square = decoding.to_square(Image.fromarray(wide), 32)
    assert square.shape == (32, 32, 3)
    assert square[:, 2:-2].min() > 250
    untouched = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(decoding.to_square(Image.fromarray(untouched), 32), untouched)


def test_rotation_in_exif_is_honoured(tmp_path):
    picture = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 20, axis=1).repeat(20, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    square = decoding.decode(tmp_path / "turned.png", 32)
    assert square[:8].mean() > 200 > 50 > square[-8:].mean()


def test_holding_out_a_share(pictures):
    shutil.rmtree(pictures / "test")
    data = wrn.dataset(f"folder:{pictures}", val_fraction=0.25)
    assert torch.bincount(data.test.labels).tolist() == [3, 3]
    assert len(data.train) == 18
    again = wrn.dataset(f"folder:{pictures}", val_fraction=0.25)
    assert torch.equal(again.test.images, data.test.images)


def spoil(root: Path, how: str) -> None:
    """Make the folder of `pictures` bad in one way."""
    train, test = root / "train", root / "test"
    victim = train / "one" / "003.png"
    match how:
        case "empty class":
            for file in (train / "zero").iterdir():
                file.unlink()
        case "truncated":
            victim.write_bytes(victim.read_bytes()[:-30])
        case "truncated jpeg":
            victim.unlink()
            buffer = io.BytesIO()
            Image.effect_noise((64, 64), 60).save(buffer, "JPEG")
            victim.with_suffix(".jpg").write_bytes(buffer.getvalue()[:900])
        case "zero bytes":
            victim.write_bytes(b"")
        case "no picture":
            victim.write_text("<html>not found</html>")
        case "stranger in test":
            shutil.copytree(test / "one", test / "two")
        case "one class":
            shutil.rmtree(train / "zero")
            shutil.rmtree(test / "zero")
        case "no test":
            shutil.rmtree(test)
        case "val for test":
            test.rename(test.with_name("val"))
        case "no train":
            shutil.rmtree(train)
        case "bomb":
            Image.new("1", (20_000, 9_000)).save(victim)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty class", "train/zero holds no pictures"),
        ("truncated", "train/one/003.png: cannot be decoded"),
        ("truncated jpeg", "train/one/003.jpg: cannot be decoded"),
        ("zero bytes", "train/one/003.png: is empty"),
        ("no picture", "train/one/003.png: is no picture"),
        ("stranger in test", "'two' is in test/ but not in train/"),
        ("one class", "one class only, 'one'"),
        ("no test", "add one, or hold out a part of train/ with --val-fraction"),
        ("val for test", "rename val/"),
        ("no train", "holds nothing to train on"),
        ("bomb", "train/one/003.png: cannot be decoded"),
    ],
)
def test_bad_folders_are_refused_in_one_line_before_training(run_wrn, pictures, how, says):
    spoil(pictures, how)
    code, out, err = run_wrn("train", "wrn-10-1", "--data", f"folder:{pictures}", "--out", "run")
    assert (code, out) == (1, "")
    assert err.startswith("wrn: error: folder:")
    assert says in err
    assert err.count("\n") == 1
    assert not (pictures.parent / "run").exists()


def test_other_bad_input(run_wrn, pictures):
    (pictures / "notes.tar").write_bytes(b"not an archive")
    for data, code, says in (
        ("folder:nowhere", 1, "nothing at that path"),
        (f"folder:{pictures / 'notes.tar'}", 1, "cannot be listed"),
        ("folder:", 2, "write folder:PATH"),
        ("digits:5", 2, "takes no path"),
        ("digts", 2, "did you mean digits"),
    ):
        found, _, err = run_wrn("train", "wrn-10-1", "--data", data)
        assert found == code
        assert says in err
    code, _, err = run_wrn("train", "wrn-10-1", "--data", f"folder:{pictures}", "--val-fraction", 0.2)
    assert code == 2
    assert "has a test split of its own" in err


def test_several_bad_pictures_are_counted(pictures):
    for number in (3, 5):
        (pictures / "train" / "one" / f"{number:03}.png").write_bytes(b"GIF89a")
    with pytest.raises(wrn.Error, match=r"2 of 36 pictures cannot be used, the first is train/one/003\.png"):
        wrn.dataset(f"folder:{pictures}")


def test_changed_pictures_are_decoded_again(pictures):
    before = wrn.dataset(f"folder:{pictures}")
    Image.new("RGB", (32, 32), (1, 2, 3)).save(pictures / "train" / "one" / "000.png")
    after = wrn.dataset(f"folder:{pictures}")
    assert (after.train.images[0] == torch.tensor([1, 2, 3])).all()
    assert after.fingerprint != before.fingerprint


def test_damaged_cache_is_said_and_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))
    root = make_pictures(tmp_path / "p", train=4, test=2)
    whole = wrn.dataset(f"folder:{root}")
    arrays = next((tmp_path / "cache").rglob("arrays.safetensors"))
    content = bytearray(arrays.read_bytes())
    content[-100] ^= 1
    arrays.write_bytes(bytes(content))
    again = wrn.dataset(f"folder:{root}")
    assert torch.equal(again.train.images, whole.train.images)
    assert "damaged" in capsys.readouterr().err
    info = next((tmp_path / "cache").rglob("info.json"))
    info.write_text(info.read_text()[: len(info.read_text()) // 2])
    assert wrn.dataset(f"folder:{root}").fingerprint == whole.fingerprint


def test_hidden_and_other_files_are_left_out(pictures):
    (pictures / "train" / "one" / "readme.txt").write_text("hello")
    (pictures / "train" / "one" / "._001.png").write_bytes(b"resource fork")
    (pictures / "train" / ".cache").mkdir()
    assert len(wrn.dataset(f"folder:{pictures}").train) == 24


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_links_are_followed(pictures, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(pictures / "train")
    (linked / "test").symlink_to(pictures / "test")
    assert len(wrn.dataset(f"folder:{linked}").train) == 24


def test_links_in_an_archive_are_followed(pictures, tmp_path):
    """Symbolic and hard ones."""
    whole = wrn.dataset(f"folder:{pictures}")
    pool = tmp_path / "pool"
    pool.mkdir()
    for number, path in enumerate(sorted((pictures / "train" / "one").iterdir())):
        path.rename(pool / path.name)
        if number % 2:
            path.symlink_to(os.path.relpath(pool / path.name, path.parent))
        else:
            path.hardlink_to(pool / path.name)
    with tarfile.open(tmp_path / "linked.tar", "w") as archive:
        archive.add(pool, "pool")
        archive.add(pictures / "train", "pictures/train")
        archive.add(pictures / "test", "pictures/test")
    with tarfile.open(tmp_path / "linked.tar") as archive, tarfile.open(tmp_path / "moved.tar", "w") as moved:
        kinds = set()
        for member in archive:  # train/ and test/ at the top, the pool beside them
            member.name = member.name.removeprefix("pictures/")
            member.linkname = member.linkname.replace("../../../pool", "../../pool")
            kinds |= {"symbolic"} if member.issym() else {"hard"} if member.islnk() else set()
            moved.addfile(member, archive.extractfile(member) if member.isreg() and not member.islnk() else None)
    assert kinds == {"symbolic", "hard"}
    assert wrn.dataset(f"folder:{tmp_path / 'moved.tar'}").fingerprint == whole.fingerprint


def test_names_of_other_encodings(pictures, run_wrn, tmp_path):
    """A picture may have one; a class, which is written down, may not."""
    (pictures / "train" / "one" / "001.png").rename(os.fsdecode(os.fsencode(pictures / "train" / "one") + b"/\xe9.png"))
    shutil.rmtree(pictures / "test")
    words = ("train", "wrn-10-1", "--data", f"folder:{pictures}", "--val-fraction", 0.25, "--epochs", 1)
    code, out, err = run_wrn(*words)
    assert (code, "(18 + 6 images of 32x32, 2 classes" in out) == (0, True), err
    (pictures / "train" / "one").rename(os.fsdecode(os.fsencode(pictures / "train") + b"/one\xe9"))
    code, _, err = run_wrn(*words, "--fresh")
    assert (code, "class 'one\\udce9' has a name that is not UTF-8; rename the folder" in err) == (1, True), err


def test_a_folder_for_testing_alone(pictures):
    shutil.rmtree(pictures / "train")
    with pytest.raises(wrn.Error, match="holds nothing to train on"):
        wrn.dataset(f"folder:{pictures}")


def test_what_is_left_out_is_said(pictures, capsys):
    (pictures / "train" / "one" / "scan.heic").write_bytes(b"x")
    (pictures / "train" / "lost.png").write_bytes(b"x")
    wrn.dataset(f"folder:{pictures}")
    assert (
        "left out what lies in no class or is no picture by its name: 2, such as train/lost.png"
        in capsys.readouterr().err
    )


def test_it_is_said_in_these_words(pictures, run_wrn):
    """A folder `X` before another colon is no emoji's name."""
    (pictures / "train" / "lost.png").write_bytes(b"x")
    pictures.rename(pictures.parent / "X")
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "folder:X", "--epochs", 1)
    assert (code, "folder:X: left out what lies" in out) == (0, True), out + err


def test_a_class_that_is_not_tested_is_said(pictures, capsys):
    gone = sorted(path for path in (pictures / "test").iterdir())[0]
    shutil.rmtree(gone)
    wrn.dataset(f"folder:{pictures}")
    assert f"test/ has no pictures of {gone.name!r}" in capsys.readouterr().err


def test_fractions_are_no_pixels(tmp_path):
    Image.fromarray(np.random.default_rng(0).random((9, 9), dtype="float32")).save(tmp_path / "f.tif")
    with pytest.raises(wrn.Error, match="8 or 16 bits"):
        decoding.decode(tmp_path / "f.tif", 8)


def test_pictures_of_other_folders_never_come_from_the_cache(tmp_path):
    """Same names, sizes and times, other pixels: an uncompressed format makes that easy."""
    found = []
    for name, shade in (("a", 10), ("b", 200)):
        for split in ("train", "test"):
            for label in ("x", "y"):
                path = tmp_path / name / "birds" / split / label / "0.bmp"
                path.parent.mkdir(parents=True)
                Image.new("RGB", (32, 32), (shade, shade, shade)).save(path)
                os.utime(path, (1e9, 1e9))
        found.append(wrn.dataset(f"folder:{tmp_path / name / 'birds'}").train.images)
    assert not torch.equal(*found)


@pytest.mark.parametrize("payload", [b"Exif\0\0II*\0", b"Exif\0\0garbage", b"Exif\0\0" + b"\xff" * 40])
def test_damaged_exif_data_refuses_no_good_picture(tmp_path, payload):
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "a.jpg", exif=payload)
    assert decoding.decode(tmp_path / "a.jpg", 32).shape == (32, 32, 3)


def photographs(root):
    """Two classes of pictures larger than the network's, in two formats."""
    for split in ("train", "test"):
        for number, label in enumerate(("dark", "light")):
            (root / split / label).mkdir(parents=True)
            for each in range(4):
                size, kind = (60 + each, 50), ("JPEG", "PNG")[each % 2]
                Image.new("RGB", size, (40 + 150 * number, 10 * each, 99)).save(root / split / label / f"{each}.{kind}")
    return root


def test_large_pictures_stream_as_imagenet_does(tmp_path, run_wrn):
    photographs(tmp_path / "photographs")
    words = ["--augment", "imagenet", "--image-size", "24", "--batch-size", "4", "--epochs", "2", "--workers", "1"]
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "folder:photographs", *words, "--out", "run")
    assert code == 0, err
    assert "(8 + 8 images of 24x24, 2 classes, meanstd, augment imagenet)" in out
    code, out, err = run_wrn("eval", "run", "--json")
    assert code == 0, err
    assert json.loads(out)["test_error"] == wrn.Run(tmp_path / "run").result["test_error"]
    data = wrn.dataset(f"folder:{tmp_path / 'photographs'}", augment="imagenet", image_size=24, workers=1)
    [(images, labels)] = data.test.in_order()
    assert labels.tolist() == [0] * 4 + [1] * 4
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    expected = (torch.tensor([190.0, 10.0, 99.0]).view(3, 1, 1) - mean) / std  # the second of class "light", a PNG
    torch.testing.assert_close(images[5], expected.expand(3, 24, 24), atol=0.02, rtol=0)


def test_an_archive_cannot_be_streamed(tmp_path, run_wrn):
    photographs(tmp_path / "photographs")
    with tarfile.open(tmp_path / "photographs.tar", "w") as archive:
        archive.add(tmp_path / "photographs", "photographs")
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "folder:photographs.tar", "--augment", "imagenet")
    assert (code, "cannot stream from an archive; unpack it" in err) == (2, True)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_run_goes_on_once_a_broken_picture_is_replaced(split, tmp_path, run_wrn):
    """What was trained until it was met is saved, the epoch before the test included; another file is another size."""
    draws = np.random.default_rng(0)
    for part, label, number in [(part, label, n) for part in ("train", "test") for label in "ab" for n in range(6)]:
        path = tmp_path / "own" / part / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (30, 40, 3), dtype="uint8")).save(path)
    last = int(order_of(12, 0, 1)[-1])  # of the first epoch
    broken = tmp_path / "own" / split / "ab"[last // 6] / f"{last % 6}.png"
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    words = ("train", "wrn-10-1", "--data", "folder:own", "--augment", "imagenet", "--image-size", 16)
    words += ("--batch-size", 2, "--epochs", 2, "--workers", 1, "--out", "run")
    code, _, err = run_wrn(*words)
    assert (code, f"{broken.relative_to(tmp_path)}: cannot be decoded" in err) == (1, True), err
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name == f"epoch-0000-step-00000{6 if split == 'test' else 5}"
    broken.write_bytes(good)
    code, out, err = run_wrn(*words)
    assert code == 0, err
    assert "changed since it was saved, so that this run will not be bit-exact: data " in out
    run = wrn.Run(tmp_path / "run")
    assert [line["epoch"] for line in run.metrics] == [1, 2]
    assert run.result["bit_exact"] is False
