"""SVHN from real .mat files, by mirror and from a folder; what is wrong with a file; the memory that it takes."""

import hashlib
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

import wrn
from tests.archives import sha256, svhn_file
from wrn.data import svhn
from wrn.data.arrays import Request
from wrn.data.download import Remote

pytestmark = pytest.mark.usefixtures("empty_cache")

COUNTS = {"train": 600, "test": 200, "extra": 400}
FEW = {"train": 20, "test": 60}


def files_in(folder: Path, counts=COUNTS):
    """The three files; returns {part: (X, y)}."""
    folder.mkdir(exist_ok=True)
    return {
        part: svhn_file(folder / f"{part}_32x32.mat", count, seed=number)
        for number, (part, count) in enumerate(counts.items())
    }


@pytest.fixture
def published(www, monkeypatch):
    """The three files at the addresses that the set is downloaded from, with their hashes; {part: (X, y)}."""
    made = files_in(www.folder)
    for part, remote in svhn.FILES.items():
        digest = hashlib.md5((www.folder / remote.name).read_bytes()).hexdigest()
        monkeypatch.setitem(svhn.FILES, part, Remote(www.url(remote.name), f"md5:{digest}"))
    return made


def pixels_of(mat: Path, count: int):
    """X of a .mat file as (N, H, W, 3), read without scipy: after MathWorks' "MAT-File Format", level 5."""
    content, at = mat.read_bytes(), 128
    while at < len(content):
        kind, size = struct.unpack_from("<2I", content, at)
        assert kind == 15, "compressed"
        matrix = zlib.decompress(content[at + 8 : at + 8 + size])
        at += 8 + size
        if struct.unpack_from("<i", matrix, 28)[0] == 16:  # bytes of its dimensions: there are four
            height, width, colours, number = struct.unpack_from("<4i", matrix, 32)
            assert (height, width, colours, number) == (32, 32, 3, count)
            # Its columns come first: the row runs fastest, then the column, the colour, the image
            values = np.frombuffer(matrix[-count * 3072 :], np.uint8).reshape(count, 3, 32, 32)
            return values.transpose(0, 3, 2, 1)
    raise AssertionError("no X")


def must_be(data, folder: Path, made, extra: bool):
    order = ["train", "extra"] if extra else ["train"]
    images = np.concatenate([pixels_of(folder / f"{part}_32x32.mat", COUNTS[part]) for part in order])
    labels = np.concatenate([made[part][1].reshape(-1) for part in order])
    np.testing.assert_array_equal(data.train.images.numpy(), images)
    np.testing.assert_array_equal(data.train.labels.numpy(), np.where(labels == 10, 0, labels))
    np.testing.assert_array_equal(data.test.images.numpy(), pixels_of(folder / "test_32x32.mat", 200))
    assert data.classes == tuple("0123456789")
    assert data.test.labels[:12].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]


@pytest.mark.parametrize("name", ["svhn", "svhn-train"])
def test_download_parse_and_cache(published, www, name):
    data = wrn.dataset(name)
    must_be(data, www.folder, published, extra=name == "svhn")
    assert wrn.dataset(name).fingerprint == data.fingerprint
    assert [path for path, _ in www.asked] == [f"/{part}_32x32.mat" for part in svhn.SETS[name]]
    images, labels = next(data.test.in_order(200))
    torch.testing.assert_close(images, data.test.images.permute(0, 3, 1, 2) / 255, msg="unit: divided by 255")
    assert torch.equal(labels, data.test.labels)


def test_both_sets_are_made_of_the_same_downloads(published, www):
    assert wrn.dataset("svhn-train").fingerprint != wrn.dataset("svhn").fingerprint
    assert len(www.asked) == 3


@pytest.mark.parametrize(("name", "train"), [("svhn", "1,000"), ("svhn-train", "600")])
def test_mirrors_as_a_user(www, run_wrn, name, train):
    made = files_in(www.folder)
    files = [f"{part}_32x32.mat" for part in svhn.SETS[name]]
    mirrors = ["--url", *map(www.url, files), "--sha256", *(sha256(www.folder / file) for file in files)]
    code, out, err = run_wrn("data", "prepare", name, *mirrors)
    assert (code, f"{train} + 200 images, 10 classes, ready" in out) == (0, True), err
    assert "not from the published files" in out
    code, out, err = run_wrn("train", "wrn-10-1", "--data", name, "--epochs", "1")
    assert code == 0, err
    assert f"prepared from {www.url(files[0])}" in out
    assert len(www.asked) == len(files)
    must_be(wrn.dataset(name), www.folder, made, extra=name == "svhn")


