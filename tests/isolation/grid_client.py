"""A client with secrets of its own, in a process of its own: its environment, arguments, descriptors and keyring.

Run as a program. It starts a sandbox that holds other secrets and one that hunts for all of them, or with `outside`
hunts without a sandbox, which shows that what a sandbox cannot find is there to be found.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

from aviato import aio
from tests.isolation.running import INSIDE, PACKAGE, PROBES

_ADD_KEY, _KEYCTL = (248, 250) if os.uname().machine == "x86_64" else (217, 219)


def plant_key(token: str) -> None:
    """Put a key into a session keyring of this process, which is gone with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    assert libc.syscall(_KEYCTL, 1, None) >= 0, os.strerror(ctypes.get_errno())
    key = libc.syscall(_ADD_KEY, b"user", b"aviato-test", token.encode(), ctypes.c_size_t(len(token)), -3)
    assert key >= 0, os.strerror(ctypes.get_errno())
    libc.syscall(_KEYCTL, 5, key, 0x3F3F3F3F)  # whoever possesses or owns it may do everything with it


def leave_open(secrets: dict[str, str], folder: Path) -> list[int]:
    """Leave descriptors of a file, a pipe, a memory file and directories to be inherited."""
    path = folder / "kept-open"
    path.write_text(secrets["descriptor-of-a-file"])
    file = os.open(path, os.O_RDONLY)
    path.unlink()
    inlet, outlet = os.pipe()
    os.write(outlet, secrets["descriptor-of-a-pipe"].encode())
    os.close(outlet)
    memory = os.memfd_create("memory", 0)
    os.pwrite(memory, secrets["descriptor-of-memory"].encode(), 0)
    kept = [file, inlet, memory, *(os.open("/", os.O_RDONLY) for _ in range(40))]
    for fd in kept:
        os.set_inheritable(fd, True)
    return kept


async def hunt(secrets: dict[str, str], context: str, image: str) -> None:
    """Hunt in a sandbox, beside another that has secrets."""
    command = ["sh", "-c", "read -r line; : " + secrets["arguments-of-another-sandbox"]]
    variables = {"SECRET": secrets["environment-of-another-sandbox"]}
    async with (
        aio.Sandbox.run(engine="local", environment_variables=variables) as other,
        aio.Sandbox.run(engine="local", container_image=image) as sandbox,
    ):
        for place in ("workspace", "tmp", "dev/shm", "usr"):
            label = f"file-of-another-sandbox-in-{place.replace('/', '-')}"
            if label in secrets:
                await other.write_file(f"/{place}/secret", secrets[label])
        waiting = other.exec(command, stdin=True)
        for path in sorted(PROBES.glob("*.py")):
            await sandbox.write_file(f"{INSIDE}/{path.name}", path.read_bytes())
        await sandbox.write_file(f"{INSIDE}/hunt.json", context)
        done = await sandbox.exec(["python3", "-m", f"{PACKAGE}.hunt"], cwd="/workspace", timeout_seconds=120)
        print(done.stdout, done.stderr, done.returncode)
        logs = [line async for line in sandbox.stream_logs()]
        print(logs, repr(sandbox), repr(other), repr(sandbox.isolation))
        waiting.cancel()


def main() -> None:
    """Do what the command line says; the secrets come in a file, by their labels."""
    mode, given, image, _token = sys.argv[1:]
    folder = Path(given)
    secrets = json.loads((folder / "secrets.json").read_text())
    (folder / "secrets.json").unlink()
    plant_key(secrets["session-keyring"])
    kept = leave_open(secrets, folder)
    if mode == "outside":
        own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the copies, not these files
        program = [sys.executable, "-m", f"{PACKAGE}.hunt", "--only-by-name"]
        subprocess.run(program, cwd=folder, env=own, pass_fds=kept, check=True, stdin=subprocess.DEVNULL)
    else:
        asyncio.run(hunt(secrets, (folder / "tests/isolation/probes/hunt.json").read_text(), image))


if __name__ == "__main__":
    main()
