"""Failures a user can cause. Each is one line: WHAT: WHY; WHAT TO DO."""

import difflib
from collections.abc import Iterable


class Error(Exception):
    """Something failed while doing what was asked (the command exits with 1)."""


class UsageError(Error, ValueError):
    """What was asked for makes no sense (the command exits with 2)."""


class MissingError(Error, FileNotFoundError):
    """A file or folder that was named is not there (the command exits with 1)."""

    def __str__(self) -> str:  # FileNotFoundError would print an errno
        return str(self.args[0])


class DataError(Error):
    """A part of a data set could not be read while a run was under way, which can be continued once it can."""


def unknown(kind: str, given: str, known: Iterable[str], hint: str = "") -> UsageError:
    """The error for a name that is not among `known`, with the nearest ones."""
    known = list(known)
    near = difflib.get_close_matches(given, known, n=3, cutoff=0.5)
    some = ", ".join(known) if len(known) <= 20 else f"{', '.join(known[:3])} and {len(known) - 3} more (wrn list)"
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {some}"
    return UsageError(f"{kind} {given!r}: no such {kind}; {advice}{hint}")
