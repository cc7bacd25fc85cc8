"""ImageNet as people have it: folders by class, or a flat val/ and the devkit; streamed by real worker processes."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import wrn
from tests.archives import imagenet_folder, imagenet_ids
from wrn.data import streaming
from wrn.data.streaming import Pictures, Streamed
from wrn.randomness import key

pytestmark = pytest.mark.usefixtures("empty_cache", "no_worker_survives")

DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH, META = f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", f"{DEVKIT}/data/meta.mat"
SMALL = ("--image-size", 32, "--batch-size", 250, "--workers", 2, "--device", "cpu", "--epochs", 1)


@pytest.fixture
def no_worker_survives():
    yield
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    root = tmp_path_factory.mktemp("by-class")
    imagenet_folder(root, train=2)
    return root


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    root = tmp_path_factory.mktemp("flat")
    imagenet_folder(root, flat=True)
    return root


def laid_out(target, source, *own):
    """A folder with what `source` has: links to it, except for the parts named, which may be spoilt."""
    target.mkdir()
    for part in source.iterdir():
        if part.name in own:
            shutil.copytree(part, target / part.name, copy_function=os.link)
        else:
            (target / part.name).symlink_to(part)
    return target


def written(path, content):
    """Another content for a file that may be a hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def pack(root):
    """The devkit as it is downloaded."""
    with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as archive:
        archive.add(root / DEVKIT, DEVKIT)
    shutil.rmtree(root / DEVKIT)


def recipe(**fields):
    return wrn.recipe("wrn-10-1", data="imagenet", epochs=1, **({"image_size": 16, "batch_size": 250} | fields))


def labels_of(pictures):
    """What the folders that the pictures lie in say, from their paths."""
    ids = imagenet_ids()
    return [ids.index(pictures.files.path(place).split("/")[1]) for place in range(len(pictures.files))]


def weights(run):
    return load_file(Path(run) / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_flat_val_with_the_devkit_as_a_user(flat, run_wrn, tmp_path):
    """Prepared once; trained, tested and asked without naming the folder again."""
    root = laid_out(tmp_path / "imagenet", flat, DEVKIT)
    pack(root)
    code, out, err = run_wrn("data", "prepare", "imagenet", "--root", root)
    assert (code, err) == (0, "")
    assert "1,000 + 1,000 images, 1000 classes, ready" in out
    assert "where ILSVRC 2012 has 1,281,167 + 50,000" in out
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "imagenet", *SMALL, "--out", "run")
    assert (code, err) == (0, "")
    run = wrn.Run(tmp_path / "run")
    kept = load_file(run.path / "predictions.safetensors")
    assert kept["labels"].tolist() == [index * 7 % 1000 for index in range(1000)]
    wrong = (kept["logits"].argmax(1) != kept["labels"]).sum().item()
    code, out, _ = run_wrn("eval", "run", "--json")
    assert code == 0
    assert json.loads(out)["wrong"] == wrong == round(run.result["test_error"] * 10)

    picture = root / "val" / "ILSVRC2012_val_00000124.JPEG"
    code, out, _ = run_wrn("predict", "run", picture, "--top", 1000, "--json")
    assert code == 0
    given = {each["class"]: each["probability"] for each in json.loads(out)[0]["classes"]}
    expected = kept["logits"][123].softmax(0).tolist()
    assert [given[name] for name in imagenet_ids()] == pytest.approx(expected, abs=1e-5)


def test_folders_by_class_as_a_user_with_validation_images(by_class, run_wrn, tmp_path):
    assert run_wrn("data", "prepare", "imagenet", "--root", by_class)[0] == 0
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "imagenet", *SMALL, "--val", 1000, "--out", "run")
    assert (code, err) == (0, "")
    result = wrn.Run(tmp_path / "run").result
    assert (result["train_images"], result["val_images"], result["test_images"]) == (1000, 1000, 1000)
    assert load_file(tmp_path / "run" / "predictions.safetensors")["labels"].tolist() == list(range(1000))
    assert wrn.Run(tmp_path / "run").recipe.preprocess == "meanstd"
    code, out, _ = run_wrn("data", "show", "imagenet", "--image-size", 32, "--rows", 2)
    assert (code, (tmp_path / "imagenet.png").exists()) == (0, True)
    code, out, _ = run_wrn("data", "info", "imagenet", "--json")
    assert (code, json.loads(out)["lies_in"]) == (0, str(by_class))


