"""Signals: Ctrl-C and SIGTERM finish the step and save, Ctrl-C after them stops at once; SIGUSR1 saves and goes on."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training stopped on a signal, after saving. The command's exit code is 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption:
    """Which signal has come, if any; and whether it is time to save, for that or because `every` seconds are over."""

    def __init__(self, every: float | None = None) -> None:
        self.every = every
        self.signal_number: int | None = None
        self.asked = False  # to save and go on
        self.saved()

    def saved(self) -> None:
        """Note that all is on the disk now."""
        self.asked = False
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether to save now."""
        late = self.every is not None and time.monotonic() - self._last >= self.every
        return late or self.asked or self.signal_number is not None

    def _stop(self, signal_number: int, _: FrameType | None) -> None:
        if self.signal_number is not None and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = signal_number

    def _ask(self, _: int, __: FrameType | None) -> None:
        self.asked = True


@contextmanager
def interruption(every: float | None = None) -> Iterator[Interruption]:
    """While open, note signals instead of dying of them."""
    noted = Interruption(every)
    handlers: dict[signal.Signals, Any] = {signal.SIGINT: noted._stop, signal.SIGTERM: noted._stop}
    if hasattr(signal, "SIGUSR1"):  # Slurm sends it before the time is up: #SBATCH --signal=USR1@120
        handlers[signal.SIGUSR1] = noted._ask
    with handled(handlers):
        yield noted


@contextmanager
def undisturbed() -> Iterator[None]:
    """While open, neither a closing terminal (SIGHUP) nor a SIGUSR1 with nothing to save ends the process."""
    numbers = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    with handled(dict.fromkeys(numbers, lambda *_: None)):
        yield


@contextmanager
def handled(handlers: dict[signal.Signals, Any]) -> Iterator[None]:
    """While open, these signal handlers are set, but not outside the main thread, where Python forbids it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
