"""Inference: one image at a time, and batches of 64."""

import importlib.util
import io
from typing import Any

import torch
from torch import nn

import wrn
from wrn.benchmark.timing import (
    Contestant,
    alternate,
    as_ours,
    as_usual,
    compared,
    machine,
    peaks,
    share_of_matmul_peak,
    synchronize,
)
from wrn.errors import UsageError
from wrn.inference import BySize, fastest
from wrn.models.names import parse
from wrn.training.precision import choose

EAGER, ONNX, OURS = "eager fp32", "ONNX Runtime fp32", "wrn, optimised"


def bench_inference(
    models: tuple[str, ...], batch_sizes: tuple[int, ...] = (1, 64), rounds: int = 5, device: str | None = None
) -> dict[str, Any]:
    """Time the networks as `wrn.load(..., optimize=True)` prepares them, against fp32 and ONNX Runtime if it is here.

    Returns {machine, peaks, rows}; a row has model, batch_size, contestant, ms, images_per_second and, for ours, how
    it is done and the ratios to the others. Weights are random and images noise of the network's size: as fast as real.
    """
    if min(batch_sizes, default=1) < 1:
        raise UsageError(f"--batch-sizes {min(batch_sizes)}: must be at least 1")
    execution = choose(device, "fp32")
    execution.apply()
    rows: list[dict[str, Any]] = []
    for model in models:
        made_for = parse(model)
        network = wrn.create_model(model, num_classes=made_for.classes, seed=0).eval().to(execution.device)
        optimised, how = fastest(network, model, made_for.image_size)
        for batch_size in batch_sizes:
            images = torch.randn(batch_size, 3, made_for.image_size, made_for.image_size, device=execution.device)
            contestants: dict[str, Contestant] = {
                OURS: as_ours(_of(optimised, images)),
                EAGER: as_usual(_of(network, images), execution.device),
            }
            if execution.device == "cpu" and (onnx := _onnx(network, images)):
                contestants[ONNX] = as_usual(onnx, execution.device)
            rows += compared(model, batch_size, alternate(contestants, rounds))
            rows[-len(contestants)]["how"] = optimised.how(batch_size) if isinstance(optimised, BySize) else how
    best = peaks(execution.device)
    for row in rows:
        if row["contestant"] == OURS:
            kind = "bf16" if "bf16" in row["how"] else "fp32"
            macs, peak = wrn.describe(row["model"]).macs, best[f"matmul_{kind}_tflops"]
            row["share_of_matmul_peak"] = share_of_matmul_peak(macs, row["batch_size"], row["ms"], 1, peak)
    return {"what": "infer", "machine": machine(execution.device), "peaks": best, "rows": rows}


def _of(network: nn.Module, images: torch.Tensor) -> Contestant:
    @torch.inference_mode()
    def step() -> None:
        network(images)
        synchronize(str(images.device))

    return step


def _onnx(network: nn.Module, images: torch.Tensor) -> Contestant | None:
    """ONNX Runtime on the exported network; None where it is not installed."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnxscript") is None:
        return None
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(network, (images,), dynamo=True, verbose=False, input_names=["images"]).save(file)  # type: ignore[union-attr,arg-type]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.numpy()}

    def step() -> None:
        session.run(None, given)

    return step
