"""A model of what a file system may have kept when the power went, from the log that disk.c writes.

What a folder lists and what a file holds each reach the disk on their own, at the latest when they are synced: a folder
may have any beginning of what was done to it since, a file any blocks of what was written to it since.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

BLOCK = 4096


@dataclass
class Folder:
    now: dict = field(default_factory=dict)  # name -> Folder or File
    kept: dict = field(default_factory=dict)
    since: list = field(default_factory=list)  # (name, node or None) since it was synced

    def put(self, name, node):
        self.since.append((name, node))
        self._apply(self.now, name, node)

    def sync(self):
        self.kept, self.since = dict(self.now), []

    def after(self, count):
        """What it lists if so many of the operations since the last sync have reached the disk."""
        listed = dict(self.kept)
        for name, node in self.since[:count]:
            self._apply(listed, name, node)
        return listed

    @staticmethod
    def _apply(listed, name, node):
        if node is None:
            listed.pop(name, None)
        else:
            listed[name] = node


@dataclass
class File:
    now: bytearray = field(default_factory=bytearray)
    kept: bytes = b""

    def sync(self):
        self.kept = bytes(self.now)

    def torn(self, draw):
        """Some blocks as they are now, the others as they were when it was synced, or never written."""
        if self.now == self.kept:
            return self.kept
        whole = bytearray(self.now)
        for place in range(0, len(whole), BLOCK):
            if draw.random() < 0.5:
                old = self.kept[place : place + BLOCK]
                whole[place : place + BLOCK] = old + bytes(len(whole[place : place + BLOCK]) - len(old))
        return bytes(whole[: draw.choice([len(whole), draw.randrange(len(whole) + 1)])])


class Disk:
    """Operations below `root` are done to it one by one; `crash` writes what may be left of them to a real folder."""

    def __init__(self, root):
        self.root, self.top, self.paths = PurePosixPath(root), Folder(), {}

    def _parent(self, path):
        *above, name = PurePosixPath(path).relative_to(self.root).parts
        folder = self.top
        for part in above:
            folder = folder.now[part]
        return folder, name

    def _node(self, path):
        if PurePosixPath(path) == self.root:
            return self.top
        folder, name = self._parent(path)
        return folder.now.get(name)

    def do(self, what, path, to, inode, offset, data):
        if PurePosixPath(path) == self.root and what == "mkdir":
            return
        if what in ("mkdir", "create"):
            folder, name = self._parent(path)
            folder.put(name, Folder() if what == "mkdir" else File())
        elif what in ("unlink", "rmdir"):
            folder, name = self._parent(path)
            folder.put(name, None)
        elif what == "rename":
            self._rename(path, to)
        else:
            before = self.paths.get(inode)
            if before is not None and self._node(path) is None:  # safetensors' own rename passes the library by
                self._rename(before, path)
            self.paths[inode] = path
            self._file(self._node(path), what, offset, data)

    @staticmethod
    def _file(node, what, offset, data):
        if what == "fsync":
            node.sync()
        elif what == "truncate":
            node.now.clear()
        elif what == "resize":
            node.now[offset:] = bytes(max(0, offset - len(node.now)))
        else:
            assert what == "write"
            node.now.extend(bytes(max(0, offset - len(node.now))))
            node.now[offset : offset + len(data)] = data

    def _rename(self, path, to):
        node = self._node(path)
        source, name = self._parent(path)
        target, new = self._parent(to)
        target.put(new, node)
        source.put(name, None)

    def crash(self, into, how, draw):
        """how: "all" that was done, "synced" alone, or "some" of the rest too."""
        self._write(self.top, Path(into), how, draw)

    def _write(self, folder, into, how, draw):
        into.mkdir()
        count = draw.randrange(len(folder.since) + 1) if how == "some" else len(folder.since) * (how == "all")
        for name, node in folder.after(count).items():
            if isinstance(node, Folder):
                self._write(node, into / name, how, draw)
            elif how == "some":
                kind = draw.randrange(3)
                (into / name).write_bytes([node.kept, bytes(node.now), node.torn(draw)][kind])
            else:
                (into / name).write_bytes(node.now if how == "all" else node.kept)


def operations(log):
    """What disk.c noted: (what, path, new path, inode, offset, data) of each operation."""
    content, place = Path(log).read_bytes(), 0
    while place < len(content):
        end = content.index(b"\n", place)
        what, path, to, inode, offset, size = content[place:end].decode().split("\t")
        place = end + 1 + int(size)
        yield what, path, to, int(inode), int(offset), content[end + 1 : place]


def crashes(log, root, every, seed=0):
    """(number of operations done, epochs committed, how, write) for each way in which the power may go.

    `every`: so many random ways after each operation. write(folder) makes the folder that is left.
    """
    disk, draw, committed, renamed = Disk(root), random.Random(seed), 0, 0
    for number, (what, path, to, inode, offset, data) in enumerate(operations(log), 1):
        disk.do(what, path, to, inode, offset, data)
        name = PurePosixPath(to).name
        if what == "rename" and PurePosixPath(to).parent.name == "checkpoints" and name.startswith("epoch-"):
            renamed = int(name.split("-")[1])
        if what == "fsync" and PurePosixPath(path).name == "checkpoints":
            committed = renamed
        for how in ["all", "synced"] + ["some"] * every:
            yield number, committed, how, lambda into, how=how: disk.crash(into, how, draw)
