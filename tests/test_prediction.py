"""Trained networks in use."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel

import wrn
from wrn.files import seal_of
from wrn.inference import BySize
from wrn.prediction import evaluate_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = wrn.recipe("wrn-10-1", data="digits", recipe="fast", epochs=3)
    return wrn.train(recipe, tmp_path_factory.mktemp("runs") / "run", device="cpu", quiet=True)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for number in range(10):  # the file's first ten scans are of 0 … 9
        paths.append(folder / f"{number}.png")
        Image.fromarray((load_digits().images[number] * 15.9375).astype(np.uint8)).save(paths[-1])
    return paths


def test_paths_pictures_and_arrays_give_the_same(run, scans):
    model = wrn.load(run)
    from_paths = model.predict(scans)
    assert from_paths.shape == (10, 10)
    torch.testing.assert_close(from_paths.sum(1), torch.ones(10))
    assert (from_paths.argmax(1) == torch.arange(10)).sum() >= 8
    from_pictures = model.predict([Image.open(path) for path in scans])
    assert torch.equal(from_paths, from_pictures)
    digits = wrn.dataset("digits")
    arrays = model.predict(digits.test.images.numpy(), batch_size=100)
    expected = model(digits.test.pixels(slice(None))[0]).softmax(1)
    torch.testing.assert_close(arrays, expected.detach())
    assert model.predict(scans[0]).shape == (1, 10)
    assert model.predict([]).shape == (0, 10)
    torch.testing.assert_close(model.predict(scans, batch_size=3), from_paths)
    with pytest.raises(ValueError, match="at least 1"):
        model.predict(scans, batch_size=0)
    model.train()
    with pytest.raises(wrn.Error, match="no such picture"):
        model.predict(["nowhere.png"])
    assert model.training, "as it was"
    with pytest.raises(ValueError, match="uint8"):
        model.predict(np.zeros((1, 3, 32, 32), np.float32))
    with pytest.raises(ValueError, match="call the model"):
        model.predict(torch.zeros(1, 3, 32, 32))


def test_loaded_model_is_fp32_in_evaluation_and_differentiable_to_the_pixels(run):
    model = wrn.load(run)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0
    assert model.features(images).shape == (2, 64)
    by_hand = model.network((images * 255 - model.preprocess.mean) / model.preprocess.std)
    torch.testing.assert_close(model(images), by_hand)


def test_what_a_loaded_model_refuses(run):
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(ValueError, match="divide by 255"):
        wrn.load(run.path)((images * 255).byte())
    quick = wrn.load(run.path, optimize=True)
    quick.how = "native"  # whatever is fastest here
    with pytest.raises(ValueError, match="without optimize"):
        quick(images.requires_grad_())
    with torch.no_grad():
        assert quick(images).shape == (2, 10)


@pytest.mark.parametrize(("names", "precision"), [(("native bf16", "folded"), "fp32"), (("folded", "bf16"), "bf16")])
def test_the_precision_of_scores_is_that_of_the_form_that_gave_them(run, names, precision, monkeypatch):
    """Of two, the one for many images, as the whole test set is."""

    def both(network, *_):
        return BySize(network, network, names, most=8), f"{names[0]} for up to 8 images, {names[1]} for more"

    monkeypatch.setattr("wrn.prediction.fastest", both)
    assert evaluate_run(run.path, optimize=True)["precision"] == precision
    assert not wrn.load(run.path, optimize=True).network.training


def test_a_loaded_model_is_scored_with_its_own_preprocessing_once(run):
    model = wrn.load(run)
    assert wrn.evaluate(model, wrn.dataset("digits").test).error == run.result["test_error"]
    others = wrn.dataset("digits", preprocess="unit")
    with pytest.raises(ValueError, match="other numbers"):
        wrn.evaluate(model, others.test)
    refitted = wrn.dataset("digits", preprocess="unit", fitted=model.preprocess)
    assert wrn.evaluate(model, refitted.test).error == run.result["test_error"]


def test_scores_and_answers_leave_each_part_in_its_mode(run):
    model, test = wrn.load(run), wrn.dataset("digits").test
    model.train()
    model.network.bn.eval()  # frozen
    before = {name: part.training for name, part in model.named_modules()}
    wrn.evaluate(model, test)
    model.predict(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(ZeroDivisionError):
        wrn.evaluate(model, test, between=lambda: 1 / 0)
    assert {name: part.training for name, part in model.named_modules()} == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_loaded_model_can_be_cast(run, dtype):
    images = torch.rand(2, 3, 32, 32)
    answers = wrn.load(run).to(dtype)(images)
    assert answers.dtype == dtype
    torch.testing.assert_close(answers.float(), wrn.load(run)(images), rtol=0.1, atol=0.1)


def test_names_in_the_place_of_what_they_name_are_refused(run):
    with pytest.raises(ValueError, match=r"make one with wrn.recipe\("):
        wrn.train("wrn-10-1")
    with pytest.raises(ValueError, match=r"give wrn.dataset\("):
        wrn.evaluate(wrn.load(run.path), "digits")
    with pytest.raises(ValueError, match="Dataset is no split"):
        wrn.evaluate(wrn.load(run.path), wrn.dataset("digits"))


def test_predict_command(run, scans, run_wrn, tmp_path):
    code, out, err = run_wrn("predict", run.path, scans[3], scans[7], "--top", 3, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert [line["image"] for line in found] == [str(scans[3]), str(scans[7])]
    assert all(len(line["classes"]) == 3 for line in found)
    probabilities = [each["probability"] for each in found[0]["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    code, out, _ = run_wrn("predict", run.path, scans[3])
    assert code == 0
    assert "3.png" in out
    assert "%" in out
    scans[0].with_name(".hidden.png").write_text("no picture")
    scans[0].with_name("notes.txt").write_text("no picture")
    (tmp_path / "linked").symlink_to(scans[0].parent)
    (tmp_path / "folder.png").mkdir()
    code, out, err = run_wrn("predict", run.path, tmp_path, scans[3], "--json")  # a folder's pictures
    assert code == 0, err
    assert [line["image"] for line in json.loads(out)] == [
        *(str(tmp_path / "linked" / scan.name) for scan in scans),
        str(scans[3]),
    ]


def test_pictures_that_cannot_be_read_are_named_and_the_others_answered(run, scans, run_wrn, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    words = ("predict", run.path, "a.png", scans[3], "b.png", scans[7])
    code, out, err = run_wrn(*words)
    assert code == 1
    assert ("3.png" in out, "7.png" in out, "a.png" in out) == (True, True, False)
    assert err.startswith("wrn: error: 2 of 4 pictures have no answer: a.png: is no picture (")
    assert "; b.png: is no picture (" in err
    code, out, _ = run_wrn(*words, "--json")
    assert code == 1
    assert [(line["image"], "error" in line, "classes" in line) for line in json.loads(out)] == [
        ("a.png", True, False), (str(scans[3]), False, True), ("b.png", True, False), (str(scans[7]), False, True)
    ]  # fmt: skip


def test_eval_on_another_data_set_with_known_classes(run, run_wrn, tmp_path):
    """Two of the ten classes, by name, in another order of labels."""
    scans = load_digits()
    for split in ("train", "test"):
        for label in (7, 4):
            folder = tmp_path / "some" / split / str(label)
            folder.mkdir(parents=True)
            for number, scan in enumerate(scans.images[scans.target == label][:20]):
                Image.fromarray((scan * 15.9375).astype(np.uint8)).save(folder / f"{number}.png")
    code, out, err = run_wrn("eval", run.path, "--data", f"folder:{tmp_path / 'some'}", "--json")
    assert code == 0, err
    assert json.loads(out)["images"] == 40
    assert json.loads(out)["test_error"] <= 25
    shutil.rmtree(tmp_path / "some" / "train")  # test/ alone will do
    assert json.loads(run_wrn("eval", run.path, "--data", f"folder:{tmp_path / 'some'}", "--json")[1])["images"] == 40


def test_eval_where_the_folder_lies_now_holds_out_what_the_run_did(run_wrn, pictures, tmp_path):
    shutil.rmtree(pictures / "test")
    words = ("train", "wrn-10-1", "--data", f"folder:{pictures}", "--val-fraction", 0.25, "--epochs", 1, "--out", "run")
    assert run_wrn(*words)[0] == 0
    before = json.loads(run_wrn("eval", "run", "--json")[1])
    pictures.rename(tmp_path / "elsewhere")
    code, out, err = run_wrn("eval", "run", "--data", "folder:elsewhere", "--json")
    assert code == 0, err
    assert {**json.loads(out), "data": None} == {**before, "data": None}


def test_a_name_that_the_terminal_cannot_show_is_shown_by_its_bytes(run, scans, start, tmp_path):
    (tmp_path / "all").mkdir()
    shutil.copy(scans[0], os.fsdecode(os.fsencode(tmp_path / "all") + b"/\xe9.png"))
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    process = start(sys.executable, "-m", "wrn", "predict", run.path, tmp_path / "all", env=strict)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, r"\udce9.png" in out) == (0, True), out + err


def test_a_model_of_enormous_pictures_is_none_of_ours(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["wrn"]) | {"image_size": 40_000}
    header.pop("seal")
    save_file(load_file(file), file, metadata={"wrn": json.dumps(header | {"seal": seal_of(header)})})
    with pytest.raises(wrn.Error, match="image_size is 40000"):
        wrn.load(file)


def test_links_that_lead_back_are_followed_once(run, run_wrn, scans):
    (scans[0].parent / "again").symlink_to(".")
    code, out, err = run_wrn("predict", run.path, scans[0].parent, "--json")
    assert code == 0, err
    assert len(json.loads(out)) == len(scans)


def test_what_was_scored_can_be_learnt_from(run):
    """Whole-image preprocessing is done once, by whoever asks first."""
    data = wrn.dataset("digits", preprocess="gcn")
    network = wrn.create_model("wrn-10-1", num_classes=10, seed=0)
    wrn.evaluate(network, data.test)
    images, labels = next(data.test.in_order(50))
    torch.nn.functional.cross_entropy(network(images), labels).backward()


def test_a_model_inside_another_is_scored_as_itself(run):
    model, data = wrn.load(run), wrn.dataset("digits")
    expected = wrn.evaluate(model, data.test).error
    for wrapped in (AveragedModel(model), torch.nn.DataParallel(model)):
        assert wrn.evaluate(wrapped, data.test).error == expected
    with pytest.raises(ValueError, match="give that one itself"):
        wrn.evaluate(torch.nn.Sequential(model), data.test)


@pytest.mark.parametrize("optimize", [False, True])
def test_answers_can_be_learnt_from(run, optimize):
    """They are no tensors of inference mode: for a temperature, a student, a linear probe."""
    model, images = wrn.load(run, optimize=optimize), torch.rand(4, 3, 32, 32)
    scale = torch.ones((), requires_grad=True)
    with torch.no_grad():
        features = model.features(images)
    scores = wrn.evaluate(model, wrn.dataset("digits").test).logits
    answers = model.predict(np.zeros((2, 32, 32, 3), np.uint8)).clamp_(0.1)
    (scale * (features.sum() + scores.sum() + answers.sum())).backward()
    assert scale.grad.isfinite()


@pytest.mark.parametrize("preprocess", ["meanstd", "gcn"])
def test_a_model_in_half_precision_errs_as_in_single(preprocess, tmp_path):
    """The sum of squares of an image's pixels is more than it holds."""
    recipe = wrn.recipe("wrn-10-1", data="digits", preprocess=preprocess, epochs=2)
    run, data = wrn.train(recipe, tmp_path / "run", device="cpu", quiet=True), wrn.dataset("digits")
    answers = wrn.load(run).half()((data.test.images.permute(0, 3, 1, 2) / 255).half()).argmax(1)
    error = 100 * (answers != data.test.labels).double().mean().item()
    assert run.result["test_error"] < 85
    assert error == pytest.approx(run.result["test_error"], abs=1)


