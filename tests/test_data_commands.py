"""`wrn data` as its users meet it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import wrn
from wrn.data.catalog import AUGMENTATIONS, DATASETS, PREPROCESSING


def test_list_names_every_set_and_imports_no_torch(run_wrn):
    code, out, _ = run_wrn("data", "list", "--json")
    assert code == 0
    rows = {row["data"].removesuffix(":PATH"): row for row in json.loads(out)["data"]}
    assert rows.keys() == DATASETS.keys()
    svhn = rows["svhn"]
    assert (svhn["train_images"], svhn["augment"], svhn["preprocess"]) == (604_388, "none", "unit")
    assert rows["imagenet"]["augment"] == "imagenet"


def test_info_says_what_the_paper_does_with_a_set(run_wrn):
    code, out, _ = run_wrn("info", "--data", "svhn", "--json")
    facts = json.loads(out)
    (listed,) = [row for row in json.loads(run_wrn("data", "list", "--json")[1])["data"] if row["data"] == "svhn"]
    assert code == 0
    assert all(facts[key] == value for key, value in listed.items())  # under the same names
    assert facts["recipe"] == {"epochs": 160, "lr": 0.01, "lr_decay": 0.1, "milestones": [80, 120]}
    assert (facts["augment"], facts["preprocess"]) == ("none", "unit")
    code, out, _ = run_wrn("data", "info", "cifar100")
    assert code == 0
    assert "125.3 123.0 113.9" in out
    assert "9 x 9 offsets" in out


def test_info_of_a_prepared_set_says_where_it_lies_and_its_own_constants(run_wrn, empty_cache):
    _, out, _ = run_wrn("data", "info", "digits", "--json")
    assert json.loads(out)["prepare_with"] == "wrn data prepare digits"
    code, out, _ = run_wrn("data", "prepare", "digits")
    assert code == 0
    assert "digits: 1,442 + 355 images, 10 classes, ready; wrn train wrn-16-4 --data digits" in out
    _, out, _ = run_wrn("data", "info", "digits", "--json")
    facts = json.loads(out)
    assert facts["lies_in"].startswith(str(empty_cache))
    assert facts["bytes"] > 1797 * 3072
    pixels = wrn.dataset("digits").train.images.double()
    assert facts["own_mean"] == pytest.approx(pixels.mean((0, 1, 2)).tolist(), abs=1e-3)
    assert facts["own_std"] == pytest.approx(pixels.std((0, 1, 2), correction=0).tolist(), abs=1e-3)


def test_info_of_what_was_prepared_at_another_size_or_share(run_wrn, pictures):
    shutil.rmtree(pictures / "test")
    words = (f"folder:{pictures}", "--image-size", 16, "--val-fraction", 0.25)
    told = json.loads(run_wrn("data", "info", *words, "--json")[1])
    assert told["prepare_with"] == f"wrn data prepare folder:{pictures} --image-size 16 --val-fraction 0.25"
    assert run_wrn(*told["prepare_with"].split()[1:])[0] == 0
    told = json.loads(run_wrn("data", "info", *words, "--json")[1])
    assert (told["prepared"], told["train_images"], told["test_images"]) == (True, 18, 6)


def test_show_replaces_no_file_unasked(run_wrn, tmp_path):
    (tmp_path / "digits.png").write_text("mine")
    code, _, err = run_wrn("data", "show", "digits", "--rows", 1)
    assert (code, "digits.png: is there already; add --out digits.png to replace it" in err) == (2, True), err
    assert (tmp_path / "digits.png").read_text() == "mine"
    assert run_wrn("data", "show", "digits", "--rows", 1, "--out", "digits.png")[0] == 0


def test_a_damaged_copy_is_said_by_info_and_made_again_by_prepare(run_wrn, empty_cache):
    run_wrn("data", "prepare", "digits")
    file = next(empty_cache.rglob("arrays.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    code, _, err = run_wrn("data", "info", "digits")
    assert (code, "is damaged; wrn data prepare digits makes it again" in err) == (1, True)
    assert run_wrn("data", "prepare", "digits")[0] == 0


def test_show_writes_a_sheet_with_the_pictures(run_wrn, tmp_path):
    words = ["--augment", "flip-crop", "--rows", "4", "--out", "sheet.png"]
    code, out, err = run_wrn("data", "show", "digits", *words)
    assert (code, out.splitlines()[-1]) == (0, "sheet.png: 4 images of digits"), err
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    width, height, cell = 120 + 7 * 102 + 6, 60 + 4 * 102, 96
    assert sheet.shape == (height, width, 3)
    cells = [
        [sheet[60 + 102 * row :][:cell, 120 + 102 * column :][:, :cell] for column in range(7)] for row in range(4)
    ]
    # The first column is the pictures, each pixel three times as large
    train = wrn.dataset("digits").train.images.numpy()
    for row in cells:
        small = row[0][1::3, 1::3]
        assert (train == small).all((1, 2, 3)).any()
        assert len({each.tobytes() for each in row[1:]}) == 6  # each draw another


def test_show_of_a_set_without_augmentation_has_no_columns_of_it(run_wrn, tmp_path):
    assert run_wrn("data", "show", "digits", "--preprocess", "zca", "--image-size", "16", "--out", "a.png")[0] == 0
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.width == 120 + 2 * 102 + 6


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["data", "shw"], 2, "did you mean show?"),
        (["data", "show", "digits", "--rows", "0"], 2, "--rows 0: must be at least 1"),
        (["data", "show", "digits", "--augment", "imagenet"], 2, "take flip-crop or v1 or none"),
        (["info"], 2, "name a network or a data set"),
        (["info", "wrn-16-4", "--data", "digits"], 2, "name a network or a data set"),
        (["data", "info", "folder:nowhere"], 1, "there is nothing at that path"),
        (["data", "prepare", "digits", "--preprocess", "zcaa"], 2, "must be meanstd, meanstd-own, unit"),
    ],
)
def test_wrong_usage(run_wrn, words, code, says):
    found, out, err = run_wrn(*words)
    assert found == code
    assert says in " ".join((out + err).split())


def test_every_choice_has_its_meaning():
    from typing import get_args

    from wrn.data.catalog import Augment, Preprocess

    assert set(AUGMENTATIONS) == set(get_args(Augment))
    assert set(PREPROCESSING) == set(get_args(Preprocess))


def test_a_folder_named_without_its_kind_is_pointed_out(run_wrn, tmp_path):
    (tmp_path / "birds").mkdir()
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "birds")
    assert code == 2
    assert "write folder:birds" in err