def test_labels_are_places_of_sorted_wordnet_ids(by_class):
    data = wrn.dataset("imagenet", root=by_class, image_size=16, workers=1)
    assert data.classes == tuple(sorted(path.name for path in (by_class / "train").iterdir()))
    assert data.train.labels.tolist() == labels_of(data.train.pictures) == [place // 2 for place in range(2000)]
    assert data.test.labels.tolist() == labels_of(data.test.pictures) == list(range(1000))
    # The pixels are those of the file: the builder wrote the label into them
    chosen = torch.tensor([7, 123, 254, 999])
    pixels, labels = data.test.pixels(chosen)
    assert torch.equal(labels, chosen)
    shades = torch.stack([chosen % 256, torch.zeros(4), chosen // 4 % 256], 1)[..., None, None]
    torch.testing.assert_close(pixels * 255, shades.expand(4, 3, 16, 16), atol=3, rtol=0)


@pytest.mark.parametrize("how", ["folder", "packed", "in the root"])
def test_the_devkit_says_what_a_flat_val_shows(flat, tmp_path, how):
    from scipy.io import loadmat

    rows = loadmat(flat / META)["synsets"][:, 0]  # here each value is an array of its own
    id_of = {row["ILSVRC2012_ID"].item(): row["WNID"].item() for row in rows}
    shown = [id_of[int(line)] for line in (flat / TRUTH).read_text().splitlines()]
    root = laid_out(tmp_path / "imagenet", flat, DEVKIT)
    if how == "packed":
        pack(root)
    if how == "in the root":
        (root / DEVKIT / "data").rename(root / "data")
    data = wrn.dataset("imagenet", root=root)
    assert [data.classes[label] for label in data.test.labels] == shown
    names = [Path(data.test.pictures.files.path(place)).name for place in range(1000)]
    assert names == [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 1001)]
    assert data.fingerprint == wrn.dataset("imagenet", root=flat).fingerprint


def test_batches_depend_on_neither_workers_nor_where_they_begin(flat):
    given = {}
    for workers in (1, 2):
        train = wrn.dataset("imagenet", root=flat, image_size=16, workers=workers).train
        torch.manual_seed(workers)
        given[workers] = []
        for step, batch in enumerate(train.batches(recipe(), seed=3, epoch=2)):
            assert torch.initial_seed() == key(3, 2, step, "dropout")
            given[workers].append(batch)
    assert [len(labels) for _, labels in given[1]] == [250] * 4
    train = wrn.dataset("imagenet", image_size=16, workers=4).train  # more than there are cores, without a warning
    late = list(train.batches(recipe(), seed=3, epoch=2, start=2))
    assert torch.initial_seed() == key(3, 2, 3, "dropout")
    for found, expected in ((given[2], given[1]), (late, given[1][2:])):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    images = given[1][0][0]
    assert (images.shape, images.dtype) == ((250, 3, 16, 16), torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert sorted(torch.cat([labels for _, labels in given[1]]).tolist()) == list(range(1000))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(flat, workers):
    """However far the workers are ahead: they write to the same memory again and again."""
    split = wrn.dataset("imagenet", root=flat, image_size=16, workers=workers).test
    places = torch.arange(150)
    expected, _ = split.pixels(places)
    sizes = [5] * 20 + [10] * 5  # rooms may have to grow
    for images, shown in split._made(
        [streaming._Task(place) for place in part.tolist()] for part in places.split(sizes)
    ):
        time.sleep(0.02)
        torch.testing.assert_close(images / 255, expected[shown], rtol=0, atol=0)


def test_augmentation_depends_on_seed_epoch_and_place_alone(flat, monkeypatch):
    monkeypatch.setattr("wrn.data.streaming.order_of", lambda count, seed, epoch: torch.arange(count).flip(0))
    train = wrn.dataset("imagenet", root=flat, image_size=16, workers=2).train

    def batch(seed=0, epoch=1, start=0, batch_size=40, **fields):
        batches = train.batches(recipe(batch_size=batch_size, **fields), seed=seed, epoch=epoch, start=start)
        images, labels = next(batches)
        assert labels.tolist() == [999 - start * batch_size - place for place in range(batch_size)]
        return images

    once = batch()
    assert torch.equal(batch(batch_size=10, start=1), once[10:20])
    plain = batch(augment="none")
    for other in (batch(seed=1), batch(epoch=2), plain):
        assert ((once - other).abs().amax((1, 2, 3)) > 0).all()
    assert (once.std(0) > 0).all()
    pixels, labels = train.pixels(torch.tensor([999, 997]))
    torch.testing.assert_close(train.preprocess(pixels * 255), plain[[0, 2]])
    assert labels.tolist() == [999, 997]
    last = list(train.in_order(300))[-1][0]
    assert torch.equal(last[60:], plain.flip(0))


def test_held_out_few_and_wrong_labels(by_class):
    data = wrn.dataset("imagenet", root=by_class, val=1000, label_noise=0.1, seed=2)
    train, val = ({split.pictures.files.path(place) for place in range(len(split))} for split in (data.train, data.val))
    assert (len(train), len(val), train & val) == (1000, 1000, set())
    assert data.val.labels.tolist() == labels_of(data.val.pictures) == list(range(1000))
    true = torch.tensor(labels_of(data.train.pictures))
    assert (data.train.labels != true).sum() == 100
    few = wrn.dataset("imagenet", labels=1000, seed=2)
    assert few.train.labels.tolist() == labels_of(few.train.pictures) == list(range(1000))
    assert few.val is None
    with pytest.raises(ValueError, match="--val 2000: takes 2 images of each of 1000 classes"):
        wrn.dataset("imagenet", val=2000)


def test_unit_preprocessing(flat):
    data = wrn.dataset("imagenet", root=flat, preprocess="unit", image_size=16, workers=1)
    part = torch.tensor([3])
    images, _ = next(data.test.in_order(4))
    torch.testing.assert_close(images[part], data.test.pixels(part)[0])


@pytest.fixture(scope="module")
def whole(flat, tmp_path_factory):
    """A run that nobody interrupted."""
    run = wrn.train(recipe(), tmp_path_factory.mktemp("runs") / "whole", device="cpu", root=flat, workers=2, quiet=True)
    return weights(run.path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker cannot tell who sent SIGTERM")
def test_sigterm_to_every_process_stops_none_of_the_workers(flat, tmp_path, monkeypatch):
    """As `timeout` and schedulers send it. The step is finished and saved; the test below continues."""
    real = Streamed.batches

    def batches(self, recipe, *, start=0, **how):
        for step, batch in enumerate(real(self, recipe, start=start, **how), start):
            if step == 1:
                every = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
                assert len(every) == 3
                subprocess.run(["kill", "-TERM", *map(str, every)], check=True)
            yield batch

    monkeypatch.setattr(Streamed, "batches", batches)
    with pytest.raises(KeyboardInterrupt) as stop:
        wrn.train(recipe(), tmp_path / "run", root=flat, device="cpu", workers=2, quiet=True)
    assert stop.value.exit_code == 143
    del stop  # it holds the frames that hold the workers
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-0000-step-000002"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_in_the_middle_of_an_epoch_and_continued_to_the_same_bits(flat, whole, tmp_path, start):
    """A real process, and the signal to all of its group, as a terminal sends it."""
    command = ["train", "wrn-10-1", "--data", "imagenet", "--root", str(flat), "--out", str(tmp_path / "run")]
    for option in ("--epochs 1", "--image-size 16", "--batch-size 250", "--workers 2", "--device cpu"):
        command += option.split()
    told = f"""
import sys, time
from wrn.data.streaming import Streamed
real = Streamed.batches
def batches(self, *a, **k):
    for batch in real(self, *a, **k):
        print("a batch", flush=True)
        time.sleep(0.3)
        yield batch
Streamed.batches = batches
from wrn.cli import main
sys.exit(main({command!r}))
"""
    process = start(sys.executable, "-c", told, start_new_session=True)
    for line in process.stdout:
        if line == "a batch\n":
            break
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, ""), out
    assert re.search(r"interrupted in epoch 1 after step [123] of 4, saved; the same command continues", out)
    with pytest.raises(ProcessLookupError):  # none of its group is left
        os.killpg(process.pid, 0)
    wrn.train(recipe(), tmp_path / "run", root=flat, device="cpu", workers=2, quiet=True)
    assert same(weights(tmp_path / "run"), whole)


def test_a_broken_picture_ends_training_with_its_name(flat, run_wrn, tmp_path):
    root = laid_out(tmp_path / "imagenet", flat, "train")
    path = next((root / "train" / imagenet_ids()[500]).iterdir())
    good = path.read_bytes()
    assert run_wrn("data", "prepare", "imagenet", "--root", root)[0] == 0
    written(path, good[: len(good) // 2])
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "imagenet", *SMALL, "--out", "run")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"wrn: error: {path}: cannot be decoded (")
    assert f"replace it, or remove it and run wrn data prepare imagenet --root {root}" in err
    assert multiprocessing.active_children() == []
    assert err.removeprefix("wrn: ") in (tmp_path / "run" / "train.log").read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file or directory; replace it"),
        (b"", "is empty; replace it"),
        (b"<html>moved</html>", "is no picture (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP are read); replace it"),
        (b"%!PS-Adobe-3.0", "is no picture (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP are read); replace it"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "is no picture (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP are read); replace it"),
    ],
    ids=["gone", "empty", "html", "postscript", "damaged"],
)
def test_pictures_that_are_none(flat, tmp_path, content, says):
    root = laid_out(tmp_path / "imagenet", flat, "train")
    data = wrn.dataset("imagenet", root=root, image_size=16, workers=1)
    path = root / data.train.pictures.files.path(3)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(wrn.Error) as error:
        data.train.pixels(torch.tensor([2, 3, 4]))
    assert str(error.value).startswith(f"{path}: {says}")


def test_pictures_of_every_kind_that_imagenet_has(flat, tmp_path):
    """Grey, CMYK, a PNG that is called JPEG, and EXIF data that Pillow warns of."""
    root = laid_out(tmp_path / "imagenet", flat, "train")
    data = wrn.dataset("imagenet", root=root, image_size=16, workers=1)
    colour = Image.new("RGB", (30, 20), (120, 120, 120))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\x1a\x01\x05\0\x01\0\0\0\xff\xff\0\0" * 2
    for place, (image, kind, options) in enumerate(
        [
            (colour.convert("L"), "JPEG", {}),
            (colour.convert("CMYK"), "JPEG", {}),
            (colour, "PNG", {}),
            (colour, "JPEG", {"exif": exif}),
        ]
    ):
        path = root / data.train.pictures.files.path(place)
        path.unlink()
        image.save(path, kind, **options)
    with pytest.warns(UserWarning), Image.open(path):
        pass
    pixels, _ = data.train.pixels(torch.arange(4))
    torch.testing.assert_close(pixels * 255, torch.full((4, 3, 16, 16), 120.0), atol=3, rtol=0)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_worker_that_is_killed_is_one_line(flat, monkeypatch):
    real = Pictures._make

    def killed(self, task, square):
        if task.place == 600:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, task, square)

    data = wrn.dataset("imagenet", root=flat, image_size=16, workers=2)
    where = re.escape(data.test.pictures.path(600))
    monkeypatch.setattr(Pictures, "_make", killed)
    with pytest.raises(
        wrn.Error, match=rf"^decoding: worker process \d+ of 2 was killed at {where}, as the system .*; lower --workers"
    ):
        data.test.pixels(torch.arange(590, 610))  # torch raises wherever we are, and here we only wait


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_worker_that_hangs_is_one_line(flat, monkeypatch):
    """As when a file server is gone."""
    real = Pictures._make

    def hanging(self, task, square):
        if task.place == 600:
            time.sleep(600)
        return real(self, task, square)

    data = wrn.dataset("imagenet", root=flat, image_size=16, workers=2)
    where = re.escape(data.test.pictures.path(600))
    monkeypatch.setattr(Pictures, "_make", hanging)
    monkeypatch.setattr(streaming, "PATIENCE", 5.0)
    with pytest.raises(wrn.Error, match=rf"^decoding: no batch came for 5 s \(process \d+ at {where}\); see if"):
        data.test.pixels(torch.tensor([600]))  # one picture, so that no other worker is at work
    for worker in multiprocessing.active_children():
        worker.join(10)  # torch 2.11 tells a worker to end, and does not wait
    assert multiprocessing.active_children() == []


