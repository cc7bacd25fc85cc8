"""What is run for a table."""

import dataclasses

import pytest

import wrn
from wrn.experiments.catalog import EXPERIMENTS
from wrn.reproduction import plan
from wrn.reproduction.estimate import estimate
from wrn.reproduction.schedule import How, command


def recipes(choice):
    return {(cell.row.key, cell.column.key): [job.recipe for job in cell.jobs] for cell in plan.cells(choice, "runs")}


def test_seeds_are_as_many_as_the_papers():
    assert plan.choose("table2").seeds == 5
    assert plan.choose("table4").seeds == 1
    assert (plan.choose("table5", "v1").seeds, plan.choose("table5", "v4").seeds) == (1, 5)
    assert plan.choose("quirks").seeds == 5


@pytest.mark.parametrize(("version", "preprocess", "augment"), [("v1", "zca", "v1"), ("v4", "meanstd", "flip-crop")])
def test_versions_pick_the_preprocessing(version, preprocess, augment):
    found = recipes(plan.choose("table5", version))
    (wide, *_) = found["wrn-28-10", "cifar100"]
    assert (wide.preprocess, wide.augment, wide.recipe) == (preprocess, augment, "authors")
    assert found["highway", "cifar10"][0].preprocess == "gcn-mean", "others keep their own"
    assert {each.preprocess for each in recipes(plan.choose("table4", version))["wrn-40-1", "cifar10"]} == {"zca"}


def test_svhn_is_treated_as_the_paper_does():
    found = recipes(plan.choose("table6"))
    plain, dropped = found["wrn-16-4", "svhn"][0], found["wrn-16-4 dropout", "svhn"][0]
    assert (plain.lr, plain.epochs, plain.preprocess, plain.augment) == (0.01, 160, "unit", "none")
    assert (plain.dropout, dropped.dropout, found["wrn-16-4 dropout", "cifar10"][0].dropout) == (0.0, 0.4, 0.3)


def test_another_data_set_has_one_column():
    choice = plan.choose("table4", data="digits", seeds=2, fields={"epochs": 3})
    cells = plan.cells(choice, "out")
    assert len(cells) == 10
    assert len(plan.jobs(cells)) == 20
    assert {job.recipe.epochs for cell in cells for job in cell.jobs} == {3}
    assert str(cells[0].jobs[1].path).startswith("out/digits/wrn-40-1-")
    assert cells[0].jobs[1].path.name == "seed1"
    assert not choice.faithful


def test_networks_that_two_tables_share_are_trained_once():
    paths = {
        name: {str(job.path) for job in plan.jobs(plan.cells(plan.choose(name), "runs"))}
        for name in ("table3", "table4")
    }
    assert len(paths["table3"] & paths["table4"]) == 1  # WRN-40-2, whitened, seed 0


def test_a_teacher_is_trained_before_who_needs_it():
    jobs = plan.jobs(plan.cells(plan.choose("table5", seeds=1, rows=("fitnet",)), "runs"))
    assert [job.recipe.model for job in jobs] == ["wrn-16-8", "fitnet"] * 2
    assert jobs[1].recipe.teacher == str(jobs[0].path)
    assert jobs[0].recipe.preprocess == jobs[1].recipe.preprocess == "zca"


def test_bf16_lies_beside_fp32():
    (cell,) = (
        cell
        for cell in plan.cells(plan.choose("quirks", seeds=1), "runs")
        if (cell.row.key, cell.column.key) == ("bf16", "cifar10")
    )
    base = plan.cells(plan.choose("quirks", seeds=1), "runs")[0]
    assert cell.jobs[0].recipe == base.jobs[0].recipe
    assert cell.jobs[0].path != base.jobs[0].path


@pytest.mark.parametrize("name", ["table2", "table5", "table6", "table7", "fig2", "quirks"])
def test_the_command_makes_the_same_recipe(name, run_wrn, monkeypatch):
    """Each run is a command that a person can type."""
    made = []
    monkeypatch.setattr(
        "wrn.training.session.train", lambda recipe, out, **how: made.append((recipe, out, how["seed"]))
    )
    choice = plan.choose(name, "v1" if name in ("table2", "table5") else "v4", seeds=1)
    for job in plan.jobs(plan.cells(choice, "runs")):
        assert run_wrn(*command(job, How(device="cpu")))[0] == 0
        assert made[-1] == (job.recipe, str(job.path), job.seed)


def test_plans_are_kept_and_grow(tmp_path):
    few = plan.choose("table4", data="digits", seeds=1, rows=("wrn-40-1",), fields={"epochs": 2})
    more = dataclasses.replace(few, seeds=3, rows=("wrn-16-8",))
    plan.save(few, tmp_path, failures={"digits/y/seed0": "before"})
    plan.save(more, tmp_path, failures={"digits/x/seed0": "why"})
    ((found, failures),) = plan.saved(tmp_path)
    assert (found.seeds, found.rows) == (3, ("wrn-40-1", "wrn-16-8"))
    assert failures == {"digits/x/seed0": "why", "digits/y/seed0": "before"}
    plan.save(dataclasses.replace(few, rows=()), tmp_path)
    assert plan.saved(tmp_path)[0][0].rows == ()
    (tmp_path / "plans" / "table4.json").write_text("{")
    with pytest.raises(wrn.Error, match=r"table4.json: damaged"):
        plan.saved(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("table22",), "did you mean table2"),
        (("table4", "--rows", "wrn-40-3"), "did you mean"),
        (("table7", "--paper-version", "v1"), "take v4"),
        (("table4", "--seeds", "0"), "at least 1"),
        (("table4", "--jobs", "0"), "at least 1"),
        (("table4", "--data", "cifar11"), "did you mean"),
        (("table6", "--dropout", "0.1"), "is what rows of table6 differ by"),
        (("quirks", "--precision", "bf16"), "is what rows of quirks differ by"),
    ],
)
def test_what_makes_no_sense_is_told(words, says, run_wrn):
    code, _, err = run_wrn("reproduce", *words)
    assert (code, says in err) == (2, True), err


HEAVY = sorted({*EXPERIMENTS} - {"table3", "fig4", "fig1"})


@pytest.mark.parametrize(
    "name", ["table3", "fig4", "fig1", *(pytest.param(each, marks=pytest.mark.slow) for each in HEAVY)]
)
def test_a_dry_run_shows_the_plan_and_runs_nothing(name, run_wrn, tmp_path):
    code, out, err = run_wrn("reproduce", name, "--dry-run")
    assert code == 0, err
    if name == "table3":
        assert "20 of 20 runs to do" in out
        assert out.count("2,243,546") == 4
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("experiment", "networks"), [("table4", 10), ("precision-small", 2)])
def test_each_network_is_timed_once_whatever_it_is_trained_on(experiment, networks, tmp_path, monkeypatch):
    """In bf16 and fp32 it is two."""
    timed = []

    def seconds(recipe, precision, device):
        timed.append((recipe.model, precision))
        return 2.0

    monkeypatch.setattr("wrn.reproduction.estimate._seconds_of_an_image", seconds)
    jobs = plan.jobs(plan.cells(plan.choose(experiment), tmp_path))
    found = estimate(jobs)
    assert len(timed) == len(set(timed)) == networks
    for job in jobs:
        images = job.recipe.labels or {"cifar10": 50_000, "cifar100": 50_000}[job.recipe.data]
        assert found[job.name].seconds == 2.0 * images * job.recipe.epochs
    assert {found[job.name].parameters for job in jobs if job.recipe.model == "wrn-28-10"} <= {36_479_194, 36_536_884}
