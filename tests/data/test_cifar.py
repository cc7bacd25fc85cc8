"""CIFAR in each format that people have it in, from a real HTTP server on loopback or a folder."""

import dataclasses
import hashlib
import os
import pickle
import shutil

import numpy as np
import pytest
import torch

import wrn
from tests.archives import cifar_archive, cifar_files, cifar_pickles, sha256, tar_of
from wrn.data import cifar
from wrn.data.download import Remote

pytestmark = pytest.mark.usefixtures("empty_cache")


@pytest.fixture
def published(www, monkeypatch):
    """published(kind) serves the archive at the address that the set is downloaded from, with its hash."""

    def call(kind, spoil=None, **counts):
        name = cifar.ARCHIVES[kind].remote.name
        pictures = cifar_archive(kind, www.folder / name, spoil=spoil, **counts)
        remote = Remote(www.url(name), f"md5:{hashlib.md5((www.folder / name).read_bytes()).hexdigest()}")
        monkeypatch.setitem(cifar.ARCHIVES, kind, dataclasses.replace(cifar.ARCHIVES[kind], remote=remote))
        return pictures

    return call


def must_be(data, kind, pictures):
    classes = cifar.ARCHIVES[kind].classes
    assert data.classes == tuple(f"thing{number}" for number in range(classes))
    assert torch.bincount(data.train.labels).tolist() == [len(data.train) // classes] * classes
    red_of_first = data.train.images[0, :, :, 0].numpy()
    np.testing.assert_array_equal(red_of_first, pictures[0, :1024].reshape(32, 32))
    np.testing.assert_array_equal(data.test.images[3, :, :, 2].numpy(), pictures[3, 2048:].reshape(32, 32))


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_download_parse_and_cache(published, www, kind):
    pictures = published(kind)
    data = wrn.dataset(kind)
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    must_be(data, kind, pictures)
    assert data.preprocess.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert data.preprocess.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7])
    assert wrn.dataset(kind).fingerprint == data.fingerprint
    assert len(www.asked) == 1


def test_a_mirror_is_used_once_its_hash_is_given(www, run_wrn):
    """As a user: prepare from a mirror, then train without naming it again."""
    cifar_archive("cifar10", www.folder / "copy.tgz", train=1000, test=200)
    words = ["data", "prepare", "cifar10", "--url", www.url("copy.tgz"), "--sha256", sha256(www.folder / "copy.tgz")]
    code, out, err = run_wrn(*words)
    assert (code, "1,000 + 200 images, 10 classes, ready" in out) == (0, True), err
    assert "not from the published files" in out
    code, out, _ = run_wrn("train", "wrn-10-1", "--data", "cifar10", "--epochs", "1")
    assert code == 0
    assert "prepared from http://127.0.0.1" in out
    assert len(www.asked) == 1


def test_a_run_and_its_table_say_that_the_files_were_not_the_published_ones(tmp_path, run_wrn):
    cifar_archive("cifar10", tmp_path / cifar.ARCHIVES["cifar10"].remote.name, train=200, test=100)
    words = ("reproduce", "table4", "--rows", "wrn-40-1", "--data", "cifar10", "--epochs", 1, "--labels", 130)
    code, out, err = run_wrn(*words, "--root", tmp_path, "--seeds", 1, "--device", "cpu")
    assert code == 0, err
    assert f"cifar10: from {tmp_path}, not from the published files." in out
    (run,) = (wrn.Run(path.parent) for path in tmp_path.rglob("result.json"))
    assert run.result["data_from"] == str(tmp_path)
    first, second = (run.path / "train.log").read_text().splitlines()[:2]
    assert f"cifar10: prepared from {tmp_path}, not from the published files" in first + second


def test_a_mirror_with_another_file_is_refused(www, run_wrn, empty_cache):
    cifar_archive("cifar10", www.folder / "copy.tgz", train=1000, test=200)
    code, _, err = run_wrn("data", "prepare", "cifar10", "--url", www.url("copy.tgz"), "--sha256", "0" * 64)
    assert code == 1
    assert "is not the right file (sha256:000" in err
    assert err.count("\n") == 1
    assert not [path for path in empty_cache.rglob("*.tgz*") if path.suffix != ".lock"]


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_with_the_binary_files(tmp_path, kind, packed):
    files, pictures = cifar_files(kind, 1000, 200)
    known = cifar.ARCHIVES[kind]
    if packed:
        (tmp_path / known.remote.name).write_bytes(tar_of(files, known.folder))
    else:
        (tmp_path / known.folder).mkdir()
        for name, content in files.items():
            (tmp_path / known.folder / name).write_bytes(content)
    must_be(wrn.dataset(kind, root=tmp_path), kind, pictures)


