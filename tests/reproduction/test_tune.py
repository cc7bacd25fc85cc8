"""`wrn tune dropout`, with real runs, stopped and continued."""

import json
import re

import pytest
from filelock import FileLock

import wrn


def test_dropout_is_chosen_on_a_validation_split_and_trials_are_kept(run_wrn, tmp_path):
    words = ("tune", "dropout", "wrn-10-1", "--data", "digits", "--val", 200, "--labels", 200, "--epochs", 1)
    words += ("--nesterov", "false", "--milestones", 1, "--seed", 1)
    code, out, err = run_wrn(*words, "--trials", 2, "--device", "cpu")
    assert code == 0, err
    assert "trial 1 of 2: dropout 0\n" in out
    first = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(first) == 2
    code, out, err = run_wrn(*words, "--trials", 3, "--device", "cpu")
    assert code == 0, err
    assert "trial 3 of 3" in out
    assert "trial 2 of 3" not in out
    results = [wrn.Run(path.parent) for path in tmp_path.rglob("result.json")]
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    ranked = re.findall(r"^\| (0[.\d]*) +\| ([\d.]+) +\|$", out, flags=re.MULTILINE)
    (best,) = (run for run in results if run.recipe.dropout == float(ranked[0][0]))
    assert f"{best.result['val_error']:.2f}" == ranked[0][1]
    assert float(ranked[0][1]) == min(float(error) for _, error in ranked)
    assert out.splitlines()[-1].endswith(
        "; wrn train wrn-10-1 --data digits --recipe authors --labels 200 --epochs 1 --milestones 1 --nesterov false "
        f"--dropout {float(ranked[0][0])} --seed 1 --precision fp32 --device cpu"
    )
    assert all(run.result["best_test_error"] is None for run in results), "the test set was used once"
    code, told, err = run_wrn(*words, "--trials", 3, "--device", "cpu", "--json")
    assert code == 0, err
    code, at_once, err = run_wrn(*words, "--trials", 3, "--device", "cpu", "--json", "--out", "elsewhere")
    assert code == 0, err
    assert json.loads(at_once)["trials"] == json.loads(told)["trials"], "stopped or not, the same are tried"
    found = json.loads(told)
    assert out.splitlines()[-1].endswith(found["command"])
    assert found["dropout"] == best.recipe.dropout
    assert {each["dropout"]: each["val_error"] for each in found["trials"]} == {
        run.recipe.dropout: run.result["val_error"] for run in results
    }


def test_two_commands_do_not_tune_the_same(run_wrn, tmp_path):
    words = ("tune", "dropout", "wrn-10-1", "--data", "digits", "--val", 200, "--labels", 200, "--epochs", 1)
    assert run_wrn(*words, "--trials", 1)[0] == 0
    (journal,) = tmp_path.rglob("tune/*.log")
    with FileLock(f"{journal}.lock"):
        code, _, err = run_wrn(*words, "--trials", 2)
    assert (code, "another command tunes this; wait for it" in err) == (1, True), err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["wrn-10-1"], "add --val"),
        (["wrn-10-1", "--val", 200, "--dropout", 0.3], "leave --dropout out"),
        (["pre-resnet-110", "--val", 200], "pre-resnet-110 has none"),
    ],
)
def test_it_refuses_what_makes_no_sense(run_wrn, tmp_path, words, says):
    code, _, err = run_wrn("tune", "dropout", *words, "--data", "digits")
    assert (code, says in err) == (2, True), err
    assert not any(tmp_path.iterdir())
