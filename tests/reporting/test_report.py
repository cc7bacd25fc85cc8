"""The report of a folder of runs: each cell, each claim, and the page in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import wrn
from wrn.paper import authors_logs
from wrn.reporting import authors_log, statistics
from wrn.reporting.findings import find, rise
from wrn.reporting.markdown import section
from wrn.reporting.report import _is_the_same
from wrn.reproduction import plan


def test_the_interval_of_a_mean_is_students():
    """n = 5, t = 2.132 at 90% (printed tables)."""
    found = statistics.mean([5.0, 5.2, 5.1, 4.9, 5.3])
    half = 2.1318 * np.std([5.0, 5.2, 5.1, 4.9, 5.3], ddof=1) / 5**0.5
    assert (found.low, found.high) == (pytest.approx(5.1 - half, abs=1e-4), pytest.approx(5.1 + half, abs=1e-4))


@pytest.mark.parametrize("runs", [3, 4, 5, 8, 9])
def test_the_interval_of_a_median_covers_it_as_often_as_it_says(runs):
    draw = np.random.default_rng(0)
    found = [statistics.median(draw.normal(5, 1, runs).tolist()) for _ in range(300)]
    covered = np.mean([each.low <= 5 <= each.high for each in found])
    assert covered == pytest.approx(np.mean([each.confidence for each in found]), abs=0.06)  # 2.5 deviations of 300


@pytest.mark.parametrize(
    ("worse", "better", "single", "verdict"),
    [
        ({0: 6.0, 1: 6.1, 2: 6.2}, {0: 5.0, 1: 5.2, 2: 5.2}, False, True),
        ({0: 5.0, 1: 5.2, 2: 5.2}, {0: 6.0, 1: 6.1, 2: 6.2}, False, False),
        ({0: 5.0, 1: 5.2, 2: 5.3}, {0: 5.1, 1: 5.0, 2: 5.3}, False, None),
        ({0: 6.0}, {0: 5.0}, False, None),
        ({0: 6.0}, {0: 5.0}, True, True),
        ({0: 5.0}, {0: 5.0}, True, None),
        ({0: 9.0, 1: 6.1, 2: 6.2, 3: 6.0}, {1: 5.1, 2: 5.2, 3: 5.1, 4: 9}, False, True),
    ],
)
def test_a_claim_is_decided_by_paired_seeds(worse, better, single, verdict):
    assert statistics.above_zero(statistics.paired(worse, better), single) is verdict


@pytest.mark.parametrize(
    ("ours", "single", "verdict"),
    [
        ([5.0, 5.05, 4.95, 5.1, 5.0], False, True),
        ([6.0, 6.1, 6.2, 6.1, 6.0], False, False),
        ([4.9, 5.3, 5.5, 5.1, 5.4], False, None),
        ([5.0, 5.0], False, None),
        ([5.0], True, True),
        ([5.4], True, False),
    ],
)
def test_a_row_is_reproduced_within_the_tolerance(ours, single, verdict):
    assert statistics.within(statistics.median(ours), 5.0, 0.3, single) is verdict


def pretend(job, error, state="finished"):
    """A run's files with a chosen outcome, which training would take days for."""
    job.path.mkdir(parents=True)
    (job.path / "recipe.json").write_text(json.dumps({"seed": job.seed, "recipe": job.recipe.to_dict()}))
    (job.path / "env.json").write_text(json.dumps({"execution": {"device": "cpu", "precision": "fp32"}}))
    epochs = range(1, (job.recipe.epochs if state == "finished" else 7) + 1)
    lines = [{"epoch": e, "lr": job.recipe.lr_at(e), "train_loss": 1 / e, "test_error": error + 10 / e} for e in epochs]
    (job.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if state == "finished":
        result = {"test_error": error, "precision": "fp32", "parameters": 11_173_962, "test_top5_error": error / 3}
        (job.path / "result.json").write_text(json.dumps(result))


@pytest.fixture
def folder(tmp_path):
    """Table 3 with three seeds: finished, running, stopped, failed and missing runs."""
    choice = plan.choose("table3", seeds=3)
    jobs = {(cell.row.key, job.seed): job for cell in plan.cells(choice, tmp_path) for job in cell.jobs}
    for seed, (one, two) in enumerate(((6.6, 5.4), (6.7, 5.5), (6.8, 5.3))):
        pretend(jobs["wrn-40-2-b3", seed], one)
        pretend(jobs["wrn-40-2", seed], two)
    pretend(jobs["wrn-40-2-b333", 0], 5.7)
    pretend(jobs["wrn-40-2-b333", 1], 0, "running")
    pretend(jobs["wrn-40-2-b333", 2], 0, "stopped")
    plan.save(choice, tmp_path, failures={jobs["wrn-40-2-b3333", 0].name: "out of <memory> & luck"})
    with wrn.Run(jobs["wrn-40-2-b333", 1].path).hold():
        yield tmp_path


def table_of(text, title):
    lines = text.split(f"## {title}")[1].split("\n## ")[0].splitlines()
    rows = [line for line in lines[2:] if line.startswith("|")]
    return {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:-1]] for row in rows}


