"""Tar archives, read member by member, of any maker: nothing is extracted, nothing large is read unasked."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_LONGEST_HEADER = 1 << 20  # bytes; names and the like, which tarfile reads as a whole
_MOST_MEMBERS = 20_000_000
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE
)  # fmt: skip
DAMAGE = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, KeyError, OSError)
"""What reading a damaged archive raises; KeyError of a link that leads nowhere."""


class _Member(tarfile.TarInfo):
    """One whose header is of sensible length."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size / 1e6:,.0f} MB")
        return super()._proc_member(archive)  # type: ignore[misc]


def opened(path: Path) -> tarfile.TarFile:
    """The archive, to be gone through member by member. Raises one of DAMAGE for what is none, here or later."""
    return tarfile.open(path, tarinfo=_Member)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Its members in their order, but no more than any data set has."""
    for number, member in enumerate(archive):
        if number >= _MOST_MEMBERS:
            raise tarfile.ReadError(f"more than {_MOST_MEMBERS:,} members")
        yield member


def content(archive: tarfile.TarFile, member: tarfile.TarInfo, limit: int) -> bytes:
    """The bytes of a file, also of one that is a link to another. Raises tarfile.ReadError beyond the limit."""
    file = archive.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} is no file")
    read = file.read(limit + 1)
    if len(read) > limit:
        raise tarfile.ReadError(f"{member.name} has more than {limit / 1e6:,.0f} MB")
    return read
