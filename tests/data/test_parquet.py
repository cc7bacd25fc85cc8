"""`parquet:PATH`: what it reads of the hub's layouts, and what it refuses before training starts."""

import importlib.util
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wrn.data import parquet
from wrn.data.arrays import Request
from wrn.errors import Error, MissingError, UsageError

NAMES = ["cat", "dog", "emu"]
LABELS = [0, 1, 2, 0, 1, 2]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def pixels(number):
    """The picture of that number: noise, (32, 32, 3)."""
    return np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    path: Path,
    labels=LABELS,
    *,
    first=0,
    image="image",
    label="label",
    names=NAMES,
    contents=None,
    label_type=None,
    image_type=STRUCT,
    more=None,
    **options,
):
    """A file as `datasets` writes it, its pictures numbered from `first`."""
    contents = [png(first + row) for row in range(len(labels))] if contents is None else contents
    if image_type == STRUCT:
        contents = [content and {"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)]
    columns = {image: pa.array(contents, image_type), label: pa.array(labels, label_type), **(more or {})}
    table = pa.table(columns)
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def read(path, image_size=32, val_fraction=0.0):
    return parquet.read(f"parquet:{path}", Request(image_size=image_size, val_fraction=val_fraction))


def decode(path, **settings):
    return read(path, **settings).decode(2, lambda *a: None)


def check(split, numbers, labels):
    """That the split holds exactly these pictures, in this order, with these labels."""
    assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(split.images, np.stack([pixels(number) for number in numbers]))
    assert split.labels.tolist() == list(labels)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001-abc.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
        ("train.parquet", "test.parquet"),
        ("train/0000.parquet", "test/0000.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("a/b/Training_1.PARQUET", "a/b/testing/x.parquet"),
    ],
)
def test_layouts_of_the_hub(tmp_path, train, test):
    root = tmp_path / "set"
    write(root / train)
    write(root / test, [2, 0], first=100)
    source = read(root)
    assert (source.remarks, source.image_size, source.origin) == ([], 32, None)
    told = []
    data = source.decode(2, lambda *words: told.append(words))
    check(data.train, range(6), LABELS)
    check(data.test, [100, 101], [2, 0])
    assert data.classes == tuple(NAMES)
    assert told[-1] == ("decoding set", 8, 8)


def test_several_files_row_groups_and_batches_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH", 4)
    write(tmp_path / "data" / "train-00001-of-00003.parquet", [1] * 9, first=10, row_group_size=2)
    write(tmp_path / "data" / "train-00000-of-00003.parquet", [0] * 10, row_group_size=7)
    write(tmp_path / "data" / "train-00002-of-00003.parquet", [], image_type=STRUCT, label_type=pa.int64())
    write(tmp_path / "data" / "test-00000-of-00001.parquet", [1], first=100)
    data = decode(tmp_path)
    check(data.train, range(19), [0] * 10 + [1] * 9)
    check(data.test, [100], [1])


def test_cifar100_takes_the_fine_label(tmp_path):
    more = {"coarse_label": pa.array([0] * 6)}
    for split in ("train", "test"):
        write(tmp_path / "cifar100" / f"{split}.parquet", image="img", label="fine_label", more=more)
    source = read(tmp_path)
    assert source.remarks == [f"parquet:{tmp_path}: labels are fine_label; coarse_label is left out"]
    assert source.decode(2, lambda *a: None).classes == tuple(NAMES)


def test_extra_is_left_out_and_said(tmp_path):
    for number, split in enumerate(("train", "test", "extra")):
        write(tmp_path / f"{split}-00000-of-00001.parquet", first=100 * number)
    write(tmp_path / "misc" / "other.parquet")
    source = read(tmp_path)
    what = f"parquet:{tmp_path}: left out 1 file"
    assert source.remarks == [
        f"{what} of the extra split, such as extra-00000-of-00001.parquet",
        f"{what} whose split no name tells, such as misc/other.parquet",
    ]
    data = source.decode(2, lambda *a: None)
    check(data.train, range(6), LABELS)
    check(data.test, range(100, 106), LABELS)


@pytest.mark.parametrize("name", ["validation-00000-of-00001", "valid", "val_0", "val/0000"])
def test_validation_stands_in_for_a_missing_test_split_only(tmp_path, name):
    write(tmp_path / "train.parquet")
    write(tmp_path / f"{name}.parquet", first=100)
    source = read(tmp_path)
    assert source.remarks == [f"parquet:{tmp_path}: has no test split; its validation split is used as one"]
    check(source.decode(2, lambda *a: None).test, range(100, 106), LABELS)
    write(tmp_path / "test.parquet", first=200)
    source = read(tmp_path)
    assert [remark.partition(": ")[2] for remark in source.remarks] == [
        f"left out 1 file of the validation split, as there is a test split, such as {name}.parquet"
    ]
    check(source.decode(2, lambda *a: None).test, range(200, 206), LABELS)


def test_names_that_only_begin_like_a_split_tell_none(tmp_path):
    write(tmp_path / "train" / "values.parquet")
    write(tmp_path / "test" / "trains.parquet", first=100)
    write(tmp_path / "test" / "extract.parquet", first=50)
    check(decode(tmp_path).test, [*range(50, 56), *range(100, 106)], LABELS * 2)


def test_test_files_alone_are_good_for_evaluation(tmp_path):
    write(tmp_path / "test.parquet")
    data = decode(tmp_path)
    assert data.train.images.shape == (0, 32, 32, 3)
    check(data.test, range(6), LABELS)


def test_sizes_formats_and_modes(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.tile(pixels(0), (2, 2, 1))).save(buffer, "JPEG")
    jpeg = np.asarray(Image.open(io.BytesIO(buffer.getvalue())))
    grey = io.BytesIO()
    Image.fromarray(pixels(1)[..., 0]).resize((64, 64), Image.Resampling.NEAREST).save(grey, "PNG")
    write(tmp_path / "train.parquet", [0, 1], contents=[buffer.getvalue(), grey.getvalue()])
    write(tmp_path / "test.parquet", [0, 1], first=100)
    data = decode(tmp_path, image_size=64)
    np.testing.assert_array_equal(data.train.images[0], jpeg)
    np.testing.assert_array_equal(data.train.images[1], pixels(1)[..., :1].repeat(2, 0).repeat(2, 1).repeat(3, 2))
    assert data.test.images.shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"image": "picture"},
        {"image": "picture", "image_type": pa.binary()},
        {"image_type": pa.large_binary()},
        {"image": "img", "more": {"thumbnail": pa.array([b"x"] * 6)}},
        {"more": {"img": pa.array([{"bytes": b"x"}] * 6), "label.x": pa.array([None] * 6)}},
        {"label": "labels", "label_type": pa.uint8()},
        {"more": {"labels": pa.array([[1]] * 6), "fine_label": pa.array([0] * 6), "coarse_label": pa.array([0] * 6)}},
        {"compression": "zstd", "use_dictionary": False, "data_page_size": 100},
    ],
)
def test_columns_are_found(tmp_path, options):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", **options)
    source = read(tmp_path)
    assert source.remarks == []
    check(source.decode(2, lambda *a: None).train, range(6), LABELS)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_labels_that_are_strings(tmp_path, kind):
    write(tmp_path / "train.parquet", ["emu", "cat", "ox"], label_type=kind, names=None)
    write(tmp_path / "test.parquet", ["ox", "ox"], label_type=kind, names=None)
    data = decode(tmp_path)
    assert data.classes == ("cat", "emu", "ox")
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 2], [2, 2])