def test_a_root_that_moved(flat, tmp_path, run_wrn):
    root = laid_out(tmp_path / "here", flat)
    before = wrn.dataset("imagenet", root=root).fingerprint
    root.rename(tmp_path / "there")
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "imagenet", "--out", "run")
    assert (code, err) == (
        1,
        f"wrn: error: imagenet: {root} is gone; run wrn data prepare imagenet --root FOLDER with where it is now\n",
    )
    assert wrn.dataset("imagenet", root=tmp_path / "there").fingerprint == before
    assert wrn.dataset("imagenet").train.pictures.root == str(tmp_path / "there")


def test_preparing_again_sees_what_changed_and_a_wrong_root_loses_nothing(flat, tmp_path, run_wrn):
    root = laid_out(tmp_path / "imagenet", flat, "train")
    before = wrn.dataset("imagenet", root=root)
    assert run_wrn("data", "prepare", "imagenet", "--root", tmp_path)[0] == 1
    path = root / before.train.pictures.files.path(0)
    shutil.copy(path, path.with_name("another.JPEG"))
    assert wrn.dataset("imagenet").fingerprint == before.fingerprint  # listed once
    code, out, _ = run_wrn("data", "prepare", "imagenet", "--root", root)
    assert (code, "1,001 + 1,000 images" in out) == (0, True)
    assert wrn.dataset("imagenet").fingerprint != before.fingerprint


