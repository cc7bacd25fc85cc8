"""Where and how arithmetic is done: device, number format, layout, compilation, threads. Chosen once a run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from wrn.errors import Error, UsageError
from wrn.files import cache_dir
from wrn.hardware import allow_tf32, multiplies_bf16, tf32
from wrn.native import operations, recomputation
from wrn.native.library import Kind, available, library
from wrn.native.memory import keep_freed_memory
from wrn.native.recomputation import Memory

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Execution:
    """How a run computes. Recorded in `env.json` and kept when the run continues, for the same bits at its end."""

    device: str
    precision: Precision
    channels_last: bool
    compile: bool
    threads: int
    native: bool = False
    memory: Memory = "normal"
    deterministic: bool = False
    graphs: bool = False

    @property
    def kind(self) -> Kind | None:
        """Which of our kernels suit this execution, on a processor that can run them; None if none do."""
        on_cpu = torch.device(self.device).type == "cpu"
        return self.precision if on_cpu and not self.compile and self.precision != "tf32" else None

    @property
    def products(self) -> torch.dtype | None:
        """What an optimiser multiplies matrices in; None: the format of the weights."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def apply(self) -> None:
        """Set the process up: threads, TF32 only where it was asked for, freed memory and compiled code kept.

        `deterministic`: no kernel that adds up in an order of its own; torch refuses what it has no other for.
        """
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        allow_tf32(self.device, self.precision == "tf32")
        if torch.device(self.device).type == "cpu":
            keep_freed_memory()
        if self.compile:  # before torch, as it begins to compile, chooses a place that the system clears up
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))
        if self.deterministic:
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if self.deterministic and not torch.are_deterministic_algorithms_enabled():  # being told loads torch's compiler
            torch.use_deterministic_algorithms(True)
        if torch.device(self.device).type == "cuda":
            # Images are of one size: to search for the fastest convolutions pays, but these may want more memory
            torch.backends.cudnn.benchmark = self.memory == "normal" and not self.deterministic
            if self.deterministic:  # before cuBLAS is loaded
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.cuda.init()  # which torch forgets where a device has a number
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """bf16 for convolutions and linear layers, fp32 for BN statistics and master weights; or fp32 throughout.

        TF32 too is as this execution has it, whatever the process was set to.
        """
        kernels = operations.enabled(self.kind) if self.native and self.kind else nullcontext()
        autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16, self.precision == "bf16")
        # What is compiled decides by itself what to keep, within a budget
        memory = recomputation.using("normal" if self.compile else self.memory)
        with autocast, kernels, memory, tf32(self.device, self.precision == "tf32"):
            yield

    def exact(self) -> "Execution":
        """The same in fp32."""
        return replace(self, precision="fp32", native=False, memory="normal")

    def place(self, model: nn.Module) -> nn.Module:
        """Move the model to the device and layout; the modules stay the same ones."""
        return model.to(self.device, memory_format=self._layout)  # type: ignore[call-overload]

    def compiled(self, called: Callable[..., Any]) -> Callable[..., Any]:
        """A model, or a method of it, as the steps call it: itself, or compiled, with the same parameters."""
        if not self.compile:
            return called
        from torch._functorch import config

        # The share of what would be kept for the backward pass that is kept; torch has one setting for the process
        config.activation_memory_budget = {"normal": 1.0, "low": 0.5, "lowest": 0.0}[self.memory]
        return torch.compile(called, dynamic=False)

    def arrange(self, images: Tensor) -> Tensor:
        """Images in the layout that the network computes in."""
        return images.contiguous(memory_format=self._layout)

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def in_words(self) -> str:
        """`cpu (2 threads), bf16`."""
        where = f"cpu ({self.threads} threads)" if self.device == "cpu" else self.device
        how = ", compiled" if self.compile else ", native" if self.native else ""
        how += ", graphs" if self.graphs else ""
        also = ("" if self.memory == "normal" else f", {self.memory} memory") + (
            ", deterministic" if self.deterministic else ""
        )
        return f"{where}, {self.precision}{how}{also}"

    @property
    def gpu(self) -> str | None:
        """What computes, if it is a GPU, and cuDNN's version: other ones add in another order."""
        if torch.device(self.device).type != "cuda":
            return None
        return f"{torch.cuda.get_device_name(self.device)}, cuDNN {torch.backends.cudnn.version()}"

    @property
    def inexact(self) -> str | None:
        """Why training again on the same machine may give other bits; None if it gives the same."""
        kind = torch.device(self.device).type
        if kind == "cpu" or (kind == "cuda" and self.deterministic):
            return None
        return "cuda without --deterministic" if kind == "cuda" else f"{kind} promises nothing"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose(
    device: str | None = None,
    precision: str | None = None,
    compile: bool = False,
    native: bool | None = None,
    memory: Memory = "normal",
    deterministic: bool = False,
    graphs: bool = False,
) -> Execution:
    """The fastest faithful way on this machine, or what is asked for.

    CUDA before Apple's MPS before the CPU; bf16 where the hardware multiplies it fast (CUDA from Ampere on, CPUs with
    AMX or AVX512-BF16). On CPUs our own kernels (`native`), if a C++ compiler is found: for bf16 with AVX512-BF16, for
    fp32 with AVX2; the latter not with an explicit "fp32", which is torch's own to the bit.
    "tf32": fp32 whose products round their factors to 10 bits, on GPUs.
    `memory`: "low" computes BN-ReLU again in the backward pass, "lowest" whole residual blocks. `deterministic`: the
    same bits each time on CUDA too, as on CPUs. `graphs`: on CUDA whole steps as a CUDA graph.
    Raises ValueError for an absent device, an unknown precision, and combinations that do not work.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    known = known_device(device)
    if precision not in (None, *get_args(Precision)):
        raise UsageError(f"precision {precision!r}: must be fp32, tf32 or bf16")
    if precision == "tf32" and not (known.type == "cuda" and multiplies_bf16(known)):
        raise UsageError("precision tf32: NVIDIA's GPUs have it, from Ampere on; take fp32 or bf16")
    if memory not in get_args(Memory):
        raise UsageError(f"memory {memory!r}: must be {', '.join(get_args(Memory)[:-1])} or {get_args(Memory)[-1]}")
    chosen: Precision = precision or ("bf16" if multiplies_bf16(known) else "fp32")  # type: ignore[assignment]
    if graphs and known.type != "cuda":
        raise UsageError(f"graphs: {device} has none, CUDA devices do; leave --graphs out")
    if graphs and memory == "lowest":
        raise UsageError("graphs: a graph cannot compute blocks twice; take --memory low, or leave --graphs out")
    # MPS is left in its default layout: channels_last has not been run there
    found = Execution(device, chosen, known.type != "mps", compile, torch.get_num_threads())
    found = replace(found, memory=memory, deterministic=deterministic, graphs=graphs)
    if native and found.kind is None:
        raise UsageError("native: the kernels are for CPUs, uncompiled; leave --native out")
    if native and found.kind:
        library(found.kind)
    elif native is None and found.kind:
        left_to_us = precision is None or chosen == "bf16"
        native = left_to_us and available(found.kind)
    return replace(found, native=bool(native))


def recorded(fields: dict[str, Any]) -> Execution:
    """The execution of an `env.json`. Raises ValueError if its device is not on this machine."""
    try:
        execution = Execution(**fields)
        for name, kind in get_type_hints(Execution).items():
            if type(value := getattr(execution, name)) is not (kind if isinstance(kind, type) else str):
                raise TypeError(f"{name} is {value!r}")
        if execution.threads < 1:
            raise TypeError(f"threads is {execution.threads}")
    except TypeError as error:
        raise Error(f"env.json: damaged, or of another version ({error}); start over with --fresh") from error
    known_device(execution.device)
    if execution.native and execution.kind:
        library(execution.kind)
    return execution


def known_device(device: str | torch.device) -> torch.device:
    """The device of that name. Raises ValueError for one that is none, or is not on this machine."""
    try:
        known = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device '{device}': no such device; write cpu, cuda, cuda:1 or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (known.index or 0) >= count.get(known.type, 0):
        raise UsageError(f"device '{device}': not on this machine, or torch was built without it; try --device cpu")
    return known