@pytest.mark.parametrize("names", [None, {"0": "cat"}, [1, 2], ["cat", "cat"]])
def test_labels_without_names_are_their_own(tmp_path, names):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [3, 0, 1], names=names)
    source = read(tmp_path)
    assert source.remarks == [f"parquet:{tmp_path}: 1 of 4 classes have no picture, such as '2'"]
    data = source.decode(2, lambda *a: None)
    assert data.classes == ("0", "1", "2", "3")
    assert data.train.labels.tolist() == [3, 0, 1]


@pytest.mark.parametrize("metadata", [b"{", b"\xff", b"[]", b"null", b'{"info": {"features": {"label": 3}}}'])
def test_metadata_of_another_kind_names_nothing(tmp_path, metadata):
    for split in ("train", "test"):
        path = write(tmp_path / f"{split}.parquet")
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": metadata}), path)
    assert read(tmp_path).classes == ("0", "1", "2")


def test_names_may_stand_in_some_files_only(tmp_path):
    write(tmp_path / "train-0.parquet", names=None)
    write(tmp_path / "train-1.parquet")
    write(tmp_path / "test-0.parquet", names=None)
    assert read(tmp_path).classes == tuple(NAMES)


def test_holding_out_a_share(tmp_path):
    labels = [0] * 8 + [1] * 12 + [2] * 4
    write(tmp_path / "train-0.parquet", labels)
    write(tmp_path / "train-1.parquet", labels, first=24)
    data = decode(tmp_path, val_fraction=0.25)
    assert np.bincount(data.test.labels).tolist() == [4, 6, 2]
    assert np.bincount(data.train.labels).tolist() == [12, 18, 6]
    by_content = {pixels(number).tobytes(): number for number in range(48)}
    train, test = ([by_content[image.tobytes()] for image in split.images] for split in (data.train, data.test))
    assert sorted(train + test) == list(range(48))
    assert (train, test) == (sorted(train), sorted(test))
    check(data.train, train, [(labels * 2)[number] for number in train])
    check(data.test, test, [(labels * 2)[number] for number in test])
    again = decode(tmp_path, val_fraction=0.25)
    np.testing.assert_array_equal(again.test.images, data.test.images)