@pytest.mark.parametrize("packed", [True, False])
def test_a_root_whose_files_were_changed_is_read_again(tmp_path, packed):
    known, root = cifar.ARCHIVES["cifar10"], tmp_path / "mine"

    def lay(count):
        files, _ = cifar_files("cifar10", count, 200)
        if packed:
            (root / known.remote.name).write_bytes(tar_of(files, known.folder))
        else:
            (root / known.folder).mkdir(exist_ok=True)
            for name, content in files.items():
                (root / known.folder / name).write_bytes(content)

    root.mkdir()
    lay(1000)
    assert len(wrn.dataset("cifar10", root=root).train) == 1000
    lay(2000)
    assert len(wrn.dataset("cifar10", root=root).train) == 2000
    shutil.rmtree(root)  # gone: what was prepared from it is still that
    assert len(wrn.dataset("cifar10", root=root).train) == 2000


def publish_pickles(kind, monkeypatch, **counts):
    """torchvision's files, and the catalogue as if they were the published ones; returns files and pictures."""
    files, pictures = cifar_pickles(kind, **counts)
    known = cifar.ARCHIVES[kind]
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    python = dataclasses.replace(
        known.python,
        **{part: {name: md5[name] for name in getattr(known.python, part)} for part in ("train", "test", "names")},
    )
    monkeypatch.setitem(cifar.ARCHIVES, kind, dataclasses.replace(known, python=python))
    return files, pictures


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
@pytest.mark.parametrize("packed", [True, False])
def test_torchvisions_layout(tmp_path, monkeypatch, kind, packed):
    files, pictures = publish_pickles(kind, monkeypatch, train=1000, test=200)
    python = cifar.ARCHIVES[kind].python
    if packed:
        (tmp_path / python.archive).write_bytes(tar_of(files, python.folder))
        must_be(wrn.dataset(kind, root=tmp_path / python.archive), kind, pictures)  # itself, not its folder
    else:
        (tmp_path / python.folder).mkdir()
        for name, content in files.items():
            (tmp_path / python.folder / name).write_bytes(content)
    must_be(wrn.dataset(kind, root=tmp_path), kind, pictures)


def test_the_published_hashes_are_torchvisions():
    from torchvision.datasets import CIFAR10, CIFAR100

    for kind, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        python = cifar.ARCHIVES[kind].python
        assert dict(python.train) == dict(theirs.train_list)
        assert dict(python.test) == dict(theirs.test_list)
        assert dict(python.names) == {theirs.meta["filename"]: theirs.meta["md5"]}
        assert (python.folder, python.archive) == (theirs.base_folder, theirs.filename)


class Malice:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_no_pickle_is_opened_whose_hash_is_not_the_published_one(tmp_path, monkeypatch, run_wrn):
    files, _ = publish_pickles("cifar10", monkeypatch, train=1000, test=200)
    folder = tmp_path / cifar.ARCHIVES["cifar10"].python.folder
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "data_batch_3").write_bytes(pickle.dumps(Malice(tmp_path / "harm")))
    code, _, err = run_wrn("data", "prepare", "cifar10", "--root", tmp_path)
    assert code == 1
    assert "data_batch_3 is not the published file" in err
    assert not (tmp_path / "harm").exists()
    pickle.loads((folder / "data_batch_3").read_bytes())  # it would have
    assert (tmp_path / "harm").exists()


def test_an_empty_root_says_what_it_looked_for(tmp_path, run_wrn):
    code, _, err = run_wrn("data", "prepare", "cifar10", "--root", tmp_path)
    assert code == 1
    assert "holds neither cifar-10-batches-bin/ nor cifar-10-batches-py/" in err


