"""What runs in a container before the agent does: the first process, and those that bring clients to it.

The container's own command is a small program that waits behind a socket of the container's network namespace. Each
client is brought by `docker exec`: a program that connects there, says the token that only the container's and its own
environment hold, and hands over its standard input and output. From the first of them the waiting program reads the
agent, exactly as many bytes as were announced, and becomes it; later ones find the agent's own door (`payload_door`).
"""

from __future__ import annotations

import functools
import importlib.util
import marshal
from typing import Any

from aviato.agent.bootstrap import FUTURE_FLAG, payload_modules, payload_source

TOKEN_VARIABLE = "AVIATO_DOOR"  # noqa: S105 - a name
PYTHON = ("python3", "-I", "-S", "-E", "-B", "-c")
LENGTH_BYTES = 8
GREETING = b"aviato\n"
"""What says that the bringer runs: where it cannot be started, the daemon writes its reason in the same place."""
_WAIT_SECONDS = 60
_ADDRESS = "\\0aviato-agent"
"""In the abstract namespace, which a network namespace has for itself, so that no directory need be writable."""

WAIT = f"""\
import _socket,marshal,posix,sys,_frozen_importlib_external as f
def end(w):
 posix.write(2,('aviato: '+w+'\\n').encode());posix._exit(71)
def read(i,n):
 b=b''
 while len(b)<n:
  c=posix.read(i,n-len(b))
  if not c:raise EOFError
  b+=c
 return b
try:
 token=posix.environ[b'{TOKEN_VARIABLE}']
 door=_socket.socket(1,1|_socket.SOCK_CLOEXEC);door.bind('{_ADDRESS}');door.listen(16);door.settimeout({_WAIT_SECONDS})
except BaseException as e:end('the agent cannot be waited for: %r'%(e,))
while 1:
 try:
  v=_socket.socket(fileno=door._accept()[0]);v.settimeout(10)
  said,rights,_,_=v.recvmsg(256,_socket.CMSG_SPACE(8),_socket.MSG_CMSG_CLOEXEC)
  if said!=token:continue
  r=rights[0][2];i,o=int.from_bytes(r[:4],sys.byteorder),int.from_bytes(r[4:8],sys.byteorder)
  posix.write(o,f.MAGIC_NUMBER)
  m,c=marshal.loads(read(i,int.from_bytes(read(i,{LENGTH_BYTES}),'big')))
  break
 except TimeoutError:end('no agent came within {_WAIT_SECONDS} seconds')
 except (EOFError,OSError,IndexError):continue
try:
 for d,p in c.pop('directories'):
  try:posix.mkdir(d,p);posix.chmod(d,p)
  except OSError:pass
 for n,k in m:
  if isinstance(k,str):k=compile(k,'<'+n+'>','exec',{FUTURE_FLAG},True,2)
  x=sys.modules[n]=type(sys)(n);exec(k,x.__dict__)
 for n,d in (('main_stdout_fd',1),('main_stderr_fd',2)):c[n]=posix.dup(d)
 c.update(door_fd=door.detach(),door_token=token,visitors=[(i,o,v.detach())])
except BaseException as e:end('the agent could not be loaded: %r'%(e,))
sys.path.clear();sys.meta_path.clear()
x.main(c)
"""

BRING = f"""\
import _socket,posix,sys,time
s=_socket.socket(1,1|_socket.SOCK_CLOEXEC)
for _ in range(500):
 try:s.connect('{_ADDRESS}');break
 except OSError:time.sleep(.01)
else:posix.write(2,b'nobody listens in the container');posix._exit(71)
posix.write(1,{GREETING!r})
fds=b''.join(n.to_bytes(4,sys.byteorder) for n in (0,1))
s.sendmsg([posix.environ[b'{TOKEN_VARIABLE}']],[(_socket.SOL_SOCKET,_socket.SCM_RIGHTS,fds)])
n=posix.open('/dev/null',posix.O_RDWR);posix.dup2(n,0);posix.dup2(n,1)
s.recv(1)
"""

MAGIC_BYTES = len(importlib.util.MAGIC_NUMBER)


def bundle(magic: bytes, config: dict[str, Any]) -> bytes:
    """Pack the agent for the interpreter that gave this magic number: compiled if it is ours, else as source."""
    if magic == importlib.util.MAGIC_NUMBER:
        data = marshal.dumps((_compiled(), config))
    else:
        data = marshal.dumps((_source(), config), 2)  # a version of the format that every interpreter reads
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


_compiled = functools.cache(payload_modules)
_source = functools.cache(payload_source)