@pytest.mark.parametrize("name", ["some.parquet", "test-0.parquet", "0123456789abcdef"])
def test_a_single_file_is_to_train_on(tmp_path, name):
    path = write(tmp_path / name, LABELS * 2)
    data = decode(path, val_fraction=0.5)
    assert (len(data.train.labels), len(data.test.labels)) == (6, 6)
    with pytest.raises(Error, match=r"has no test split; add one, or hold out .* with --val-fraction 0\.1"):
        read(path)


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links")
def test_links_as_in_the_hub_s_cache(tmp_path):
    snapshot = tmp_path / "snapshots" / "abc"
    for split in ("train", "test"):
        blob = write(tmp_path / "blobs" / split[::-1])
        (snapshot / "data").mkdir(parents=True, exist_ok=True)
        (snapshot / "data" / f"{split}-00000-of-00001.parquet").symlink_to(blob)
    check(decode(snapshot).train, range(6), LABELS)
    blob.unlink()
    with pytest.raises(Error, match=r"data/test-00000-of-00001\.parquet leads nowhere; mend"):
        read(snapshot)


def test_hidden_files_are_left_out(tmp_path):
    for name in ("train", "test", ".cache/train", "._train"):
        write(tmp_path / f"{name}.parquet")
    assert len(read(tmp_path).labels) == 12


def test_key_changes_with_whatever_the_arrays_depend_on(tmp_path):
    (tmp_path / "a").mkdir()
    path = write(tmp_path / "a" / "train.parquet", LABELS * 2)
    os.utime(path, (1e9, 1e9))
    before = read(path, val_fraction=0.5).key
    assert json.loads(json.dumps(before)) == before
    assert before["files"] == [["train.parquet", path.stat().st_size, 10**18]]
    assert read(path, val_fraction=0.5).key == before
    assert read(path.parent / ".." / "a" / "train.parquet", val_fraction=0.5).key == before
    keys = [read(path, image_size=16, val_fraction=0.5).key, read(path, val_fraction=0.25).key]
    os.utime(path, (2e9, 2e9))
    keys.append(read(path, val_fraction=0.5).key)
    keys.append(read(write(tmp_path / "b" / "train.parquet", LABELS * 2), val_fraction=0.5).key)
    assert len({json.dumps(key) for key in [before, *keys]}) == 5


# What is refused: a good set is made bad in one way

TRAIN, TEST = "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"


@pytest.fixture
def good(tmp_path):
    root = tmp_path / "set"
    write(root / TRAIN)
    write(root / TEST, first=100)
    return root


