"""The README: what it quotes was printed by kept runs, what it shows runs, and it names what exists."""

import json
import re
from pathlib import Path

import pytest

from wrn.cli import GROUPS
from wrn.runs import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = README.replace("\n", " ")


def blocks(language):
    """The fenced blocks of one language, fences taken in pairs from the top."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [body for found, body in fenced if found == language]


def test_quoted_lines_come_from_kept_runs():
    logs = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "results").rglob("train.log"))
    quoted = [line for block in blocks("") for line in block.splitlines()]
    assert len(quoted) >= 3
    for line in quoted:
        assert line in logs, line


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_and_flags_exist(run_wrn):
    commands = [
        line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines() if "run wrn" in line
    ]
    for words in commands:
        words = words[words.index("wrn") + 1 :]
        command = words[:2] if words[0] in GROUPS else words[:1]
        help_text = run_wrn(*command, "--help")[1]
        for word in words:
            assert not word.startswith("--") or word in help_text, (words, word)


def kept(machine, what):
    """The rows of a benchmark in results/."""
    path = ROOT / "results" / "runs" / "bench" / machine / f"{what}.json"
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def between(ratios):
    """`5.7 to 7.0`, or one where they are as good as equal."""
    least, most = f"{min(ratios):.1f}", f"{max(ratios):.1f}"
    return least if least == most else f"{least} to {most}"


def ratio(machine, batch_size, of, model="wrn-16-4"):
    rows = [row for row in kept(machine, "infer") if (row["model"], row["batch_size"]) == (model, batch_size)]
    (found,) = [row[f"times {of}"] for row in rows if f"times {of}" in row]
    return f"{found:.1f}"


def test_the_speeds_are_those_of_the_kept_benchmark():
    """To what the README rounds to: whole images, or tenths below ten."""
    lines = re.findall(r"^\| WRN-(\S+),(?: batches of)? (\d+) \| (.*) \|$", README, flags=re.MULTILINE)
    assert len(lines) == 3
    ratios = []
    for model, batch, cells in lines:
        rows = {
            row["contestant"]: row
            for row in kept("cpu-amx-2", "train")
            if (row["model"], row["batch_size"]) == (f"wrn-{model}", int(batch))
        }
        names = ("usual loop, fp32", "usual loop, bf16 autocast, channels_last", "wrn")
        for name, cell in zip(names, cells.split(" | "), strict=True):
            assert float(cell) == round(rows[name]["images_per_second"], 1 if "." in cell else 0), (model, name)
        ratios.append([rows["wrn"][f"times {name}"] for name in names[:2]])
    for of in zip(*ratios, strict=True):
        assert f"{between(of)} times as fast" in WORDS
    one, many = (ratio("cpu-amx-2", size, "eager fp32") for size in (1, 64))
    assert f"{many} times as fast as in eager fp32 in batches of 64, {one} times one by one" in WORDS


def test_so_are_those_in_bf16_without_amx():
    machine, first = "cpu-avx512bf16-2", ("times usual loop, fp32", "times usual loop, bf16 autocast, channels_last")
    ours = [row for row in kept(machine, "train") if row["contestant"] == "wrn"]
    assert len(ours) == 3
    streamed = {"training": [], "validation": []}
    for row in kept(machine, "stream"):
        if row["contestant"] == "wrn":
            streamed[row["transform"]].append(row["times torchvision"])
    usual, tuned = (between([row[of] for row in ours]) for of in first)
    large = [
        row["times ONNX Runtime fp32"]
        for row in kept(machine, "infer-others")
        if row["contestant"] == "wrn, optimised" and row["model"] in ("wrn-18-1-imagenet", "wrn-50-2-bottleneck")
    ]
    for words in (
        f"training is {usual} times as fast as the usual loop in fp32 and {tuned} times as fast as in bf16",
        f"batches of 64 {ratio(machine, 64, 'ONNX Runtime fp32')} times as fast as ONNX Runtime in fp32",
        f"one by one {ratio(machine, 1, 'ONNX Runtime fp32')} times",
        f"ImageNet's WRN-18-1 and WRN-50-2-bottleneck {between(large)} times",
        f"augmented {between(streamed['training'])} times as fast as by torchvision's transforms and loader (for "
        f"validation, without augmentation, {between(streamed['validation'])} times)",
    ):
        assert words in WORDS, words


def test_so_are_those_without_bf16():
    machine, usual = "cpu-avx2-2", "times usual loop, fp32"
    ours = [row for row in kept(machine, "train") if row["contestant"] == "wrn"]
    others = [value for row in ours for name, value in row.items() if name.startswith("times ") and name != usual]
    assert len(others) == 3 * len(ours) == 9
    for words in (
        f"training in fp32 is {between([row[usual] for row in ours])} times as fast as the usual loop",
        f"{between(others)} times as fast as the same loop in channels_last",
        f"batches of 64 {ratio(machine, 64, 'ONNX Runtime fp32')} times as fast as ONNX Runtime",
        f"one by one {ratio(machine, 1, 'ONNX Runtime fp32')} times",
        f"WRN-16-1 {ratio(machine, 64, 'ONNX Runtime fp32', 'wrn-16-1')} and "
        f"{ratio(machine, 1, 'ONNX Runtime fp32', 'wrn-16-1')} times",
    ):
        assert words in WORDS, words


def test_the_errors_of_the_fast_recipe_are_those_of_kept_runs():
    words = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8").replace("\n", " ")
    runs = [Run(path.parent) for path in (ROOT / "results/runs/cifar10-jpeg").glob("wrn-16-2-*/*/result.json")]

    def mean(recipe, epochs):
        """Of the runs by the recipe as it is now, but for the epochs."""
        found = [
            run.result["test_error"]
            for run in runs
            if (run.recipe.recipe, run.recipe.epochs) == (recipe, epochs) and set(run.recipe.deviations()) == {"epochs"}
        ]
        assert len(found) == 3
        return f"{sum(found) / 3:.2f}%"

    ours, papers = mean("fast", 5), mean("paper", 20)
    assert f"three seeds: {ours} in 5 epochs, where the paper's recipe has {papers} in 20" in words


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == re.search(r"# (\d+), the paper's", code)[1]
    assert (tmp_path / "runs" / "example" / "result.json").exists()


@pytest.mark.parametrize("command", ["uv run wrn train", "uv run pytest"])
def test_the_two_commands_stand_there(command):
    assert f"pip install uv && {command}\n" in README
