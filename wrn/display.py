"""What a person sees: plain lines, and a live bar below them where there is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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


class Log:
    """Lines for the terminal and, once `file` is set, for `train.log`, with one live bar below them."""

    def __init__(self, quiet: bool = False) -> None:
        self.file: IO[str] | None = None
        self._console = None if quiet else Console(highlight=False, soft_wrap=True)
        self._bar: Bar | None = None

    def note(self, text: str) -> None:
        """For the file alone: the terminal has it from elsewhere."""
        if self.file is not None:
            self.file.write(text + "\n")
            self.file.flush()

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
        """Append every line to the file too."""
        with path.open("a", encoding="utf-8") as self.file:
            try:
                yield
            finally:
                self.file = None


def say(text: str) -> None:
    """One line beside the output proper."""
    print(f"wrn: {text}", file=sys.stderr)


def duration(seconds: float) -> str:
    """`75.2` -> `1:15`, `3725` -> `1:02:05`; from two days on `3 days 4 h`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24:,} days {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
