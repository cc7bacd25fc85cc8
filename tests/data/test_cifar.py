"""CIFAR's binary archives in their real format and size, served by a real HTTP server on loopback."""

import dataclasses
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pytest
import torch

import wrn
from wrn.data import cifar


def archive_of(kind, seed=0, spoil=None):
    """An archive as the official one is laid out; ten different pictures repeated, so that it packs quickly."""
    known = cifar.ARCHIVES[kind]
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, (10, 3072), np.uint8)

    def records(count):
        content = np.empty((count, known.label_bytes + 3072), np.uint8)
        content[:, : known.label_bytes] = np.arange(count)[:, None] % known.classes
        content[:, known.label_bytes :] = pictures[np.arange(count) % 10]
        return content.tobytes()

    share = known.train_images // len(known.train)
    files = {name: records(share) for name in known.train} | {known.test: records(known.test_images)}
    files[known.names] = "\n".join(f"thing{number}" for number in range(known.classes)).encode() + b"\n\n"
    if spoil:
        spoil(files)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{known.folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue(), pictures


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """serve(kind, content, published) puts `content` behind a URL; returns the list of requests made."""
    folder = tmp_path / "www"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WRN_CACHE_DIR", str(tmp_path / "cache"))

    def call(kind, content, published=None):
        name = cifar.ARCHIVES[kind].url.rsplit("/", 1)[-1]
        if content is not None:
            (folder / name).write_bytes(content)
        there = dataclasses.replace(
            cifar.ARCHIVES[kind],
            url=f"http://127.0.0.1:{server.server_port}/{name}",
            md5=hashlib.md5(content if published is None else published).hexdigest(),
        )
        monkeypatch.setitem(cifar.ARCHIVES, kind, there)
        return asked

    yield call
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_download_parse_and_cache(serve, kind):
    content, pictures = archive_of(kind)
    asked = serve(kind, content)
    data = wrn.dataset(kind)
    classes = cifar.ARCHIVES[kind].classes
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert data.classes == tuple(f"thing{number}" for number in range(classes))
    assert torch.bincount(data.train.labels).tolist() == [50_000 // classes] * classes
    red_of_first = data.train.images[0, :, :, 0].numpy()
    np.testing.assert_array_equal(red_of_first, pictures[0, :1024].reshape(32, 32))
    np.testing.assert_array_equal(data.test.images[3, :, :, 2].numpy(), pictures[3, 2048:].reshape(32, 32))
    assert data.preprocess.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert data.preprocess.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7])
    assert wrn.dataset(kind).fingerprint == data.fingerprint
    assert len(asked) == 1


def test_an_html_page_in_its_place_is_refused_and_not_kept(serve, run_wrn, tmp_path):
    serve("cifar10", b"<html>moved</html>", published=b"the real one")
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "cifar10")
    assert code == 1
    assert "is not the published file" in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "cache" / "downloads").iterdir())


def test_without_a_network_it_says_what_to_put_where(serve, run_wrn):
    content, _ = archive_of("cifar10")
    serve("cifar10", None, published=content)
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "cifar10")
    assert code == 1
    assert "download it by hand and put it at" in err


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda files: files.pop("test_batch.bin"), "no test_batch.bin"),
        (lambda files: files.update({"data_batch_2.bin": b"\0" * 3073}), "bytes of records"),
        (lambda files: files.update({"test_batch.bin": b"\x0b" * 3073 * 10_000}), "a label 11"),
        (lambda files: files.update({"batches.meta.txt": b"cat dog"}), "2 class names"),
    ],
    ids=["missing", "short", "label", "names"],
)
def test_archives_that_are_not_what_they_should_be(serve, spoil, says):
    serve("cifar10", archive_of("cifar10", spoil=spoil)[0])
    with pytest.raises(wrn.Error, match=says):
        wrn.dataset("cifar10")


def test_the_contracts_example():
    assert wrn.recipe("wrn-28-10", data="cifar10").lr_at(60) == 0.02
    assert wrn.recipe("wrn-28-10", data="cifar100").augment == "flip-crop"