def test_not_prepared(run_wrn):
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "imagenet")
    assert (code, err.count("\n")) == (1, 1)
    assert "not prepared, and it cannot be downloaded" in err
    assert "run wrn data prepare imagenet --root FOLDER" in err


def remove(part):
    return lambda root: shutil.rmtree(root / part)


def empty(part):
    def spoil(root):
        for path in (root / part).iterdir():
            path.unlink()

    return spoil


def rename(part, name):
    return lambda root: (root / part).rename((root / part).with_name(name))


def edit(part, change):
    return lambda root: written(root / part, change((root / part).read_bytes()))


def cut_archive(root):
    pack(root)
    path = root / f"{DEVKIT}.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])


IDS = imagenet_ids()


@pytest.mark.parametrize(
    ("layout", "own", "spoil", "says"),
    [
        ("by_class", "train", remove(f"train/{IDS[3]}"), "train has 999 folders named by a WordNet id, not 1,000"),
        ("by_class", "train", rename(f"train/{IDS[3]}", "n99999999"), f"val has a class {IDS[3]} that train/ lacks"),
        ("by_class", "train", empty(f"train/{IDS[3]}"), f"train/{IDS[3]} holds no pictures; complete it"),
        ("by_class", "val", remove(f"val/{IDS[999]}"), f"val lacks the class {IDS[999]} that train/ has; complete it"),
        ("flat", "", lambda root: (root / "val").unlink(), "val is not there; --root must be the folder of train/ and"),
        ("flat", "val", empty("val"), "val holds neither class folders nor ILSVRC2012_val_*.JPEG; complete it"),
        ("flat", DEVKIT, remove(DEVKIT), "val/ is not divided into classes, and neither ILSVRC2012_devkit_t12/ nor"),
        ("flat", "train", rename(f"train/{IDS[3]}", "n99999999"), f"shows {IDS[3]}, which train/ lacks"),
        ("flat", DEVKIT, edit(TRUTH, lambda text: text[:400]), "does not say what val/ILSVRC2012_val_000001"),
        ("flat", DEVKIT, edit(TRUTH, lambda text: b"9999\n" + text), "val_00000001.JPEG shows class 9999"),
        ("flat", DEVKIT, edit(TRUTH, lambda text: b"<html>"), "cannot be read (invalid literal"),
        ("flat", DEVKIT, edit(META, lambda content: content[:300]), "the devkit in"),
        ("flat", DEVKIT, edit(META, lambda content: content[:200] + content[220:]), "the devkit in"),
        ("flat", DEVKIT, edit(META, lambda content: b"<html>" * 100), "the devkit in"),
        ("flat", DEVKIT, lambda root: (root / META).unlink(), "the devkit in"),
        ("flat", DEVKIT, cut_archive, "the devkit in"),
    ],
)  # fmt: skip
def test_folders_that_are_not_what_they_should_be(request, tmp_path, run_wrn, layout, own, spoil, says):
    root = laid_out(tmp_path / "imagenet", request.getfixturevalue(layout), own)
    spoil(root)
    code, _, err = run_wrn("data", "prepare", "imagenet", "--root", root)
    assert (code, err.count("\n")) == (1, 1)
    assert says in err
    assert str(root) in err or "val/ILSVRC2012_val" in err