def test_gradients_in_double_precision_are_exact(run):
    model = wrn.load(run).double()
    assert torch.autograd.gradcheck(
        model, torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True), fast_mode=True
    )


def test_it_is_loaded_whatever_the_process_has_for_defaults(run):
    """And the next random number is the one that would have come."""
    expected, state = wrn.load(run).network.state_dict(), torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = wrn.load(run).network.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_of_the_wrong_kind_are_named(run):
    with pytest.raises(ValueError, match="ndarray among them; give paths"):
        wrn.load(run).predict([np.zeros((32, 32, 3), np.uint8)])


def test_eval_on_unknown_classes(run, run_wrn, pictures):
    code, _, err = run_wrn("eval", run.path, "--data", f"folder:{pictures}")
    assert code == 1
    assert "'one'" in err


def test_bad_input(run, scans, run_wrn, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((run.path / "model.safetensors").read_bytes()[:1000])
    flipped = tmp_path / "flipped"
    shutil.copytree(run.path, flipped)
    content = bytearray((flipped / "model.safetensors").read_bytes())
    content[-5000] ^= 64
    (flipped / "model.safetensors").write_bytes(bytes(content))
    for words, code, says in (
        (("predict", run.path), 2, "no pictures named"),
        (("predict", run.path, "nowhere.png"), 1, "no such picture"),
        (("predict", run.path, run.path), 1, "holds no pictures"),
        (("predict", run.path, "text.png"), 1, "text.png: is no picture"),
        (("predict", run.path, scans[0], "--top", 0), 2, "at least 1"),
        (("predict", "nowhere", scans[0]), 1, "no such run"),
        (("eval", tmp_path), 1, "not a run"),
        (("eval", run.path.parent), 1, f"one of those below it, such as {run.path}"),
        (("eval", damaged), 1, "damaged"),
        (("eval", flipped), 1, "model.safetensors: damaged"),
        (("predict", run.path, scans[0], "--device", "cuda:9"), 2, "not on this machine"),
        (("eval", run.path, "--device", "cuda:9"), 2, "not on this machine"),
        (("eval", run.path, "--device", "toaster"), 2, "no such device"),
    ):
        found, _, err = run_wrn(*words)
        assert found == code, (words, err)
        assert says in err, (words, err)