@pytest.mark.parametrize("name", ["svhn", "svhn-train"])
def test_a_folder_as_a_user(tmp_path, run_wrn, name):
    made = files_in(tmp_path / "mine")
    code, out, err = run_wrn("train", "wrn-10-1", "--data", name, "--root", tmp_path / "mine", "--epochs", "1")
    assert (code, f"prepared from {tmp_path / 'mine'}, not from the published files" in out) == (0, True), err
    must_be(wrn.dataset(name), tmp_path / "mine", made, extra=name == "svhn")


def test_a_root_whose_files_were_changed_is_read_again(tmp_path):
    for count in (100, 120):
        files_in(tmp_path, COUNTS | {"train": count})
        assert len(wrn.dataset("svhn-train", root=tmp_path).train) == count


def test_a_folder_with_the_published_files_is_as_good_as_a_download(published, www, run_wrn):
    code, out, err = run_wrn("data", "prepare", "svhn", "--root", www.folder)
    assert (code, "not from" in out) == (0, False), err
    assert not www.asked


def test_it_reads_what_torchvision_reads(published, www, monkeypatch):
    from torchvision.datasets import SVHN

    assert {part: [url, name, md5] for part, (url, name, md5) in SVHN.split_list.items()} == {
        part: [f"http://ufldl.stanford.edu/housenumbers/{part}_32x32.mat", f"{part}_32x32.mat", md5]
        for part, md5 in PUBLISHED.items()
    }
    for part, remote in svhn.FILES.items():
        monkeypatch.setitem(SVHN.split_list, part, [remote.url, remote.name, remote.digest.removeprefix("md5:")])
    ours = wrn.dataset("svhn-train")
    for part, split in (("train", ours.train), ("test", ours.test)):
        theirs = SVHN(www.folder, part)
        np.testing.assert_array_equal(split.images.permute(0, 3, 1, 2).numpy(), theirs.data)
        assert split.labels.tolist() == theirs.labels.tolist()


PUBLISHED = {part: remote.digest.removeprefix("md5:") for part, remote in svhn.FILES.items()}


def test_the_papers_recipe():
    for name in ("svhn", "svhn-train"):
        what = wrn.recipe("wrn-16-8", data=name)
        assert (what.epochs, what.milestones, what.lr_decay) == (160, (80, 120), 0.1)
        assert [what.lr_at(epoch) for epoch in (1, 79, 80, 120)] == pytest.approx([0.01, 0.01, 0.001, 0.0001])
        assert (what.preprocess, what.augment) == ("unit", "none")
    assert svhn.COUNTS["train"] + svhn.COUNTS["extra"] == 604_388


def prepared(run_wrn, root):
    code, out, err = run_wrn("data", "prepare", "svhn-train", "--root", root)
    assert "Traceback" not in err
    assert err.count("\n") == code
    return code, err if code else out


LABELS = np.arange(30, dtype=np.uint8)[:, None] % 10 + 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"X": None}, "no X in it"),
        ({"y": None}, "no y in it"),
        ({"y": LABELS - 1}, "a label 0, not one of 1 to 10"),
        ({"y": LABELS + 1}, "a label 11, not one of 1 to 10"),
        ({"y": LABELS.astype(float) + 0.5}, "a label 1.5, not one"),
        ({"y": np.full((30, 1), np.nan)}, "a label nan, not one"),
        ({"y": LABELS[:29]}, "y is (29, 1)"),
        ({"y": np.array(["a"] * 30)[:, None]}, "y is of type <U1"),
        ({"y": np.full((30, 1), "a", object)}, "y is of type object"),
        ({"X": np.zeros((30, 32, 32, 3), np.uint8)}, "X is (30, 32, 32, 3) and y is (30, 1), not (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32, 1, 30), np.uint8)}, "X is (32, 32, 1, 30)"),
        ({"X": np.zeros((3072, 30), np.uint8)}, "X is (3072, 30)"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8), "y": LABELS[:0]}, "; 0 images; the published file has 26,032)"),
        ({"X": np.zeros((32, 32, 3, 30), np.float32)}, "X is of type single, not uint8"),
        ({"X": np.zeros((32, 32, 3, 30), np.int8)}, "X is of type int8, not uint8"),
        ({"X": np.zeros((32, 32, 3, 30), bool)}, "X is of type logical, not uint8"),
        ({"X": np.full((3, 30), "a", object)}, "X is of type cell, not uint8"),
    ],
)
def test_files_with_other_content(tmp_path, run_wrn, empty_cache, changes, says):
    root = tmp_path / "mine"
    files_in(root, FEW)
    svhn_file(root / "test_32x32.mat", 30, **changes)
    code, text = prepared(run_wrn, root)
    assert code == 1
    assert f"{root / 'test_32x32.mat'}: not the MATLAB file it should be (" in text
    assert says in text
    assert not list(empty_cache.rglob("*.safetensors"))


