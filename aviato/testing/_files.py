"""A fake sandbox's file system: a tree in memory with the errors of a real one."""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
import stat as stats
import time
from collections.abc import Iterator

_LINKS_MAX = 40
_numbers = itertools.count(1)


class Node:
    """A file, directory, link or device.

    Attributes:
        mode: Permission bits.
        data: Content of a file.
        entries: Content of a directory, else None.
        target: Where a link points, else empty.
        device: `null` or `zero`, else empty.
        program: Name of the built-in program that this file is, else empty.
        readonly: True for what the sandbox may not change.
    """

    def __init__(
        self,
        mode: int,
        *,
        data: bytes = b"",
        entries: dict[str, Node] | None = None,
        target: str = "",
        device: str = "",
        program: str = "",
        readonly: bool = False,
    ) -> None:
        self.mode = mode
        self.data = bytearray(data)
        self.entries = entries
        self.target = target
        self.device = device
        self.program = program
        self.readonly = readonly
        self.changed_at = time.time()
        self.number = next(_numbers)

    @property
    def type_bits(self) -> int:
        """Its kind as `stat` gives it."""
        if self.entries is not None:
            return stats.S_IFDIR
        if self.target:
            return stats.S_IFLNK
        return stats.S_IFCHR if self.device else stats.S_IFREG

    def stat(self) -> os.stat_result:
        """Describe it."""
        size = len(self.target) if self.target else len(self.data)
        moment = self.changed_at
        return os.stat_result((self.type_bits | self.mode, self.number, 1, 1, 0, 0, size, moment, moment, moment))


def failure(number: int, path: str) -> OSError:
    """Make the error that the system call would give."""
    return OSError(number, os.strerror(number), path)