def test_an_html_page_in_its_place_is_refused_and_not_kept(published, www, run_wrn, empty_cache):
    published("cifar10", train=10, test=10)
    (www.folder / cifar.ARCHIVES["cifar10"].remote.name).write_bytes(b"<html>moved</html>")
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "cifar10")
    assert code == 1
    assert "what came (an HTML page, 18 bytes) is not the right file" in err
    assert err.count("\n") == 1
    assert not list((empty_cache / "downloads").glob("*.gz*[!k]"))


def test_an_html_page_in_a_root_is_named_as_one(tmp_path, run_wrn):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"<!DOCTYPE html><html>not here</html>")
    code, _, err = run_wrn("data", "prepare", "cifar10", "--root", tmp_path)
    assert code == 1
    assert "an HTML page" in err


def test_without_a_network_it_says_what_to_put_where(published, www, run_wrn, empty_cache):
    published("cifar10", train=10, test=10)
    www.close()
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "cifar10")
    assert code == 1
    place = empty_cache / "downloads" / "cifar-10-binary.tar.gz"
    assert f"download the file by hand and put it at {place}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda files: files.pop("test_batch.bin"), "no test_batch.bin"),
        (lambda files: files.update({"data_batch_2.bin": b"\0" * 3072}), "bytes of records"),
        (lambda files: files.update({"test_batch.bin": b"\x0b" * 3073}), "a label 11"),
        (lambda files: files.update({"batches.meta.txt": b"cat dog"}), "2 class names"),
        (lambda files: files.update({"data_batch_1.bin": bytes(200_000_000)}), "larger than it can be"),
    ],
    ids=["missing", "short", "label", "names", "huge"],
)
def test_archives_that_are_not_what_they_should_be(published, spoil, says):
    published("cifar10", spoil=spoil, train=100, test=100)
    with pytest.raises(wrn.Error, match=says):
        wrn.dataset("cifar10")


def test_a_truncated_archive(tmp_path, run_wrn):
    files, _ = cifar_files("cifar10", 1000, 200)
    whole = tar_of(files, "cifar-10-batches-bin")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(whole[: len(whole) // 2])
    code, _, err = run_wrn("data", "prepare", "cifar10", "--root", tmp_path)
    assert (code, err.count("\n")) == (1, 1)
    assert "not what it should be" in err


def test_another_size_is_made_from_the_same_copy(published, www):
    published("cifar10", train=100, test=100)
    small = wrn.dataset("cifar10", image_size=16)
    assert small.train.images.shape == (100, 16, 16, 3)
    assert wrn.dataset("cifar10").train.images.shape == (100, 32, 32, 3)
    assert len(www.asked) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["cifar10", "--url", "http://127.0.0.1/a"], "--url: 1 given with 0 --sha256"),
        (["cifar10", "--url", "file:///etc/passwd", "--sha256", "0" * 64], "not an http(s) address"),
        (["cifar10", "--url", "http://127.0.0.1/a", "--sha256", "12"], "64 hexadecimal digits"),
        (["svhn", "--url", "http://127.0.0.1/a", "--sha256", "0" * 64], "one for each of train_32x32.mat, test_32"),
        (["digits", "--root", "."], "--root: digits is not had from there"),
        (["cifar10", "--val-fraction", "0.1"], "has a test split of its own"),
        (["birds"], "no such data set"),
    ],
)
def test_wrong_usage(run_wrn, words, says):
    code, _, err = run_wrn("data", "prepare", *words)
    assert code == 2
    assert says in err


def test_how_the_paper_trains_on_it():
    assert wrn.recipe("wrn-28-10", data="cifar10").lr_at(60) == 0.02
    assert wrn.recipe("wrn-28-10", data="cifar100").augment == "flip-crop"


def test_torchvisions_layout_as_a_user_would(tmp_path, monkeypatch, run_wrn):
    files, _ = publish_pickles("cifar100", monkeypatch, train=400, test=200)
    folder = tmp_path / "mine" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    code, out, err = run_wrn("data", "prepare", "cifar100", "--root", "mine")
    assert code == 0, err
    assert "cifar100: 400 + 200 images, 100 classes, ready" in out
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "cifar100", "--epochs", "1", "--preprocess", "unit")
    assert code == 0, err
    # The same at once, with the folder named again
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "cifar100", "--root", "mine", "--epochs", "1")
    assert code == 0, err
    assert "prepared from" not in out  # these are the published files
