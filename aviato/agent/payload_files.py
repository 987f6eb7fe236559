"""File transfers inside the sandbox."""

import errno
import posix

from aviato.agent.payload_streams import Input
from aviato.agent.payload_system import (
    ACK,
    ATOMIC,
    Bad,
    DATA_CHUNK,
    FILE_END,
    OUTPUT,
    OUT_MAX,
    PARENTS,
    S_DATA_FRAME,
    S_FILE_READ,
    S_FILE_WRITE,
    S_U64,
    close,
    strings,
)


class FileRead:
    """A regular file on its way to a client, a chunk for each turn of the loop."""

    def __init__(self, agent, connection, stream, payload):
        self.offset, length, self.limit = S_FILE_READ.unpack_from(payload, 0)
        path = one_path(payload, S_FILE_READ.size)
        self.fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY)
        self.agent = agent
        self.connection = connection
        self.id = stream
        self.end = min(self.offset + length, (1 << 63) - 1)
        try:
            check_regular(posix.fstat(self.fd).st_mode)
        except OSError:
            close(self.fd)
            raise
        agent.reading.add(self)

    def step(self):
        """Send the next chunk, or sleep until there is credit."""
        connection = self.connection
        room = min(self.limit, self.end) - self.offset
        if connection.queued >= OUT_MAX or (room <= 0 and self.offset < self.end):
            self.agent.reading.discard(self)
            if connection.queued >= OUT_MAX:
                connection.waiting.add(self)
            return
        chunk = posix.pread(self.fd, min(room, DATA_CHUNK), self.offset) if room > 0 else b""
        if chunk:
            connection.push(S_DATA_FRAME.pack(len(chunk) + 8, OUTPUT, self.id, self.offset))
            connection.push(chunk)
            self.offset += len(chunk)
        else:
            connection.frame(FILE_END, self.id, S_U64.pack(self.offset))
            self.release()

    def pump(self):
        """Wake up."""
        if self.fd >= 0:
            self.agent.reading.add(self)

    def credit(self, _which, limit):
        """Take CREDIT."""
        self.limit = max(self.limit, limit)
        self.agent.reading.add(self)

    def release(self):
        """End the transfer."""
        close(self.fd)
        self.fd = -1
        self.agent.reading.discard(self)
        self.agent.streams.pop(self.id, None)
        self.connection.streams.pop(self.id, None)
        self.connection.waiting.discard(self)

    detach = release


def one_path(payload, at):
    """Give the one path of a request."""
    (paths,) = strings(payload, at, 1)
    if len(paths) != 1:
        raise Bad("a transfer is of one file")
    return paths[0]


def check_regular(mode):
    """Refuse what is not a regular file, with the error number that says it best."""
    kind = mode & 0o170000
    if kind == 0o040000:
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if kind != 0o100000:
        raise OSError(errno.EINVAL, "is not a regular file")


class FileWrite:
    """A file on its way from a client; with ATOMIC the name shows the whole content or the old one."""

    def __init__(self, agent, connection, stream, payload):
        flags, mode = S_FILE_WRITE.unpack_from(payload, 0)
        path = one_path(payload, S_FILE_WRITE.size)
        self.agent = agent
        self.connection = connection
        self.id = stream
        self.input = Input()
        self.temporary = b""
        for _ in range(40):  # what a link points to is written, not the link replaced
            try:
                link = posix.readlink(path)
            except OSError:
                break
            path = link if link[:1] == b"/" else path[: path.rfind(b"/") + 1] + link
        else:
            raise OSError(errno.ELOOP, posix.strerror(errno.ELOOP))
        self.path = path
        if flags & PARENTS:
            make_parents(path)
        owner = None
        try:
            stat = posix.stat(path)
        except FileNotFoundError:
            if not path or path[-1:] == b"/":
                raise
        else:
            check_regular(stat.st_mode)
            mode = stat.st_mode
            owner = (stat.st_uid, stat.st_gid)
        base = posix.O_WRONLY | posix.O_CLOEXEC | posix.O_CREAT | posix.O_NONBLOCK | posix.O_NOCTTY
        if flags & ATOMIC:
            self.temporary = path[: path.rfind(b"/") + 1] + b".aviato-%016x" % stream
            self.fd = posix.open(self.temporary, base | posix.O_EXCL | posix.O_NOFOLLOW, 0o600)
        else:
            self.fd = posix.open(path, base, mode & 0o7777)
        try:
            check_regular(posix.fstat(self.fd).st_mode)
            if not self.temporary:
                posix.ftruncate(self.fd, 0)
            elif owner is not None:
                try:
                    posix.fchown(self.fd, *owner)
                except OSError:
                    pass  # another's file, replaced by one's own as an editor would do
            if self.temporary or owner is None:
                posix.fchmod(self.fd, mode & 0o7777)
        except OSError:
            self.abort()
            raise

    def take_input(self, payload):
        """Write STDIN's data."""
        self.input.take(payload)
        self.step()

    def end_input(self, payload):
        """Put the file in place at STDIN_EOF."""
        self.input.end(payload)
        self.step()

    def step(self):
        """Write all that came; a full disk says how far it got."""
        source = self.input
        try:
            source.write(self.fd)
            if source.ended:
                fd, self.fd = self.fd, -1
                posix.close(fd)  # where a delayed write error shows
                if self.temporary:
                    posix.rename(self.temporary, self.path)
                    self.temporary = b""
        except OSError as error:
            text = "%s after %d bytes were written" % (error.strerror, source.accepted)
            raise OSError(error.errno, text) from None
        if source.acked != source.accepted:
            source.acked = source.accepted
            self.connection.frame(ACK, self.id, S_U64.pack(source.accepted))
        if source.ended:
            self.connection.frame(FILE_END, self.id, S_U64.pack(source.accepted))
            self.release()

    def credit(self, _which, _limit):
        """Refuse CREDIT."""
        raise Bad("credit for a file that is written")

    def abort(self):
        """Leave nothing half done but what was asked for without ATOMIC."""
        close(self.fd)
        self.fd = -1
        if self.temporary:
            try:
                posix.unlink(self.temporary)
            except OSError:
                pass
            self.temporary = b""

    def release(self):
        """End the transfer."""
        self.abort()
        self.agent.streams.pop(self.id, None)
        self.connection.streams.pop(self.id, None)

    detach = release


def make_parents(path):
    """Make the directories above `path`."""
    parent = path[: path.rfind(b"/")] if b"/" in path else b""
    if not parent:
        return
    try:
        posix.mkdir(parent, 0o777)
    except FileExistsError:
        pass
    except FileNotFoundError:
        make_parents(parent)
        make_parents(path)