class FileSystem:
    """A tree of nodes; paths are strings, relative ones are resolved from the given `cwd`."""

    def __init__(self) -> None:
        self.root = Node(0o755, entries={})
        for path in ("/usr/bin", "/etc", "/dev", "/workspace", "/root", "/home", "/var/tmp", "/proc"):  # noqa: S108 - inside
            self.make_dirs(path)
        self.make_dir("/tmp", 0o1777)  # noqa: S108 - inside
        self.root.entries["bin"] = Node(0o777, target="usr/bin")  # type: ignore[index]  # the root is a directory
        for device in ("null", "zero"):
            self.put(f"/dev/{device}", Node(0o666, device=device))
        self.put("/etc/passwd", Node(0o644, data=b"root:x:0:0:root:/root:/bin/sh\n"))

    def put(self, path: str, node: Node) -> None:
        """Place a node, making directories above it."""
        head, name = posixpath.split(posixpath.normpath(path))
        self.make_dirs(head)
        entries = self.node(head).entries
        assert entries is not None  # noqa: S101 - made as a directory
        entries[name] = node

    def _walk(  # noqa: C901 - the kernel's rules, which are best read in one place
        self, path: str, cwd: str, *, follow: bool
    ) -> tuple[Node, str, Node | None]:
        """Find the directory, the name in it and the node, None where the last part does not exist."""
        if not path:
            raise failure(errno.ENOENT, path)
        parts = [part for part in posixpath.join(cwd, path).split("/") if part not in ("", ".")]
        trail: list[tuple[Node, str]] = [(self.root, "")]
        links = 0
        parts.reverse()
        while parts:
            part = parts.pop()
            here = trail[-1][0]
            if here.entries is None:
                raise failure(errno.ENOTDIR, path)
            if part == "..":
                if len(trail) > 1:
                    trail.pop()
                continue
            found = here.entries.get(part)
            if found is not None and found.target and (parts or follow):
                links += 1
                if links > _LINKS_MAX:
                    raise failure(errno.ELOOP, path)
                if found.target.startswith("/"):
                    trail = trail[:1]
                parts.extend(reversed([item for item in found.target.split("/") if item not in ("", ".")]))
                continue
            if found is None:
                if parts:
                    raise failure(errno.ENOENT, path)
                return here, part, None
            trail.append((found, part))
        node, name = trail[-1]
        if path.endswith("/") and node.entries is None:
            raise failure(errno.ENOTDIR, path)
        return (trail[-2][0] if len(trail) > 1 else self.root), name, node

    def node(self, path: str, cwd: str = "/", *, follow: bool = True) -> Node:
        """Find a node.

        Raises:
            OSError: ENOENT, ENOTDIR or ELOOP.
        """
        found = self._walk(path, cwd, follow=follow)[2]
        if found is None:
            raise failure(errno.ENOENT, path)
        return found

    def create(self, path: str, cwd: str = "/", *, mode: int = 0o644, exclusive: bool = False) -> Node:
        """Find a file to be written, or make it.

        Raises:
            OSError: EISDIR, EROFS, EEXIST, ENOENT, ENOTDIR or ELOOP.
        """
        parent, name, node = self._walk(path, cwd, follow=not exclusive)
        if node is None:
            if path.endswith("/"):
                raise failure(errno.EISDIR, path)
            assert parent.entries is not None  # noqa: S101 - it was walked through
            node = parent.entries[name] = Node(mode & 0o7777)
            return node
        if exclusive:
            raise failure(errno.EEXIST, path)
        if node.entries is not None:
            raise failure(errno.EISDIR, path)
        if node.readonly:
            raise failure(errno.EROFS, path)
        return node

    def make_dir(self, path: str, mode: int = 0o755, cwd: str = "/") -> None:
        """Make one directory.

        Raises:
            OSError: EEXIST, ENOENT, ENOTDIR or ELOOP.
        """
        parent, name, node = self._walk(path.rstrip("/") or "/", cwd, follow=True)
        if node is not None:
            raise failure(errno.EEXIST, path)
        assert parent.entries is not None  # noqa: S101 - it was walked through
        parent.entries[name] = Node(mode, entries={})

    def make_dirs(self, path: str, cwd: str = "/") -> None:
        """Make a directory and those above it; fine when they exist.

        Raises:
            OSError: ENOTDIR or ELOOP.
        """
        place = "/"
        for part in posixpath.join(cwd, path).split("/"):
            place = posixpath.join(place, part)
            if part:
                try:
                    self.make_dir(place)
                except FileExistsError:
                    if self.node(place).entries is None:
                        raise failure(errno.ENOTDIR, path) from None

    def remove(self, path: str, cwd: str = "/", *, directory: bool = False, tree: bool = False) -> None:
        """Remove a file, with `directory` an empty directory, with `tree` anything.

        Raises:
            OSError: EISDIR, ENOTDIR, ENOTEMPTY, EROFS, EBUSY, ENOENT or ELOOP.
        """
        parent, name, node = self._walk(path, cwd, follow=False)
        if node is None:
            raise failure(errno.ENOENT, path)
        if node is self.root:
            raise failure(errno.EBUSY, path)
        if node.entries is not None and not tree:
            if not directory:
                raise failure(errno.EISDIR, path)
            if node.entries:
                raise failure(errno.ENOTEMPTY, path)
        elif directory and node.entries is None:
            raise failure(errno.ENOTDIR, path)
        if any(item.readonly for item in self._all(node)):
            raise failure(errno.EROFS, path)
        assert parent.entries is not None  # noqa: S101 - it was walked through
        del parent.entries[name]

    def _all(self, node: Node) -> Iterator[Node]:
        yield node
        for inner in (node.entries or {}).values():
            yield from self._all(inner)

    def rename(self, old: str, new: str, cwd: str = "/") -> None:
        """Move a node, replacing a file that is there.

        Raises:
            OSError: As `remove`, EINVAL for a directory into itself.
        """
        source_dir, source_name, source = self._walk(old, cwd, follow=False)
        if source is None:
            raise failure(errno.ENOENT, old)
        target_dir, target_name, target = self._walk(new, cwd, follow=False)
        if target is source:
            return
        if source.readonly or (target is not None and target.readonly):
            raise failure(errno.EROFS, new)
        if target is not None and target.entries is not None:
            if source.entries is None:
                raise failure(errno.EISDIR, new)
            if target.entries:
                raise failure(errno.ENOTEMPTY, new)
        if target_dir in list(self._all(source)):
            raise failure(errno.EINVAL, new)
        assert source_dir.entries is not None  # noqa: S101 - it was walked through
        assert target_dir.entries is not None  # noqa: S101 - likewise
        del source_dir.entries[source_name]
        target_dir.entries[target_name] = source

    def link(self, target: str, path: str, cwd: str = "/") -> None:
        """Make a symbolic link.

        Raises:
            OSError: EEXIST, ENOENT, ENOTDIR or ELOOP.
        """
        parent, name, node = self._walk(path, cwd, follow=False)
        if node is not None:
            raise failure(errno.EEXIST, path)
        assert parent.entries is not None  # noqa: S101 - it was walked through
        parent.entries[name] = Node(0o777, target=target)

    def names(self, path: str, cwd: str = "/") -> list[str]:
        """List a directory, sorted.

        Raises:
            OSError: ENOTDIR, ENOENT or ELOOP.
        """
        entries = self.node(path, cwd).entries
        if entries is None:
            raise failure(errno.ENOTDIR, path)
        return sorted(entries)

    def exists(self, path: str, cwd: str = "/") -> bool:
        """Tell whether a path leads to something."""
        try:
            self.node(path, cwd)
        except OSError:
            return False
        return True
