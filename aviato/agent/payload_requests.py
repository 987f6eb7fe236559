"""What the frames of a client ask for, inside the sandbox; the numbers are those of `frames`."""

import errno
import posix
import sys
from _struct import error as StructError

from aviato.agent.payload_files import FileRead, FileWrite
from aviato.agent.payload_process import Process
from aviato.agent.payload_start import start
from aviato.agent.payload_system import (
    ATTACH,
    Bad,
    BY_REQUEST,
    CREDIT,
    EXTEND,
    EXTENDED,
    FILE_READ,
    FILE_WRITE,
    HELLO,
    MAGIC,
    PING,
    PONG,
    RELEASE,
    S_ATTACH,
    S_CREDIT,
    S_HELLO,
    S_SIGNAL,
    S_START,
    S_U32,
    S_U64,
    S_WELCOME,
    SHUTDOWN,
    SIGNAL,
    START,
    STDIN,
    STDIN_EOF,
    VERSION,
    WELCOME,
)


def dispatch(agent, connection, type_, stream, payload):
    """Act on one frame."""
    if not connection.ready:
        hello(agent, connection, type_, payload)
        return
    item = connection.streams.get(stream)
    if type_ == START or type_ == FILE_READ or type_ == FILE_WRITE:
        if not stream:
            raise Bad("stream 0 is the agent's own")
        try:
            open_stream(agent, connection, type_, stream, payload)
        except (Bad, StructError):
            raise
        except Exception as error:  # the stream failed, the others go on
            agent.fail(connection, stream, error)
    elif type_ == STDIN or type_ == STDIN_EOF:
        if item is not None:
            if isinstance(item, FileRead):
                raise Bad("input for a file that is read")
            try:
                item.take_input(payload) if type_ == STDIN else item.end_input(payload)
            except OSError as error:
                agent.fail(connection, stream, error)
    elif type_ == CREDIT:
        if item is not None:
            item.credit(*S_CREDIT.unpack(payload))
    elif type_ == ATTACH:
        attach(agent, connection, stream, payload)
    elif type_ == SIGNAL:
        number, scope = S_SIGNAL.unpack(payload)
        if not 0 < number < 65 or scope > 1:
            raise Bad("no such signal")
        process = agent.streams.get(stream)
        if isinstance(process, Process):
            process.signal(number, scope == 1)
    elif type_ == RELEASE:
        if item is not None:
            item.release()
            agent.touch()
    elif type_ == PING:
        if len(payload) > 64:
            raise Bad("ping too long")
        connection.frame(PONG, stream, payload)
    elif type_ == SHUTDOWN:
        (grace,) = S_U64.unpack(payload)
        agent.end.begin(BY_REQUEST, min(grace, 10**9) / 1000.0)
    elif type_ == EXTEND:
        agent.end.extend(S_U64.unpack(payload)[0])
        connection.frame(EXTENDED, stream, b"")
    else:
        raise Bad("unknown frame")


def hello(agent, connection, type_, payload):
    """Agree on a version."""
    if type_ != HELLO:
        raise Bad("no hello")
    magic, low, high = S_HELLO.unpack(payload)
    if magic != MAGIC:
        raise Bad("not an aviato client")
    if not low <= VERSION <= high:
        connection.error(0, errno.EPROTO, "this agent speaks version %d, not %d to %d" % (VERSION, low, high))
        connection.flush()
        connection.close()
        return
    connection.ready = True
    agent.timers.pop((connection, "hello"), None)
    facts = [sys.version.split()[0].encode(), posix.uname().machine.encode()]
    lengths = b"".join(S_U32.pack(len(fact)) + fact for fact in facts)
    connection.frame(WELCOME, 0, S_WELCOME.pack(MAGIC, VERSION, 0) + S_U32.pack(len(facts)) + lengths)


def open_stream(agent, connection, type_, stream, payload):
    """Start a command or a transfer; a known id is the same request again."""
    known = agent.streams.get(stream)
    if known is not None:
        if type_ != START or not isinstance(known, Process):
            raise OSError(errno.EEXIST, "the stream is in use")
        known.attach(connection, (0, 0), S_START.unpack_from(payload, 0)[2:])
        return
    if agent.end.reason:
        raise OSError(errno.ESHUTDOWN, "the sandbox is stopping")
    if len(agent.streams) >= agent.max_processes and not evict(agent):
        raise OSError(errno.EAGAIN, "more than %d commands and transfers are open" % agent.max_processes)
    if type_ == START:
        start(agent, connection, stream, payload)
    else:
        item = (FileRead if type_ == FILE_READ else FileWrite)(agent, connection, stream, payload)
        agent.streams[stream] = connection.streams[stream] = item
    agent.touch()


def evict(agent):
    """Forget the oldest ended command whose client is gone; tell whether there was one."""
    for item in agent.streams.values():
        if isinstance(item, Process) and item.connection is None and item.status is not None:
            item.release()
            return True
    return False


def attach(agent, connection, stream, payload):
    """Hand a command to this connection."""
    values = S_ATTACH.unpack(payload)
    process = agent.streams.get(stream)
    if isinstance(process, Process):
        process.attach(connection, values[:2], values[2:])
    else:
        connection.error(stream, errno.ESRCH, "the agent does not know this command")
