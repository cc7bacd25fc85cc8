"""Archives and folders in the real formats of the paper's data sets, small, with known content."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from wrn.data import cifar


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cifar_files(kind, train=50_000, test=10_000, seed=0):
    """{file of the binary archive: content}, and the ten pictures (10, 3072) that its images repeat."""
    known = cifar.ARCHIVES[kind]
    pictures = np.random.default_rng(seed).integers(0, 256, (10, 3072), np.uint8)

    def records(count):
        content = np.empty((count, known.label_bytes + 3072), np.uint8)
        content[:, : known.label_bytes] = np.arange(count)[:, None] % known.classes
        content[:, known.label_bytes :] = pictures[np.arange(count) % 10]
        return content.tobytes()

    files = {name: records(train // len(known.train)) for name in known.train} | {known.test: records(test)}
    files[known.names] = "\n".join(f"thing{number}" for number in range(known.classes)).encode() + b"\n\n"
    return files, pictures


def tar_of(files, folder):
    """A .tar.gz of {name: content} below `folder`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar_archive(kind, path: Path, train=50_000, test=10_000, seed=0, spoil=None):
    """Write the binary archive; returns the ten pictures."""
    files, pictures = cifar_files(kind, train, test, seed)
    if spoil:
        spoil(files)
    path.write_bytes(tar_of(files, cifar.ARCHIVES[kind].folder))
    return pictures


def cifar_pickles(kind, train=50_000, test=10_000, seed=0):
    """{file of torchvision's folder: pickled content}, as the archive for Python has it."""
    known = cifar.ARCHIVES[kind]
    pictures = np.random.default_rng(seed).integers(0, 256, (10, 3072), np.uint8)

    def batch(count):
        labels = (np.arange(count) % known.classes).tolist()
        return pickle.dumps({"data": pictures[np.arange(count) % 10], known.python.labels_key: labels}, protocol=2)

    files = {name: batch(train // len(known.python.train)) for name in known.python.train}
    files |= {name: batch(test) for name in known.python.test}
    names = {known.python.names_key: [f"thing{number}" for number in range(known.classes)]}
    return files | {name: pickle.dumps(names, protocol=2) for name in known.python.names}, pictures


def svhn_file(path: Path, count: int, seed=0, **changes):
    """Write a cropped-digits .mat; returns X (32, 32, 3, N) and y (N, 1) in 1..10. A change of None leaves one out."""
    from scipy.io import savemat

    draws = np.random.default_rng(seed)
    content = {
        "X": changes["X"] if "X" in changes else draws.integers(0, 256, (32, 32, 3, count), np.uint8),
        "y": (np.arange(count)[:, None] % 10 + 1).astype(np.uint8),
    } | changes
    savemat(path, {name: value for name, value in content.items() if value is not None}, do_compression=True)
    return content["X"], content["y"]


def imagenet_ids(count=1000):
    return [f"n{1440764 + 37 * number:08}" for number in range(count)]


def imagenet_folder(root: Path, classes=1000, train=1, val=1, size=40, flat=False):
    """train/<id>/*.JPEG and val/<id>/*.JPEG, or val/ flat with the devkit beside it; returns the ids in order.

    Flat, picture number i (from 1) shows class (i - 1) * 7 % classes.
    """
    from PIL import Image
    from scipy.io import savemat

    ids = imagenet_ids(classes)

    def picture(path: Path, label: int, number: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = (label % 256, number * 40 % 256, label // 4 % 256)
        Image.new("RGB", (size + number % 3, size), shade).save(path, "JPEG")

    for label, name in enumerate(ids):
        for number in range(train):
            picture(root / "train" / name / f"{name}_{number}.JPEG", label, number)
        for number in range(0 if flat else val):
            picture(root / "val" / name / f"ILSVRC2012_val_{label * val + number + 1:08}.JPEG", label, number)
    if flat:
        labels = [index * 7 % classes for index in range(classes * val)]
        for index, label in enumerate(labels):
            picture(root / "val" / f"ILSVRC2012_val_{index + 1:08}.JPEG", label, index)
        # Its class numbers are in an order of their own, and inner nodes of WordNet follow the leaves
        order = np.random.default_rng(0).permutation(classes).tolist()
        fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
        kinds = [(name, "O") for name in (*fields, "num_train_images")]
        none = np.empty(0, np.uint8)
        rows = [
            (number, ids[label], f"thing {label}", "a thing", 0, none, 0, 1300) for number, label in enumerate(order, 1)
        ]
        rows += [(classes + 1, "n00001740", "entity", "that which is", 2, np.array([1.0, 2.0]), 1, 0)]
        data = root / "ILSVRC2012_devkit_t12" / "data"
        data.mkdir(parents=True)
        savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=kinds).reshape(-1, 1)}, do_compression=True)
        truth = "".join(f"{order.index(label) + 1}\n" for label in labels)
        (data / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    return ids