def refusal(call, kind=Error):
    """The error's one line."""
    with pytest.raises(Error) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message
    return message


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        (TRAIN, {"labels": [], "label_type": pa.int64()}, "its training split has no rows"),
        (TEST, {"labels": [], "label_type": pa.int64()}, "its test split has no rows"),
        (TRAIN, {"labels": [1, 1, 1]}, "holds one class only, 'dog'; classification needs two"),
        (TRAIN, {"labels": [1, 0]}, "class 'emu' is in test but not in train; add it there or remove it"),
        (TRAIN, {"labels": [0, 1, 3]}, f"{TRAIN}, row 2: label 3 is none of the 3 classes that have names"),
        (TEST, {"labels": [0, -1]}, f"{TEST}, row 1: label -1 is none of the 3 classes that have names"),
        (TEST, {"labels": [0, None]}, f"{TEST}, row 1: has no label"),
        (TRAIN, {"label_type": pa.float32()}, f"{TRAIN}: no column of labels, which holds integers or strings"),
        (TRAIN, {"label": "kind"}, "its columns are image (struct<bytes: binary, path: string>), kind (int64)"),
        (
            TRAIN,
            {"image_type": pa.string(), "contents": "xxxxxx"},
            f"{TRAIN}: no column of pictures, which holds bytes",
        ),
        (TRAIN, {"image_type": pa.string(), "contents": "xxxxxx"}, "its columns are image (string), label (int64)"),
        (TRAIN, {"image": "a", "more": {"b": pa.array([b""] * 6)}}, "a and b may each be the column of pictures"),
        (TEST, {"label": "labels"}, f"{TEST} has the labels labels (integers), but {TRAIN} has label (integers)"),
        (TEST, {"labels": ["cat", "emu"]}, f"{TEST} has the labels label (strings), but {TRAIN} has label (integers)"),
        (TEST, {"names": ["cat", "emu", "dog"]}, f"{TEST} has other class names than {TRAIN}"),
    ],
)
def test_bad_columns_and_labels(good, name, options, says):
    write(good / name, **options)
    message = refusal(lambda: read(good))
    assert message.startswith(f"parquet:{good}: ")
    assert says in message


def test_bad_labels_without_names(tmp_path):
    for labels, says in (
        ([0, 1, -5], "train.parquet, row 2: label -5 is none of the 100,000 that there may be"),
        ([0, 100_000], "train.parquet, row 1: label 100000 is none of the 100,000 that there may be"),
        ([0, 0], "holds one class only, '0'"),
        ([0, 2], "class '1' is in test but not in train"),
        (["cat", None], "train.parquet, row 1: has no label"),
        (["cat", "cat"], "holds one class only, 'cat'"),
        (["cat", "emu"], "class 'dog' is in test but not in train"),
    ):
        is_string = isinstance(labels[0], str)
        write(tmp_path / "train.parquet", labels, names=None)
        write(tmp_path / "test.parquet", ["cat", "dog"] if is_string else [0, 1], names=None)
        assert says in refusal(lambda: read(tmp_path))


def test_columns_of_the_same_name(good):
    table = pq.read_table(good / TRAIN)
    pq.write_table(table.append_column("label", table["label"]), good / TRAIN)
    assert f"{TRAIN}: cannot be read as Parquet" in refusal(lambda: read(good))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda content: b"", "file size is 0 bytes"),
        (lambda content: b"<html>not found</html>", "not a parquet file"),
        (lambda content: content[:-20], "cannot be read as Parquet ("),
        (lambda content: content[: len(content) // 2], "cannot be read as Parquet ("),
        (lambda content: content[-1000:], "cannot be read as Parquet ("),
        (lambda content: b"PAR1" + b"\xff" * 40 + b"\x10\0\0\0PAR1", "cannot be read as Parquet ("),
        (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "cannot be read as Parquet ("),
    ],
)
def test_files_that_are_not_parquet_or_truncated(good, spoil, says):
    content = (good / TEST).read_bytes()
    (good / TEST).write_bytes(spoil(content))
    message = refusal(lambda: read(good))
    assert message.startswith(f"parquet:{good}: {TEST}: cannot be read as Parquet (")
    assert says in message
    assert message.endswith("); replace or remove it")


def test_damage_among_the_pictures_is_found_when_they_are_read(good):
    content = bytearray((good / TEST).read_bytes())
    content[4:60] = b"\xff" * 56  # the first page's header, which is of the first column
    (good / TEST).write_bytes(content)
    source = read(good)
    message = refusal(lambda: source.decode(2, lambda *a: None))
    assert message.startswith(f"parquet:{good}: {TEST}: cannot be read as Parquet (")


def test_broken_pictures_are_counted(good):
    whole = [png(row) for row in range(6)]
    for content, says in (
        (whole[3][:-30], "cannot be decoded"),
        (b"<svg>", "is no picture"),
        (b"", "is empty"),
        (None, "holds no bytes"),
    ):
        write(good / TEST, image_type=pa.binary(), contents=[*whole[:3], content, *whole[4:]])
        message = refusal(lambda: decode(good))
        assert message.startswith(f"parquet:{good}: {TEST}, row 3: {says}")
        assert message.endswith("; replace or remove it")
    write(good / TRAIN, contents=[*whole[:4], b"x", None])
    assert f"parquet:{good}: 3 of 12 pictures cannot be used, the first is {TRAIN}, row 4: is no picture" in refusal(
        lambda: decode(good)
    )


