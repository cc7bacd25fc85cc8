"""Ctrl-C and SIGTERM finish the step and save; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Training stopped on a signal, after saving. The command's exit code is 130 (SIGINT) or 143 (SIGTERM)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interruption:
    """Which signal has come, if any."""

    signal_number: int | None = None

    def _receive(self, signal_number: int, _: FrameType | None) -> None:
        if self.signal_number == signal.SIGINT == signal_number:
            raise KeyboardInterrupt
        self.signal_number = signal_number


@contextmanager
def interruption() -> Iterator[Interruption]:
    """While open, note signals instead of dying of them. Outside the main thread Python forbids it: do nothing."""
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.signal(number, noted._receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
