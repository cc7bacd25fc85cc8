"""`wrn bench`: each kind of benchmark with what it takes of the command's options."""

from typing import Any

from wrn.benchmark.figure4 import bench_figure4
from wrn.benchmark.inference import bench_inference
from wrn.benchmark.loading import bench_loading
from wrn.benchmark.memory import bench_memory
from wrn.benchmark.training import BATCH_SIZES, bench_training
from wrn.errors import UsageError


def bench(what: str, models: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Run one and return what it found. Raises ValueError for an option that it has no use for."""
    usual: dict[str, Any] = {
        "compare": False, "batch_size": None, "rounds": 5, "device": None, "precision": None, "compile": False,
        "native": None, "data": "digits",
    }  # fmt: skip
    uses = {
        "train": {"compare", "batch_size", "rounds", "device", "precision", "compile", "native", "data"},
        "infer": {"rounds", "device", "batch_size"},
        "memory": {"batch_size", "device"},
        "data": {"batch_size", "rounds", "device", "data"},
        "fig4": {"batch_size", "rounds", "device", "precision", "native"},
    }[what]
    for name, value in options.items():
        if name not in uses and value != usual[name]:
            raise UsageError(f"bench {what}: has no use for --{name.replace('_', '-')}; leave it out")
    wanted = {name: value for name, value in options.items() if name in uses and value != usual[name]}
    if what == "fig4":
        if models:
            raise UsageError("bench fig4: times the figure's networks; leave the models out")
        return bench_figure4(**wanted)
    chosen = models or (("wrn-16-4",) if what == "data" else tuple(BATCH_SIZES))
    if what == "infer":
        sizes = (wanted.pop("batch_size"),) if "batch_size" in wanted else (1, 64)
        return bench_inference(models or ("wrn-16-4",), sizes, **wanted)
    if what == "memory":
        return bench_memory(chosen, **wanted)
    return bench_loading(chosen, **wanted) if what == "data" else bench_training(chosen, **wanted)