def test_pictures_that_are_only_paths(good):
    table = pq.read_table(good / TEST)
    images = pa.array([{"bytes": None, "path": "a.png"}] * 6, STRUCT)
    pq.write_table(table.set_column(0, "image", images), good / TEST)
    assert f"6 of 12 pictures cannot be used, the first is {TEST}, row 0: holds no bytes" in refusal(
        lambda: decode(good)
    )


def test_paths_that_hold_nothing(tmp_path):
    nowhere = tmp_path / "nowhere"
    message = refusal(lambda: read(nowhere), MissingError)
    assert message.startswith(f"parquet:{nowhere}: there is nothing at that path; give")
    (tmp_path / "README.md").write_text("hello")
    assert f"parquet:{tmp_path}: holds no .parquet files; give" in refusal(lambda: read(tmp_path))
    write(tmp_path / "data" / "some-0.parquet")
    assert "which files are to train or to test on, such as data/some-0.parquet; name them" in refusal(
        lambda: read(tmp_path)
    )
    message = refusal(lambda: read(tmp_path / "README.md", val_fraction=0.5))
    assert message.startswith(f"parquet:{tmp_path / 'README.md'}: README.md: cannot be read as Parquet")


@pytest.mark.parametrize("name", ["{}-00000-of-00001.parquet", "{}/0000.parquet"])
def test_several_configurations(tmp_path, name):
    for configuration in ("cropped_digits", "full_numbers"):
        for split in ("train", "test"):
            write(tmp_path / configuration / name.format(split))
    message = refusal(lambda: read(tmp_path))
    assert "holds several configurations, cropped_digits, full_numbers; give one of them, as in parquet:" in message
    given = Path(message.rpartition("parquet:")[2])
    assert given == tmp_path / "full_numbers"
    assert len(read(given).labels) == 12


def test_val_fraction_that_is_missing_unneeded_or_too_small(good):
    message = refusal(lambda: read(good, val_fraction=0.1), UsageError)
    assert message == f"--val-fraction: parquet:{good} has a test split of its own; leave the option out"
    (good / TEST).unlink()
    assert refusal(lambda: read(good)) == (
        f"parquet:{good}: has no test split; add one, or hold out a part of train with --val-fraction 0.1"
    )
    for share in (0.1, 0.9):
        message = refusal(lambda share=share: read(good, val_fraction=share))
        assert message == (
            f"parquet:{good}: class 'cat' has 2 pictures, so that --val-fraction {share} leaves one side without any; "
            "add pictures or change the share"
        )


def test_files_that_change_after_they_were_listed(good):
    for labels in ([0, 1, 2], LABELS + LABELS):
        source = read(good)
        write(good / TEST, labels)
        message = refusal(lambda source=source: source.decode(2, lambda *a: None))
        assert message == f"parquet:{good}: {TEST}: changed while it was read; start again"
        write(good / TEST)


def test_sets_larger_than_memory_are_refused_before_it_is_taken(good, monkeypatch):
    monkeypatch.setattr("wrn.data.arrays._memory", lambda: 1000)
    source = read(good)
    assert f"parquet:{good}: 12 images of 32 x 32 take" in refusal(lambda: source.decode(2, lambda *a: None))


def test_without_pyarrow(good, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    spec = importlib.util.spec_from_file_location("without_pyarrow", parquet.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "without_pyarrow", module)
    spec.loader.exec_module(module)
    message = refusal(lambda: module.read(f"parquet:{good}", Request()))
    assert message == (f"parquet:{good}: reading Parquet needs pyarrow, which is not installed; pip install pyarrow")


def test_as_a_user_would(tmp_path, run_wrn, empty_cache):
    write(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", LABELS * 10)
    write(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", LABELS * 3)
    code, out, err = run_wrn("data", "prepare", "parquet:hub")
    assert code == 0, err
    assert "parquet:hub: 60 + 18 images, 3 classes" in out
    code, out, err = run_wrn("train", "wrn-10-1", "--data", "parquet:hub", "--epochs", "1", "--batch-size", "20")
    assert code == 0, err
    assert run_wrn("eval", next((tmp_path / "runs" / "hub").glob("*/seed0")))[0] == 0