def in_another_process(*words):
    import sys

    done = subprocess.run([sys.executable, "-m", "wrn", "report", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_cell_is_right(folder):
    cells = table_of(in_another_process(folder), "Table 3")
    assert cells["wrn-40-2"] == [
        "11,173,962",
        "5.40 (5.30 to 5.50; n = 3), 75% [5.30, 5.50]",
        "5.43",
        "reproduced (±0.3)",
    ]
    assert cells["wrn-40-2-b3"][1:] == ["6.70 (6.60 to 6.80; n = 3), 75% [6.60, 6.80]", "6.69", "reproduced (±0.3)"]
    assert cells["wrn-40-2-b333"][1:] == [
        "5.70; 1 running; 1 stopped after epoch 7 of 200",
        "5.65",
        "undecided (±0.3, 1 run)",
    ]
    assert cells["wrn-40-2-b3333"][1:] == ["1 failed; 2 missing", "5.93", ""]
    assert cells["two convolutions are best"][:2] == ["not decided (1 of 3 comparisons missing)", "held"]
    assert "wrn-40-2-b3 - wrn-40-2 on CIFAR-10: +1.30 [" in cells["two convolutions are best"][2]


def test_json_has_the_numbers_of_every_cell_claim_run_and_benchmark(folder):
    """Of one pair the interval has no ends, and JSON knows no infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    choice = plan.choose("quirks", data="digits", rows=("wrn-16-4", "last batch kept"), seeds=1)
    for job, error in zip(plan.jobs(plan.cells(choice, folder)), (1.5, 1.75), strict=True):
        pretend(job, error)
    plan.save(choice, folder)
    bench = folder / "bench" / "a" / "b" / "train.json"
    bench.parent.mkdir(parents=True)
    bench.write_text(json.dumps({"what": "train", "machine": {"device": "x"}, "rows": [{"ms": 1.5}]}))
    found = json.loads(in_another_process(folder, "--json"), parse_constant=refuse)
    experiments = {each["experiment"]: each for each in found["experiments"]}
    pair = experiments["quirks"]["cells"][1]["base_minus_this"]
    assert pair == {"value": -0.25, "low": None, "high": None, "n": 1, "confidence": 0.9}
    table3 = experiments["table3"]
    cells = {cell["row"]: cell for cell in table3["cells"]}
    assert cells["wrn-40-2"]["by_seed"] == {"0": 5.4, "1": 5.5, "2": 5.3}
    assert cells["wrn-40-2"]["median"] == {"value": 5.4, "low": 5.3, "high": 5.5, "n": 3, "confidence": 0.75}
    assert (cells["wrn-40-2"]["paper"], cells["wrn-40-2"]["verdict"]) == (5.43, "reproduced (±0.3)")
    assert cells["wrn-40-2-b3333"]["median"] is None
    assert cells["wrn-40-2-b3333"]["unfinished"] == "1 failed; 2 missing"
    assert {claim["verdict"].partition(" (")[0] for claim in table3["claims"]} == {"not decided"}
    errors = sorted(run["test_error"] for run in found["runs"] if run["finished"])
    assert errors == [1.5, 1.75, 5.3, 5.4, 5.5, 5.7, 6.6, 6.7, 6.8]
    assert [(each["name"], each["rows"]) for each in found["benchmarks"]] == [("a/b", [{"ms": 1.5}])]
    assert found["authors_logs"][0]["epochs"][0]["epoch"] == 1


def test_what_failed_says_why(folder):
    ((choice, failures),) = plan.saved(folder)
    told = section(find(choice, folder, failures))
    assert "wrn-40-2-b3333 on CIFAR-10 failed: out of <memory> & luck" in told
    assert "5.11 and has 4.92 at best" in told


def test_other_seeds_and_versions_join_the_same_table(tmp_path):
    assert plan.choose("table3", seeds=1).name == plan.choose("table3", seeds=5).name == "table3"
    assert plan.choose("table5", "v1").name != plan.choose("table5", "v4").name


def test_a_figure_whose_runs_failed_says_so(tmp_path):
    """Before they had a folder, whose curves are wanted all the same."""
    choice = plan.choose("fig2-small", seeds=1)
    names = [job.name for job in plan.jobs(plan.cells(choice, tmp_path))]
    plan.save(choice, tmp_path, failures=dict.fromkeys(names, "no such data"))
    told = in_another_process(tmp_path)
    assert "wrn-22-1 on CIFAR-10 failed: no such data" in told


def test_times_are_kept_apart_by_precision_and_joined_row_by_row(tmp_path):
    choice = plan.choose("fig4")

    def keep(chosen, **ms):
        rows = [
            {
                "model": name,
                "ms": value,
                "ms_min": 0.95 * value,
                "ms_max": 1.05 * value,
                "ratio to wrn-40-4": value / 10,
            }
            for name, value in ms.items()
        ]
        found = {"machine": {"device": "x", "threads": 1, "torch": "2"}, "execution": "cpu", "rows": rows}
        path = plan.times_path(chosen, tmp_path)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found))

    keep(choice, **{"wrn-40-4": 10.0, "pre-resnet-1001": 75.0})
    keep(plan.choose("fig4", precision="bf16"), **{"wrn-40-4": 10.0, "pre-resnet-1001": 9.0})
    (claim,) = find(choice, tmp_path).claims
    assert (claim.verdict, claim.figures) == (
        "not decided (1 of 2 comparisons missing)",
        ("pre-resnet-1001 : wrn-40-4 = 7.50",),
    )
    keep(choice, **{"wrn-40-4": 10.0, "pre-resnet-1001": 75.0, "wrn-28-10": 46.0})
    assert find(choice, tmp_path).claims[0].verdict == "held"
    keep(choice, **{"wrn-40-4": 10.0, "pre-resnet-1001": 44.0, "wrn-28-10": 46.0})
    assert find(choice, tmp_path).claims[0].verdict == "not decided", "within what rounds differ by"
    plan.times_path(choice, tmp_path).write_text("{")
    with pytest.raises(wrn.Error, match="damaged"):
        find(choice, tmp_path)


def test_one_run_decides_in_the_columns_where_the_paper_had_one(tmp_path):
    """Table 6 has medians of five runs on CIFAR and single ones on SVHN."""
    choice = plan.choose("table6", seeds=1)
    for cell in plan.cells(choice, tmp_path):
        (job,) = cell.jobs
        if (theirs := plan.paper_value(choice, cell.row, cell.column)) is not None:
            pretend(job, theirs)
    verdicts = {claim.text: claim.verdict for claim in find(choice, tmp_path).claims}
    assert verdicts["dropout helps on SVHN"] == "held (from one run each, as the paper's)"
    assert verdicts["dropout helps WRN-28-10"] == "not decided"


@pytest.mark.parametrize(
    ("title", "fields", "same"),
    [
        ("WRN-28-10 on CIFAR-10, GCN+ZCA", {"data": "cifar10", "preprocess": "zca"}, True),
        ("WRN-28-10 on cifar100_original", {"data": "cifar100", "preprocess": "meanstd"}, True),
        ("WRN-28-10 on cifar100_original", {"data": "cifar10", "preprocess": "zca"}, False),
        ("WRN-28-10 on cifar100_whitened", {"data": "cifar100", "preprocess": "meanstd"}, False),
        ("pre-act ResNet-164 on CIFAR-10, GCN+ZCA", {"data": "cifar10", "preprocess": "zca"}, False),
        ("WRN-28-10 on something", {"data": "cifar10"}, False),
        ("WRN-28-10", {"data": "cifar10"}, False),
    ],
)
def test_ours_beside_the_authors_log_is_the_same_network_on_the_same_data(title, fields, same, tmp_path):
    job = plan.placed(wrn.recipe("wrn-28-10", recipe="authors", **fields), 0, "fp32", tmp_path)
    pretend(job, 4.0)
    assert _is_the_same(wrn.Run(job.path), authors_log.AuthorsLog(title, ())) is same


def test_a_stray_file_does_not_stop_the_report(folder, tmp_path):
    (folder / "junk & co").mkdir()
    (folder / "junk & co" / "recipe.json").write_text('{"a": 1}')
    page = tmp_path / "page.html"
    in_another_process(folder, "--out", page)
    assert "is not what was written" in page.read_text()


def test_nothing_run_says_so(tmp_path):
    told = in_another_process(tmp_path)
    assert "Not run: table2, table3" in told


def test_the_authors_log_is_read_and_drawn(tmp_path):
    """In the format of their repository, of the epochs that it has."""
    (epochs,) = (log["epochs"] for log in authors_logs() if log["network"] == "WRN-40-4")
    path = tmp_path / "log.txt"
    with path.open("w") as file:
        file.write("==> loading data\t\n")
        for line in epochs:
            told = {"model": "wide-resnet", "depth": 40, "widen_factor": 4, "dataset": "./datasets/cifar10_whitened.t7",
                    "epoch": line["epoch"], "lr": line["lr"], "loss": line["train_loss"], "train_time": 289.3,
                    "test_acc": round(100 - line["test_error"], 2)}  # fmt: skip
            file.write(f"==> online epoch # {line['epoch']} [batchSize = 128]\t\njson_stats: {json.dumps(told)}\t\n")
    (log,) = authors_log.read([path])
    assert log.title == "WRN-40-4 on cifar10_whitened"
    assert (log.last, log.best["test_error"], log.best["epoch"]) == (5.11, 4.92, 185)
    cells = table_of(in_another_process(tmp_path, "--log", path), "The authors' logs")
    assert cells["WRN-40-4 on cifar10_whitened"] == ["200", "5.11", "4.92 at epoch 185"]
    path.write_text("json_stats: {\n")
    with pytest.raises(wrn.Error, match="line 1: no line of the authors' log"):
        authors_log.read([path])
    path.write_text("nothing")
    with pytest.raises(wrn.Error, match="has no line"):
        authors_log.read([path])


def test_the_rise_of_their_log_is_found():
    """6.84 at epoch 60, 10.6 at 119."""
    assert 1 < rise(authors_logs()[0]["epochs"]) < 4
    assert rise(authors_logs()[0]["epochs"][:100]) is None


def test_the_page_needs_nothing_else_and_escapes_what_it_is_told(folder, tmp_path):
    page = tmp_path / "page.html"
    in_another_process(folder, "--out", page)
    text = page.read_text()
    assert "out of &lt;memory&gt; &amp; luck" in text
    assert "<memory>" not in text
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert not re.findall(r"url\((?!data:)|@import|<script", text)
    links = re.findall(r'href="([^"#]+/(?:recipe|env)\.json)"', text)
    assert len(links) == 2 * 9
    assert all((tmp_path / link).exists() for link in links)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_opens_in_a_browser_without_a_complaint(folder, tmp_path, width):
    page = tmp_path / "page.html"
    in_another_process(folder, "--out", page)
    log = tmp_path / "net.json"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--virtual-time-budget=3000"]
    notes = ["--enable-logging=stderr", "--v=0", f"--log-net-log={log}"]
    command = [CHROMIUM, *flags, *notes, "--dump-dom", page.as_uri()]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in told.stderr
    assert "Table 3" in told.stdout
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    ours = {url for url in asked if "google" not in url and "gvt1" not in url}  # the browser's own errands
    assert not ours


def test_results_are_made_of_the_kept_runs():
    """RESULTS.md is what `wrn report` writes, word for word."""
    root = Path(__file__).parent.parent.parent
    kept = (root / "RESULTS.md").read_text(encoding="utf-8")
    told = re.sub(r"^!\[.*\n\n", "", kept.split("not edited.\n\n")[1], flags=re.MULTILINE)
    assert told.strip() == in_another_process(root / "results" / "runs").strip()
    assert all((root / target).exists() for target in re.findall(r"\]\((RESULTS-figures/[^)]+)\)", kept))


def test_runs_of_no_table_are_listed_too(folder):
    job = plan.placed(wrn.recipe("wrn-10-1", data="digits", epochs=4), 0, "fp32", folder)
    pretend(job, 1.25)
    told = in_another_process(folder)
    _, _, *others = table_of(told, "Other runs").items()
    assert others == [(job.name, ["wrn-10-1 on digits, seed 0", "paper but epochs 4", "cpu fp32", "1.25"])]


def test_times_are_beside_plain_wrn_whatever_file_comes_first(tmp_path, run_wrn):
    """As benchmarks/gpu.sh names them, `train-X-graphs.json` lies before `train-X.json`."""
    train = {
        "train-X-graphs": ("cuda, bf16, graphs", {"wrn, graphs": 5}),
        "train-X": ("cuda, bf16", {"wrn": 10, "usual loop, fp32": 30}),
    }
    assert ratios(tmp_path, run_wrn, train) == {
        ("X (1)", "wrn, graphs"): "0.50",
        ("X (1)", "wrn"): "",
        ("X (1)", "usual loop, fp32"): "3.00",
    }


def test_times_are_relative_to_those_of_the_same_run(tmp_path, run_wrn):
    train = {
        "train": ("cuda, bf16", {"wrn": 400, "usual loop, fp32": 1800}),
        "train-fp32": ("cuda, fp32", {"wrn": 1200, "usual loop, fp32": 2400}),
    }
    assert ratios(tmp_path, run_wrn, train) == {
        ("X (1, bf16)", "wrn"): "",
        ("X (1, bf16)", "usual loop, fp32"): "4.50",
        ("X (1, fp32)", "wrn"): "",
        ("X (1, fp32)", "usual loop, fp32"): "2.00",
    }


def ratios(tmp_path, run_wrn, train):
    """{(what was trained, by whom): time relative to ours} of the report, from {file: (execution, {by: ms})}."""
    about = {"device": "GPU", "threads": 1, "torch": "2"}
    for name, (execution, times) in train.items():
        same = {"model": "X", "batch_size": 1, "images_per_second": 1.0}
        rows = [{**same, "contestant": by, "ms": ms, "ms_min": ms, "ms_max": ms} for by, ms in times.items()]
        path = tmp_path / "runs" / "bench" / "cuda" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"what": "train", "machine": about, "execution": execution, "rows": rows}))
    code, out, err = run_wrn("report", "runs")
    assert code == 0, err
    lines = [[cell.strip() for cell in line.split("|")] for line in out.splitlines() if line.startswith("| X")]
    return {(cells[1], cells[2]): cells[5] for cells in lines}


def test_a_networks_memory_is_told_without_a_usual_loop_of_it(tmp_path, run_wrn):
    """As of ImageNet's."""
    row = {"model": "resnet-50", "batch_size": 8, "contestant": "wrn", "mib": 900.0, "arrays_mib": 800.0}
    about = {"device": "CPU", "threads": 1, "torch": "2"}
    (tmp_path / "runs/bench/mine").mkdir(parents=True)
    found = {"what": "memory", "machine": about, "execution": "cpu, fp32", "rows": [row]}
    (tmp_path / "runs/bench/mine/memory.json").write_text(json.dumps(found))
    code, out, err = run_wrn("report", "runs")
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("| resnet-50 (8)"))
    assert [cell.strip() for cell in line.split("|")[1:-1]] == ["resnet-50 (8)", "wrn", "900", "800", ""]