def of_version_4(path):
    from scipy.io import savemat

    savemat(path, {"X": np.zeros((3072, 30), np.uint8), "y": LABELS}, format="4")


def claiming(count):
    """Change the file's own words for how many images are in it."""

    def call(path):
        svhn_file(path, 30)
        content, out, at = path.read_bytes(), path.read_bytes()[:128], 128
        while at < len(content):
            size = struct.unpack_from("<2I", content, at)[1]
            matrix = zlib.decompress(content[at + 8 : at + 8 + size])
            matrix = matrix.replace(struct.pack("<4i", 32, 32, 3, 30), struct.pack("<4i", 32, 32, 3, count))
            matrix = matrix.replace(struct.pack("<2i", 30, 1), struct.pack("<2i", count, 1))
            packed = zlib.compress(matrix)
            out += struct.pack("<2I", 15, len(packed)) + packed
            at += 8 + size
        path.write_bytes(out)

    return call


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100_000]), "(100,000 bytes; no y in it)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes; "),
        (lambda path: path.write_bytes(b""), "(0 bytes; "),
        (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file"), "(19 bytes; "),
        (lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html>404, not found</html>" * 9), "an HTML page, 387 bytes"),
        (lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM\x89HDF\r\n"), "HDF reader"),
        (of_version_4, "X is "),
        (claiming(50), "bytes; "),
        (claiming(2_000_000_000), "2,000,000,000 images; the published file has 26,032"),
        (claiming(-1), "-1 images; the published"),
    ],
    ids=["half", "a byte short", "empty", "19 bytes", "html", "v7.3", "v4", "claims 50", "claims 2e9", "claims -1"],
)
def test_files_that_are_none(tmp_path, run_wrn, spoil, says):
    root = tmp_path / "mine"
    files_in(root, FEW)
    spoil(root / "test_32x32.mat")
    code, text = prepared(run_wrn, root)
    assert code == 1
    assert says in text
    assert "test_32x32.mat: not the MATLAB file it should be" in text


def test_no_altered_byte_goes_unseen(tmp_path):
    """Each is refused, or lies where it changes nothing; scipy raises six kinds of exceptions for them."""
    root = tmp_path / "mine"
    files_in(root, FEW)
    source = svhn.read("svhn-train", Request(root=root))
    good, path = source.decode(1, lambda *_: None), root / "train_32x32.mat"
    whole, draws = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for at in [*range(124, 210), *draws.integers(0, len(whole), 50), *range(len(whole) - 80, len(whole))]:
        altered = bytearray(whole)
        altered[at] ^= 1 << int(draws.integers(8))
        path.write_bytes(altered)
        try:
            found = source.decode(1, lambda *_: None)
        except wrn.Error as error:
            assert re.fullmatch(r".*train_32x32\.mat: not the MATLAB file .*; delete it and get it again", str(error))
            refused += 1
        else:
            np.testing.assert_array_equal(found.train.images, good.train.images)
            np.testing.assert_array_equal(found.train.labels, good.train.labels)
    assert refused > 120


def test_a_missing_file_of_a_folder_is_named(tmp_path, run_wrn):
    root = tmp_path / "mine"
    files_in(root, FEW)
    code, _, err = run_wrn("data", "prepare", "svhn", "--root", root)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{root / 'extra_32x32.mat'}: not there; --root must be a folder that holds it" in err


MEASURE = """
import sys
import scipy.io, wrn.data.loader, wrn.data.svhn

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

before = memory("VmRSS")
data = wrn.dataset("svhn", root=sys.argv[1])
peak = memory("VmHWM")
assert (len(data.train), len(data.test)) == (35_000, 2_000)
size = sum(t.numel() * t.itemsize for split in (data.train, data.test) for t in (split.images, split.labels))
print(size, before, peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_preparing_takes_less_than_three_times_the_arrays(tmp_path):
    # Not resource.getrusage: its peak is inherited from the process that started this one
    root = tmp_path / "mine"
    root.mkdir()
    for part, count in (("train", 15_000), ("test", 2_000), ("extra", 20_000)):
        pixels = np.broadcast_to((np.arange(count) % 251).astype(np.uint8), (32, 32, 3, count))
        svhn_file(root / f"{part}_32x32.mat", count, X=pixels)
    done = subprocess.run([sys.executable, "-c", MEASURE, root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, before, peak = map(int, done.stdout.split())
    assert size == 37_000 * (3072 + 8)
    print(f"{(peak - before) / size:.2f} x {size / 1e6:.0f} MB")
    assert peak - before < 3 * size
