"""How the agent is started: its code for the interpreter, the loader's command line, and the configuration.

For those who make sandboxes. Only the standard library is used, so a helper process that runs with `-I -S` may
import this file by its path.

The command line is that of `loader_argv`. The loader reads two inherited descriptors to their ends (memory files
and pipes will do; the position of a memory file is left alone, so one serves any number of sandboxes): the bytes of
`payload_code` and `marshal.dumps` of a dict with these keys, all of them optional:

==================  =================================================================================================
`env`               dict of bytes to bytes: environment of every command; a command's own values override it
`cwd`               bytes: working directory of commands that name none; empty: the agent's own
`user`              bytes: `name`, `uid`, `name:group` or `uid:gid` of commands that name none; empty: the agent's own
`secrets`           list of (path, content), both bytes: written before anything runs, 0400, owned by `user`
`main`              list of bytes or None: the main command, whose end is the end of the sandbox
`main_stdout_fd`    descriptor for the main command's output; -1: /dev/null
`main_stderr_fd`    likewise for its errors; may be the same
`listen_fd`         listening stream socket to accept clients from; -1: none
`client_fds`        list of connected stream sockets, each a client
`door_fd`           listening socket for clients that are brought by processes of the sandbox; -1: none
`door_token`        bytes that those processes have to say; see `payload_door`
`visitors`          list of (input, output, socket of the bringer): descriptors of clients that are in already
`last_words`        bytes: at its end the agent writes them, the `closing` numbers and a newline to its stderr
`stop_at_sigterm`   bool: SIGTERM ends the sandbox as `stop` does, with a grace that a second SIGTERM ends
`control_fd`        duplex stream to whoever supervises the sandbox; -1: none
`lifetime_ms`       milliseconds from the start until the sandbox ends; 0: no limit
`idle_ms`           likewise, while no command and no transfer runs (the main command does not count)
`orphan_ms`         likewise, while no client is connected
`max_processes`     most commands and transfers open at a time; 0: 1024
`memory_bytes`      most resident memory of all commands together, held by killing the biggest; 0: no such limit
`keep_capabilities` bool: commands may keep what capabilities the agent has; default: none of them keeps any
==================  =================================================================================================

All descriptors named are closed-on-exec by the agent. On `control_fd` the agent reads the lines `stop <grace_ms>` and
`extend <ms>` and writes `ready` once its main command was started and `closing <reason> <code>` at its end (reason: a
`CloseReason`; code: the main command's return code, -1: none). End-of-file there ends the agent and all that runs in
the sandbox at once.

The agent's exit status is the main command's return code, 0 when there was none, 70 when a protection could not
be set up (the reason stands on stderr), 71 when the code or the configuration could not be read.
"""

from __future__ import annotations

import marshal
from pathlib import Path
from types import CodeType

MODULES = (
    "payload_system",
    "payload_launch",
    "payload_streams",
    "payload_process",
    "payload_start",
    "payload_files",
    "payload_requests",
    "payload_connection",
    "payload_door",
    "payload_watchdog",
    "payload_supervisor",
    "payload_end",
    "payload",
)
_PACKAGE = "aviato.agent."
_FUTURE = "from __future__ import annotations\n"
FUTURE_FLAG = 0x1000000  # __future__.annotations.compiler_flag, since 3.8

# Each module is put in place before it runs, so that the next can import from it with no file there.
LOADER = """import marshal,posix,sys
def r(f):
 b=b''
 while 1:
  try:c=posix.pread(f,1<<20,len(b))
  except OSError:c=posix.read(f,1<<20)
  if not c:posix.close(f);return b
  b+=c
try:
 c,d=marshal.loads(r({code})),marshal.loads(r({config}))
 for n,k in c:
  m=sys.modules[n]=type(sys)(n);exec(k,m.__dict__)
except BaseException as e:
 posix.write(2,('aviato agent: %s: %s\\n'%(type(e).__name__,e)).encode());posix._exit(71)
m.main(d)"""


def payload_source() -> list[tuple[str, str]]:
    """Return the names and sources of the agent's modules, to be compiled with `FUTURE_FLAG` in this order.

    Raises:
        OSError: They cannot be read.
    """
    folder = Path(__file__).parent
    return [
        (_PACKAGE + name, (folder / f"{name}.py").read_text(encoding="utf-8").replace(_FUTURE, "\n", 1))
        for name in MODULES
    ]


def payload_modules() -> list[tuple[str, CodeType]]:
    """Compile the agent's modules for the running interpreter's version.

    Raises:
        OSError: Their source cannot be read.
    """
    return [
        (name, compile(source, f"<{name}>", "exec", FUTURE_FLAG, dont_inherit=True, optimize=2))
        for name, source in payload_source()
    ]


def payload_code() -> bytes:
    """Compile the agent for the running interpreter's version; other versions refuse the result.

    Raises:
        OSError: The agent's source cannot be read.
    """
    return marshal.dumps(payload_modules())


def loader_argv(python: str, code_fd: int, config_fd: int) -> list[str]:
    """Build the command line that starts the agent from two inherited descriptors.

    Args:
        python: Path of the interpreter as the sandbox sees it, of the version that `payload_code` ran on.
        code_fd: Descriptor of `payload_code`'s bytes.
        config_fd: Descriptor of the marshalled configuration.
    """
    return [python, "-I", "-S", "-E", "-B", "-c", LOADER.format(code=code_fd, config=config_fd)]
