"""What a person sees: plain lines, and a live bar below them where there is a terminal."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wrn.errors import Error, UsageError


class Bar:
    """A live progress bar; without a terminal it shows nothing."""

    def __init__(self, console: Console | None) -> None:
        self._progress: Progress | None = None
        if console is not None and console.is_terminal:
            columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self._progress = Progress(*columns, console=console, transient=True)
            self._task = self._progress.add_task("", total=None)
            self._progress.start()

    def show(self, description: str, done: float, total: float) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=description, completed=done, total=total)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class Audience:
    """Standard output that may go away, as a closed terminal or the end of `| head` does: training does not mind."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it was closed in this process
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Log:
    """Lines for the terminal and, once `file` is set, for `train.log`, with one live bar below them."""

    def __init__(self, quiet: bool = False) -> None:
        self.file: IO[bytes] | None = None
        self._earlier: list[str] = []  # what was said before there was a file
        # rich asks for a whole file, and is given one that does less
        audience: Any = Audience(sys.stdout)
        self._console = None if quiet else Console(file=audience, highlight=False, emoji=False, soft_wrap=True)
        self._bar: Bar | None = None

    def note(self, text: str) -> None:
        """For the file alone: the terminal has it from elsewhere."""
        if self.file is None:
            self._earlier.append(text)
        else:
            self.file.write(f"{text}\n".encode())

    def line(self, text: str = "") -> None:
        self.note(text)
        if self._console is not None:
            self._console.print(text, markup=False)

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        bar = Bar(self._console)
        try:
            yield bar
        finally:
            bar.close()

    @contextmanager
    def copied_to(self, path: Path) -> Iterator[None]:
        """Append every line to the file too, and first those so far. Raises wrn.Error where there is a link instead."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            if path.is_symlink():
                raise Error(f"{path}: is a link, which is not written through; remove it") from error
            raise
        with os.fdopen(handle, "ab", buffering=0) as self.file:  # nothing is left that a full disk would refuse later
            try:
                for text in self._earlier:
                    self.note(text)
                yield
            finally:
                self.file = None


def say(text: str) -> None:
    """One line beside the output proper."""
    print(f"wrn: {text}", file=Audience(sys.stderr), flush=True)


def tell(text: str) -> None:
    """Print what takes long to come by, whether or not anybody still reads. Raises OSError where it does not fit."""
    with contextlib.suppress(BrokenPipeError, ValueError):
        print(text, flush=True)


def have_streams() -> None:
    """Give a process that was begun without output (`>&-`) one that leads nowhere, so that no file takes its number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is shown by its bytes
        sys.stdout.reconfigure(errors="backslashreplace")


def leave_quietly() -> None:
    """Drop what could not be printed, so that Python does not try again at its end and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def seconds_of(text: str) -> float:
    """`90s`, `10m`, `2h` or `45` in seconds. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().lower())
    if not found or float(found[1]) == 0:
        raise UsageError(f"{text!r}: no length of time; write it like 90s, 10m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def duration(seconds: float) -> str:
    """`75.2` -> `1:15`, `3725` -> `1:02:05`; from two days on `3 days 4 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24:,} days {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