@pytest.mark.parametrize("kind", ["nothing", "file", "train"])
def test_roots_that_are_none(flat, tmp_path, run_wrn, kind):
    (tmp_path / "file").write_text("")
    root = {"nothing": tmp_path / "nothing", "file": tmp_path / "file", "train": flat / "train"}[kind]
    code, _, err = run_wrn("data", "prepare", "imagenet", "--root", root)
    wrong = f"imagenet: {root / 'train'} is not there; --root must be the folder of train/ and val/"
    assert (code, err) == (1, f"wrn: error: {wrong}\n")


def test_strangers_among_the_folders_do_not_matter(by_class, flat, tmp_path):
    for source in (by_class, flat):
        root = laid_out(tmp_path / source.name, source, "val")
        for name in (".cache", "notes"):
            (root / "val" / name).mkdir()
        (root / "val" / "._ILSVRC2012_val_00000001.JPEG").write_bytes(b"of a Mac")
        assert len(wrn.dataset("imagenet", root=root).test) == 1000


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "wrn-10-1", "--data", "imagenet", "--preprocess", "zca"], "take meanstd or unit"),
        (["train", "wrn-10-1", "--data", "imagenet", "--preprocess", "meanstd-own"], "take meanstd or unit"),
        (["train", "wrn-10-1", "--data", "imagenet", "--augment", "flip-crop"], "take imagenet or none"),
        (["train", "wrn-10-1", "--data", "imagenet", "--augment", "v1"], "take imagenet or none"),
        (["train", "wrn-10-1", "--data", "digits", "--augment", "imagenet"], "take flip-crop or v1 or none"),
        (["train", "wrn-10-1", "--data", "imagenet", "--workers", "0"], "must be at least 1"),
        (["data", "prepare", "imagenet", "--val-fraction", "0.1"], "has a test split of its own"),
        (["data", "prepare", "imagenet", "--url", "http://127.0.0.1/a", "--sha256", "0" * 64], "is not had from there"),
    ],
)  # fmt: skip
def test_wrong_usage(run_wrn, words, says):
    code, _, err = run_wrn(*words)
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


def test_paths_of_a_part_are_those_of_the_whole():
    from wrn.data.paths import Files

    names = ["train/a/ä b.JPEG", "x", "train/b/2.JPEG", "train/b/3.JPEG"]
    files = Files.of(np.frombuffer("\0".join(names).encode(), np.uint8), np.arange(4))
    part = files.part(np.array([3, 0]), np.array([7, 8])).part(np.array([1]), np.array([9]))
    assert [files.path(place) for place in range(4)] == names
    assert ([part.path(0)], part.labels.tolist(), len(part)) == (names[:1], [9], 1)
