"""Starting a client's command, and the main command, inside the sandbox."""

import errno
import posix

from aviato.agent.payload_system import NOT_STARTED, OUTPUT, START_STDIN, S_START, _STDERR, close, now, strings
from aviato.agent.payload_launch import spawn
from aviato.agent.payload_process import Process
from aviato.agent.payload_streams import Input, Output


def start(agent, connection, stream, payload):
    """Start a command."""
    flags, timeout, out_limit, err_limit = S_START.unpack_from(payload, 0)
    argv, env, options = strings(payload, S_START.size, 3)
    if not argv or not argv[0] or len(options) != 2:
        raise OSError(errno.EINVAL, "a command needs a name")
    cwd, user = options
    process = Process(agent, connection, stream)
    fds = []
    try:
        for _ in range(3 if flags & START_STDIN else 2):
            fds.extend(posix.pipe2(posix.O_CLOEXEC))
        out, out_end, err, err_end = fds[:4]
        stdin, stdin_end = fds[4:] if flags & START_STDIN else (agent.null, -1)
        values = dict(agent.env)
        for item in env:
            name, _, value = item.partition(b"=")
            values[name] = value
        if agent.children:
            agent.hurry(wanted=True)
        process.began = now()
        pid, failure = spawn(agent.config, argv, values, process.marker, cwd, user, (stdin, out_end, err_end), env)
        if failure:
            posix.write(err_end, ("aviato: %s\n" % failure[1]).encode("utf-8", "surrogateescape")[-4096:])
    except BaseException:
        for fd in fds:
            close(fd)
        raise
    close(out_end)
    close(err_end)
    posix.set_blocking(out, False)
    posix.set_blocking(err, False)
    process.outputs = (Output(process, OUTPUT, out, out_limit), Output(process, _STDERR, err, err_limit))
    if flags & START_STDIN:
        close(stdin)
        posix.set_blocking(stdin_end, False)
        process.input = Input()
        process.input_fd = stdin_end
        agent.watch(stdin_end, 0, process.pump_input)
    agent.streams[stream] = connection.streams[stream] = process
    if failure:
        process.flags |= NOT_STARTED
        process.finished(failure[0], 0)
        return
    process.pid = pid
    agent.children[pid] = process
    process.say_started()
    for output in process.outputs:
        if output.limit > 0:
            output.arm()
    if timeout:
        agent.at(process, min(timeout, 10**12) / 1000.0, process.timed_out)


def start_main(agent, argv):
    """Start the main command, whose end is the sandbox's."""
    out, err = (agent.config.get(name, -1) for name in ("main_stdout_fd", "main_stderr_fd"))
    out_end, err_end = (fd if fd >= 0 else agent.null for fd in (out, err))
    try:
        pid, failure = spawn(agent.config, argv, dict(agent.env), b"", b"", b"", (agent.null, out_end, err_end))
    except OSError as error:
        pid, failure = 0, (126, error.strerror)
    if failure:
        posix.write(err_end, ("aviato: %s\n" % failure[1]).encode("utf-8", "surrogateescape"))
        agent.main_code = failure[0]
    agent.main_pid = pid
    close(out)
    if err != out:
        close(err)
