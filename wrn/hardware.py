"""What torch does not say or do of itself: which arithmetic is fast here, how fp32 rounds, how much memory is held.

torch is imported by what needs it alone: who counts cores does not.
"""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrn.errors import Error

if TYPE_CHECKING:
    import torch


def multiplies_bf16(device: "torch.device") -> bool:
    """Whether the device multiplies bf16 faster than fp32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        features = torch.cpu.get_capabilities()
        return bool(features.get("amx_bf16") or features.get("avx512_bf16"))
    return False


def allow_tf32(device: "str | torch.device", allowed: bool) -> None:
    """Whether products of fp32 on a GPU may round their factors to 10 bits, as cuDNN does of itself.

    A setting of the process, which is left as it is where nothing is computed on a GPU.
    """
    import torch

    if torch.device(device).type == "cuda":
        cudnn: Any = torch.backends.cudnn  # whose newer names have no types
        cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        # To cuDNN "not allowed" by the older name means "as all of torch is set to". Recurrent networks' is set too, or
        # torch refuses to tell the older name's value
        for kind in (cudnn.conv, cudnn.rnn):
            kind.fp32_precision = "tf32" if allowed else "ieee"


@contextmanager
def tf32(device: "str | torch.device", allowed: bool) -> Iterator[None]:
    """Within, they may, or may not."""
    import torch

    if torch.device(device).type != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn
    cublas: Any = torch.backends.cuda.matmul
    # The newer names can be read whichever were used to set them
    convolutions, recurrent, products = (each.fp32_precision for each in (cudnn.conv, cudnn.rnn, cublas))
    allow_tf32(device, allowed)
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32 = convolutions == "tf32", products == "tf32"
        cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision = convolutions, recurrent


# The last is oneDNN's, which says "primitive descriptor" where it cannot do something at all
_NO_MEMORY = re.compile(
    "can't allocate memory|cannot allocate memory|out of memory|could not create a primitive$", re.I | re.M
)


def out_of_memory(error: BaseException) -> Error | None:
    """What to tell the user of a failure that is lack of memory; None if it is none."""
    text = str(error).strip()
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    of_torch = isinstance(error, RuntimeError) and _NO_MEMORY.search(text) is not None
    if not (of_torch or of_system or isinstance(error, MemoryError)):
        return None
    reason = text.partition("\n")[0]
    if wanted := re.search(r"tried to allocate (\d+) bytes", text):
        reason = f"{int(wanted[1]) / 1e6:,.1f} MB more could not be had"
    reason = reason or "no more could be had"
    return Error(f"out of memory: {reason}; lower --batch-size, or take a smaller network")


def cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory(device: str) -> int | None:
    """Bytes held at most so far: by torch on a GPU, by the process on a CPU; None where the system does not say."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_held(device: str) -> int:
    """Bytes held now; on a CPU where the system does not say, what was held at most so far."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_memory(device) or 0
    return pages * os.sysconf("SC_PAGE_SIZE")
