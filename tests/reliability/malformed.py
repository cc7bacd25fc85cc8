"""150 malformed inputs, one after another in one process: `python -m tests.reliability.malformed FOLDER`.

Prints a line of JSON for each: the exit code, what was said, seconds of this process, bytes that the peak of its memory
grew by, and whether what lay there before still does.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import struct
import sys
import tarfile
import time
import traceback
import zipfile
from pathlib import Path

GARBAGE = {
    "empty": b"",
    "zeros": bytes(1000),
    "noise": random.Random(0).randbytes(3000),
    "text": b"Dear reader,\nthis is not what you expect.\n",
    "nested": b"[" * 100_000,
    "number": b"17",
    "list": b'[{"seed": 0}]',
    "no text": b'{"seed": 0, "recipe": "\xff\xfe"}',
    "null": b"null",
    "infinite": b'{"seed": Infinity, "recipe": {"epochs": NaN}}',
}


def tensors(header, data=b"", length=None):
    """A safetensors file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def model(**changes):
    """A file with a header of ours, sealed as ours are, that promises something else than it holds."""
    from wrn.files import seal_of

    header = {
        "model": "wrn-10-1",
        "depth_rule": None,
        "dropout": 0.0,
        "classes": ["a", "b"],
        "image_size": 32,
        "preprocess": {"mean": [0] * 3, "std": [1] * 3},
        "data": "digits",
        "val_fraction": 0.0,
        "data_fingerprint": "",
        "tensors": "",
    } | changes
    header["seal"] = seal_of(header)
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    return tensors({"__metadata__": {"wrn": json.dumps(header)}, "fc.bias": one}, bytes(4))


