"""Starting a command inside the sandbox: users, PATH, and exact reasons when it cannot be started."""

import errno
import posix
import sys
import _posixsubprocess

from aviato.agent.payload_system import (
    close,
    read_small,
)


def user_entry(user):
    """Resolve a user name or `uid[:gid]` to (uid, gid, groups, name, home); KeyError when it is unknown."""
    name, _, group = user.partition(b":")
    users = [line.split(b":") for line in read_small("/etc/passwd", 1 << 20).split(b"\n")]
    groups = [line.split(b":") for line in read_small("/etc/group", 1 << 20).split(b"\n")]
    uid = gid = None
    home = b"/"
    for fields in users:
        if len(fields) >= 7 and (fields[0] == name or (name.isdigit() and fields[2] == name)):
            uid, gid, name, home = int(fields[2]), int(fields[3]), fields[0], fields[5] or b"/"
            break
    else:
        if not name.isdigit():
            raise KeyError("user")
        uid = gid = int(name)
    if group:
        for fields in groups:
            if len(fields) >= 4 and (fields[0] == group or (group.isdigit() and fields[2] == group)):
                gid = int(fields[2])
                break
        else:
            if not group.isdigit():
                raise KeyError("group")
            gid = int(group)
    if max(uid, gid) >= 0xFFFFFFFF:
        raise KeyError("user")
    others = {int(fields[2]) for fields in groups if len(fields) >= 4 and name in fields[3].split(b",")}
    return uid, gid, sorted(others | {gid}), name, home


def write_secrets(config):
    """Write the files of `secrets`, readable by the user alone whose commands need them, and forget them."""
    files, user = config.pop("secrets", None) or (), config.get("user")
    if not files:
        return
    own_uid, own_gid = posix.geteuid(), posix.getegid()
    if user:
        try:
            uid, gid = user_entry(user)[:2]
        except KeyError:
            raise RuntimeError("secrets: unknown user %s" % text(user)) from None
        for folder in {path[: path.rfind(b"/")] for path, _ in files}:
            posix.chmod(folder, 0o1777)  # a container's mount has the mode of what the image has in its place
        posix.setresgid(-1, gid, -1)
        posix.setresuid(-1, uid, -1)  # whose files they are: the agent may not give files away
    try:
        for path, content in files:
            fd = posix.open(
                path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o400
            )
            try:
                while content:
                    content = content[posix.write(fd, content) :]
            finally:
                close(fd)
    finally:
        if user:
            posix.setresuid(-1, own_uid, -1)
            posix.setresgid(-1, own_gid, -1)


def fork_exec(args, paths, cwd, env, fds, report, ids):
    """Start a process in a session of its own; raises TypeError only if this Python is unknown to us."""
    uid, gid, groups = ids or (None, None, None)
    start = _posixsubprocess.fork_exec
    head = (args, paths, False, (), cwd, env, fds[0], -1, -1, fds[1], -1, fds[2], *report, True, True)
    version = sys.version_info
    if version >= (3, 11):
        return start(*head, -1, gid, groups, uid, -1, None, *((True,) if version < (3, 14) else ()))
    if version >= (3, 9):
        return start(*head, gid, groups, uid, -1, None)

    def become():
        posix.setgroups(groups)
        posix.setgid(gid)
        posix.setuid(uid)

    return start(*head, become if ids else None)


def text(raw):
    """Decode a name for a message."""
    return raw.decode("utf-8", "replace")


def spawn(config, argv, values, marker, cwd, user, fds, given=()):
    """Start a process; give (pid, None), or (0, (126 or 127, text)) when it could not be executed.

    Raises:
        OSError: The working directory or the user is not possible, or the machine has no more processes.
    """
    ids = None
    user = user or config.get("user") or b""
    if user:
        try:
            uid, gid, groups, name, home = user_entry(user)
        except (KeyError, ValueError):
            raise OSError(errno.EINVAL, "unknown user %s" % text(user)) from None
        if (uid, gid) != (posix.geteuid(), posix.getegid()):
            ids = (uid, gid, groups)
        chosen = {item.partition(b"=")[0] for item in given}
        for key, value in ((b"HOME", home), (b"USER", name), (b"LOGNAME", name)):
            if key not in chosen:
                values[key] = value
    directory = cwd or config.get("cwd") or None
    program = argv[0]
    if b"/" in program:
        paths = [program]
    else:
        places = values.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").split(b":")
        paths = [(place or b".") + b"/" + program for place in places]
        while len(paths) > 1 and paths[0][:1] == b"/":  # spare the child the attempts that must fail
            try:
                posix.stat(paths[0])
                break
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    break
                del paths[0]
    items = [marker] if marker else []
    items.extend(name + b"=" + value for name, value in values.items())
    told, error_fd = report = posix.pipe2(posix.O_CLOEXEC)
    try:
        pid = fork_exec(argv, tuple(paths), directory, items, fds, report, ids)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None
    finally:
        close(error_fd)
        if sys.exc_info()[0] is not None:
            close(told)
    report = posix.read(told, 4096)
    close(told)
    if not report:
        return pid, None
    try:
        posix.waitpid(pid, 0)
    except OSError:
        pass
    _, number, stage = report.split(b":", 2)
    number = int(number, 16)
    reason = posix.strerror(number)
    if stage.startswith(b"noexec"):
        if directory:
            try:
                posix.close(posix.open(directory, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC))
            except OSError as error:
                raise OSError(error.errno, "working directory %s: %s" % (text(directory), error.strerror)) from None
        raise OSError(number, "user %s cannot be used in this sandbox: %s" % (text(user), reason))
    if number in (errno.ENOENT, errno.ENOTDIR):
        if b"/" not in program:
            reason = "command not found"
        return 0, (127, "%s: %s" % (text(program), reason))
    if number in (errno.EAGAIN, errno.ENOMEM):
        raise OSError(number, "%s: %s" % (text(program), reason))
    return 0, (126, "%s: %s" % (text(program), reason))
