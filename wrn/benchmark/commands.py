"""`wrn bench`: one function a benchmark; parse, call, print. No torch until one runs."""

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from wrn.benchmark.report import markdown
from wrn.files import as_json
from wrn.options import Device, Json, Native, Precision, option, truth

Models = Annotated[
    Positional[tuple[str, ...]], option("such as wrn-16-4 (default: those in our tables)", "[MODEL ...]")
]
Some = Annotated[Positional[tuple[str, ...]], option("such as wrn-28-10 (default: wrn-16-4)", "[MODEL ...]")]
BatchSize = Annotated[int | None, option("images a step (default: 128; on a CPU depends on the network)", "INT")]
Rounds = Annotated[int, arg(help="rounds of alternating timing; medians are shown")]
Data = Annotated[str, arg(help="a data set that fits in memory", metavar="DATA")]
Out = Annotated[str | None, option("write the results to this file, as JSON", "FILE")]


def bench_train(
    models: Models = (),
    *,
    compare: Annotated[bool, option("also time the usual PyTorch loops")] = False,
    batch_size: BatchSize = None,
    rounds: Rounds = 5,
    device: Device = None,
    precision: Precision = None,
    compile: Annotated[bool, option("compile ours first")] = False,
    graphs: Annotated[bool, option("ours as a CUDA graph")] = False,
    native: Native = None,
    data: Data = "digits",
    out: Out = None,
    json: Json = False,
) -> None:
    """Time training steps, against the machine's peak and, with --compare, the usual PyTorch loops."""
    from wrn.benchmark.training import bench_training

    found = bench_training(
        models, batch_size, rounds, device, precision, compile, truth(native), graphs, compare=compare, data=data
    )
    _tell(found, out, json)


def bench_infer(
    models: Some = ("wrn-16-4",),
    *,
    batch_sizes: Annotated[tuple[int, ...], option("images at a time (default: 1 64)", "INT [INT ...]")] = (1, 64),
    rounds: Rounds = 5,
    device: Device = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Time inference of networks prepared by `wrn.load(..., optimize=True)`, against eager fp32."""
    from wrn.benchmark.inference import bench_inference

    _tell(bench_inference(models, batch_sizes, rounds, device), out, json)


def bench_memory_(
    models: Models = (),
    *,
    batch_size: BatchSize = None,
    device: Device = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Peak memory of training steps, ours and the usual loops', each in a process of its own."""
    from wrn.benchmark.memory import bench_memory

    _tell(bench_memory(models, batch_size, device), out, json)


def bench_data(
    models: Some = ("wrn-16-4",),
    *,
    batch_size: BatchSize = None,
    rounds: Rounds = 5,
    device: Device = None,
    data: Data = "digits",
    out: Out = None,
    json: Json = False,
) -> None:
    """The loader's share of a training step."""
    from wrn.benchmark.loading import bench_loading

    _tell(bench_loading(models, batch_size, rounds, device, data), out, json)


def bench_stream(
    folder: Annotated[Positional[str], option("holds pictures, at any depth, such as ImageNet's val/", "FOLDER")],
    *,
    workers: Annotated[tuple[int, ...], option("processes that decode (default: 1 2)", "INT [INT ...]")] = (1, 2),
    rounds: Rounds = 5,
    out: Out = None,
    json: Json = False,
) -> None:
    """Pictures a second that are decoded and augmented as for ImageNet, against torchvision's transforms and loader."""
    from wrn.benchmark.streaming import bench_streaming

    _tell(bench_streaming(folder, workers, rounds), out, json)


def bench_startup_(*, rounds: Rounds = 5, out: Out = None, json: Json = False) -> None:
    """Time until `wrn --help` is done and until `wrn train` begins its first step, each in a new process."""
    from wrn.benchmark.startup import bench_startup

    _tell(bench_startup(rounds), out, json)


def bench_fig4(
    *,
    batch_size: Annotated[int, arg(help="images a step")] = 32,
    rounds: Rounds = 5,
    device: Device = None,
    precision: Precision = None,
    native: Native = None,
    out: Out = None,
    json: Json = False,
) -> None:
    """Figure 4: time forward and backward passes of its networks, as ratios beside the paper's."""
    from wrn.benchmark.passes import bench_times

    _tell(bench_times("fig4", batch_size, rounds, device, precision, truth(native)), out, json)


def bench() -> None:
    """Benchmark training, inference, memory, data and start-up, against the usual ways: `wrn bench --help`."""


BENCH_COMMANDS = {
    "train": bench_train, "infer": bench_infer, "memory": bench_memory_, "data": bench_data, "stream": bench_stream,
    "startup": bench_startup_, "fig4": bench_fig4,
}  # fmt: skip


def _tell(found: dict[str, Any], out: str | None, json: bool) -> None:
    print(as_json(found) if json else markdown(found), flush=True)  # before the disk may refuse it
    if out is not None:
        from wrn.files import write_json

        write_json(Path(out), found)