MODELS = {
    **GARBAGE,
    "header of 8 EB": tensors({}, length=1 << 62),
    "header past the end": tensors({}, length=5000),
    "tensor past the end": tensors({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, bytes(8)),
    "negative shape": tensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "other type": tensors({"a": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "overlapping": tensors(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("a", "b")}, bytes(4)
    ),
    "no header of ours": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "our header is no JSON": tensors({"__metadata__": {"wrn": "{"}}),
    "our header is nested": tensors({"__metadata__": {"wrn": "[" * 100_000}}),
    "our header is a list": tensors({"__metadata__": {"wrn": "[]"}}),
    "promises a giant": model(model="wrn-9994-9999"),
    "promises a wide one": model(model="wrn-10-9999"),
    "promises long blocks": model(model="wrn-3001-1-b" + "1" * 8000),
    "promises no network": model(model="../../etc/passwd"),
    "promises a number": model(model=5),
    "a billion classes": model(classes={"a": 1}),
    "classes of numbers": model(classes=[1, 2, 3]),
    "negative size": model(image_size=-5),
    "size of a house": model(image_size=1 << 40),
    "no mean": model(preprocess={}),
    "whitening elsewhere": model(preprocess={"whitening": "../../x"}),
    "half of a letter": model(classes=["\ud800", "b"]),
    "writes into the terminal": model(classes=["\x1b]0;mine\x07", "b"]),
    "four channels": model(preprocess={"mean": [0] * 4, "std": [1] * 4}),
    "dropout of 7": model(dropout=7),
    "only one tensor": model(),
}


def picture(kind, size=(8, 8), mode="RGB", **options):
    from PIL import Image

    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def png_of(width, height):
    """A PNG that says it is so large."""
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def pictures():
    png, jpeg = picture("PNG", (64, 64)), picture("JPEG", (64, 64))
    return {
        **{name: GARBAGE[name] for name in ("empty", "zeros", "noise", "text")},
        "PNG cut short": png[: len(png) // 2],
        "JPEG cut short": jpeg[: len(jpeg) // 3],
        "PNG of a terapixel": png_of(1 << 20, 1 << 20),
        "PNG of 100 megapixels": png_of(10_000, 10_000),
        "PNG of no width": png_of(0, 5),
        "PNG of a line": png_of(100_000, 1),
        "GIF cut short": picture("GIF", (64, 64), "P")[:40],
        "BMP cut short": picture("BMP", (64, 64))[:100],
        "TIFF cut short": picture("TIFF", (64, 64))[:60],
        "WEBP cut short": picture("WEBP", (64, 64))[:40],
        "PPM of a terapixel": b"P6 1000000 1000000 255\n" + bytes(100),
        "an icon": picture("ICO", (16, 16)),
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (w) file\n",
        "a program": b"\x7fELF" + bytes(200),
    }


class HardLink(str):
    """The name of a member that another one is to be."""


def long_named(size):
    """An archive whose one member has a name of so many bytes, packed."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, size
    file = io.BytesIO()
    with gzip.open(file, "wb", 1) as packed:
        packed.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size // 1_000_000):
            packed.write(b"a" * 1_000_000)
    return file.getvalue()


def tar_of(members, kind="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=kind) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, HardLink):
                member.type, member.linkname = tarfile.LNKTYPE, content
                archive.addfile(member)
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def archives():
    good = picture("PNG")
    whole = tar_of([(f"train/{name}/{n}.png", good) for name in "ab" for n in range(3)])
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("train/a/1.png", good)
    return {
        **GARBAGE,
        "cut short": whole[: len(whole) // 2],
        "flipped": whole[:60] + bytes([whole[60] ^ 255]) + whole[61:],
        "no pictures": tar_of([("readme.txt", b"hello")]),
        "names that climb": tar_of([("../../../tmp/wrn-escaped/train/a/1.png", good)]),
        "absolute names": tar_of([("/tmp/wrn-escaped/train/a/1.png", good)]),
        "links out": tar_of([("train/a/1.png", "/etc/passwd"), ("train/b/1.png", "/etc/hostname")]),
        "a zip": zipped.getvalue(),
        "a link to nothing": tar_of([("train/a/1.png", good), ("train/b/1.png", HardLink("train/a/none.png"))]),
        "a name of 200 MB": long_named(200_000_000),
        "a bad picture": tar_of([("train/a/1.png", b"no"), ("train/b/1.png", good), ("test/a/1.png", good)]),
    }


ARGUMENTS = [
    ["frobnicate"], ["train", "--nonsense"], ["train", "wrn-28-10"], ["train", "--data", "digits"],
    ["train", "wrn-27-10", "--data", "digits"], ["train", "wrn-28-0", "--data", "digits"],
    ["train", "wrn-28", "--data", "digits"], ["train", "wrn-99999999999-1", "--data", "digits"],
    ["train", "wrn-28-1" + "0" * 5000, "--data", "digits"], ["train", "wrn-40-2-b(9)", "--data", "digits"],
    ["train", "wrn-10-1", "--data", "nowhere"], ["train", "wrn-10-1", "--data", "folder:"],
    ["train", "wrn-10-1", "--data", "folder:/nonexistent"], ["train", "wrn-10-1", "--data", ""],
    ["train", "wrn-10-1", "--data", "x" * 100_000], ["train", "", "--data", "digits"],
    ["train", "wrn-10-1", "--data", "folder:\udcff\udcfe"], ["train", "wrn-10-1", "--data", "parquet:/nonexistent"],
    *(["train", "wrn-10-1", "--data", "digits", *words] for words in [
        ["--epochs", "0"], ["--epochs", "-3"], ["--epochs", "1.5"], ["--epochs", "many"], ["--epochs", "9" * 400],
        ["--lr", "nan"], ["--lr", "inf"], ["--lr", "-1"], ["--lr", "0"], ["--batch-size", "0"], ["--dropout", "1"],
        ["--dropout", "-0.1"], ["--milestones", "0"], ["--momentum", "1"], ["--weight-decay", "nan"], ["--pad", "-1"],
        ["--recipe", "best"], ["--device", "abacus"], ["--device", "cuda:77"], ["--precision", "fp4"],
        ["--seed", "one"], ["--keep-every", "0"], ["--checkpoint-every", "soon"], ["--checkpoint-every", "0m"],
        ["--val", "-1"], ["--val", "99999"], ["--labels", "0"], ["--augment", "magic"], ["--preprocess", "zzz"],
        ["--image-size", "1"], ["--image-size", "99999"], ["--workers", "0"], ["--memory", "none"],
        ["--root", "/nonexistent"], ["--teacher", "/nonexistent"], ["--out", "/dev/null/run"], ["--out", ""],
    ]),
    ["eval"], ["eval", "/nonexistent"], ["eval", "/dev/null"], ["eval", "/"], ["predict", "/nonexistent", "x.png"],
    ["info"], ["info", "wrn-28-10", "--num-classes", "0"], ["info", "wrn-28-10", "--image-size", "-5"],
    ["list", "everything"], ["reproduce", "table99"], ["reproduce", "table4", "--seeds", "0"],
    ["report", "/nonexistent"], ["report", "/dev/null", "--out", "page.html"], ["data", "info", "nothing"],
    ["data", "show", "digits", "--rows", "0"], ["bench", "speed"],
]  # fmt: skip

RUN_FILES = ("recipe.json", "env.json", "result.json", "metrics.jsonl")


def cases(root, run):
    """(what it is, words of the command, folder whose content must stay), made one by one below `root`."""
    for number, words in enumerate(ARGUMENTS):
        shutil.rmtree(root / "runs", ignore_errors=True)  # where those that should fail and do not would end
        yield f"argument {number}: {' '.join(words)[:60]}", words, run
    for name, content in MODELS.items():
        file = root / "model" / "model.safetensors"
        file.write_bytes(content)
        yield f"model: {name}", ["eval", file], file.parent
    for name, content in pictures().items():
        file = root / "picture"
        file.write_bytes(content)
        yield f"picture: {name}", ["predict", run, file], run
    for kind in ("folder", "parquet"):
        for name, content in archives().items():
            file = root / f"{kind}.tar.gz" if kind == "folder" else root / "data" / "train.parquet"
            file.write_bytes(content)
            words = ["train", "wrn-10-1", "--data", f"{kind}:{file}", "--epochs", "1", "--out", root / "out"]
            words += ["--val-fraction", "0.3"]
            yield f"{kind}: {name}", words, run
    flags = ["train", "wrn-10-1", "--data", "digits", "--epochs", "1", "--device", "cpu", "--labels", "96"]
    for file in RUN_FILES[:2]:
        for name, content in GARBAGE.items():
            damaged = copied(run, root / "run", keep_checkpoints=False)
            (damaged / "result.json").unlink()
            (damaged / file).write_bytes(content)
            yield f"{file}: {name}", [*flags, "--out", damaged], damaged
    for name, content in GARBAGE.items():
        damaged = copied(run, root / "run")
        (damaged / "result.json").write_bytes(content)
        yield f"result.json: {name}", ["eval", damaged], damaged
    for file in ("checkpoint.json", "tensors.safetensors"):
        for name, content in list(GARBAGE.items())[:5]:
            damaged = copied(run, root / "run")
            (damaged / "result.json").unlink()
            for path in damaged.glob("checkpoints/*"):
                (path / file).write_bytes(content)
            yield f"every {file}: {name}", [*flags, "--out", damaged], None  # they are set aside


def copied(run, to, keep_checkpoints=True):
    shutil.rmtree(to, ignore_errors=True)
    ignored = shutil.ignore_patterns() if keep_checkpoints else shutil.ignore_patterns("checkpoints")
    return Path(shutil.copytree(run, to, ignore=ignored))


def content_of(folder):
    """What lies in a folder, but for logs and locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("train.log", "lock")
    }


def peak_memory():
    """The most bytes that this process had since the peak was begun anew."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def main(root):
    import torch

    import wrn
    from wrn.cli import main as command

    run = root / "good"
    recipe = wrn.recipe("wrn-10-1", data="digits", epochs=1, labels=96)
    wrn.train(recipe, run, device="cpu", quiet=True)
    for folder in ("model", "data"):
        (root / folder).mkdir()
    wrn.load(run)  # what commands import late is not theirs to pay for
    os.chdir(root)
    torch.set_num_threads(1)
    for what, words, stays in cases(root, run):
        before = content_of(stays) if stays else None
        out, err = io.StringIO(), io.StringIO()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        clock, peak = time.process_time(), peak_memory()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = command([str(word) for word in words])
        except BaseException:
            code = traceback.format_exc()
        told = {
            "what": what,
            "code": code,
            "said": err.getvalue(),
            "seconds": time.process_time() - clock,
            "bytes": peak_memory() - peak,
            "kept": stays is None or content_of(stays) == before,
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
