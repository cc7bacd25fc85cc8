"""The command line: listings, help, exit codes."""

import json
import subprocess
import sys

import pytest

import wrn
from wrn.paper import rows


def test_info_json_has_the_papers_counts(run_wrn):
    code, out, _ = run_wrn("info", "WRN_28_10", "--json")
    row = next(row for row in rows("table4") if row["network"] == "WRN-28-10")
    found = json.loads(out)
    assert code == 0
    assert found["params"] == row["params_computed"]["c10"]
    assert found["conv_layers"] == 28
    assert sum(part["macs"] for part in found["parts"]) == found["macs"]


def test_info_shows_a_table_by_group(run_wrn):
    code, out, _ = run_wrn("info", "wrn-40-2-b131", "--depth-rule", "nominal", "--num-classes", 100)
    assert code == 0
    assert "1,440,692" in out
    assert all(name in out for name in ("conv1", "group1", "group2", "group3", "fc", "total"))


def test_list(run_wrn):
    code, out, _ = run_wrn("list", "--json")
    assert code == 0
    listing = json.loads(out)
    (listed,) = [row for row in listing["models"] if row["model"] == "wrn-28-10"]
    facts = json.loads(run_wrn("info", "wrn-28-10", "--json")[1])
    assert all(listed[key] == facts[key] for key in ("params", "macs"))
    assert {row["data"] for row in listing["data"]} >= {"digits", "folder:PATH", "svhn", "imagenet"}
    fields = {row["recipe"]: row["fields"] for row in listing["recipes"]}
    assert fields["paper"]["nesterov"] is True
    assert "nesterov" not in fields["authors"]  # as the paper
    on = {row["recipe"]: row["on_single_data_sets"] for row in listing["recipes"]}
    assert on["paper"]["svhn"] == {"lr": 0.01, "lr_decay": 0.1, "milestones": [80, 120], "epochs": 160}
    assert on["fast"] is None
    assert fields["authors-pytorch"]["nesterov"] is False
    assert "reset_momentum yes" in run_wrn("list", "recipes")[1]


@pytest.mark.parametrize("command", [[], ["train"], ["eval"], ["predict"], ["list"], ["info"]])
def test_help(run_wrn, command):
    code, out, _ = run_wrn(*command, "--help")
    assert code == 0
    assert "usage: wrn" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "wrn-16-4"], "--data"),
        (["train", "--data", "digits"], "name"),
        (["train", "wrn-17-4", "--data", "digits"], "16 or 22"),
        (["train", "vrn-16-4", "--data", "digits"], "did you mean wrn-16-4"),
        (["train", "wrn-16-4", "--data", "digits", "--dropout", "1"], "[0, 1)"),
        (["train", "wrn-16-4", "--data", "digits", "--recipe", "papers"], "did you mean paper"),
        (["data", "show", "digits", "--out", "sheet.jpg"], "is a PNG"),
        (["trian"], "did you mean train"),
        (["train", "digits"], "is a data set; name a network first"),
        (["info", "wide_resnet50_2"], "did you mean wrn-50-2-bottleneck?"),
        (["info", "WideResNet28-10"], "did you mean wrn-28-10?"),
        (["info", "wrn-18-2"], "for ImageNet write wrn-18-2-imagenet"),
        (["info", "pre-resnet-18"], "model 'pre-resnet-18': pre-resnet for ImageNet has 50"),
        (["train", "wrn-10-1", "--data", "digits", "--epochs", "3", "--milestones", "2", "9"], "milestones [9]"),
        (["train", "wrn-10-1", "--data", "digits", "--resume"], "the same command continues"),
        (["predict", "cat.jpg", "run"], "name the run first"),
        (["info", "wrn-40-2-b131"], "--depth-rule"),
        (["info", "wrn-28-10", "--num-classes", "100000000000000000"], "to a million"),
        (["bench", "fig4", "--batch-size", "0"], "at least 1"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(run_wrn, words, says):
    code, out, err = run_wrn(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("wrn: error: ")
    assert says in err


@pytest.mark.parametrize("words", [("--epochs", "None"), ("--augment=None",), ("--precision", "None")])
def test_none_is_no_value(run_wrn, words):
    assert run_wrn("train", "wrn-10-1", "--data", "digits", *words)[0] == 2


def test_a_wrong_choice_is_told_the_right_ones_in_their_order(run_wrn):
    code, _, err = run_wrn("train", "wrn-10-1", "--data", "digits", "--optimizer", "adam")
    assert (code, "'adam' must be sgd, rmsprop or muon" in err) == (2, True), err
    assert "None" not in err


def test_unknown_flags_exit_2(run_wrn):
    code, _, _ = run_wrn("train", "--epoch", "3")
    assert code == 2


def test_debug_shows_the_traceback(run_wrn):
    assert "Traceback" in run_wrn("info", "nonsense", "--debug")[2]
    assert "Traceback" not in run_wrn("info", "nonsense")[2]


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "wrn", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"wrn {wrn.__version__}\n")
