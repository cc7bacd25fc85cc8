"""`wrn tune dropout`, with real runs, stopped and continued."""

import re

import wrn


def test_dropout_is_chosen_on_a_validation_split_and_trials_are_kept(run_wrn, tmp_path):
    words = ("tune", "dropout", "wrn-10-1", "--data", "digits", "--val", 200, "--labels", 200, "--epochs", 1)
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
    assert out.splitlines()[-1].endswith(f"--data digits --dropout {ranked[0][0]}")
    assert all(run.result["best_test_error"] is None for run in results), "the test set was used once"


def test_without_a_validation_split_it_refuses(run_wrn):
    code, _, err = run_wrn("tune", "dropout", "wrn-10-1", "--data", "digits")
    assert (code, "add --val" in err) == (2, True)
