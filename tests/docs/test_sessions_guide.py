"""The sessions guide as users were given it runs as it is written, on both faces, and on more than one engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from aviato.engines.docker.endpoint import find_endpoint
from tests.docs.environment import PYTHON, page_environment
from tests.helpers.docker import remove_tagged, require_docker

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

GUIDE = """\
import aviato
from aviato import Sandbox, SandboxDefaults

defaults = SandboxDefaults(container_image="python:3.11", tags=("project-alpha",))
with aviato.Session(defaults=defaults) as session:
    sb1 = session.sandbox()                       # creates AND starts; sandbox_id is set when it returns
    r = sb1.exec(["echo", "sandbox 1"]).result()
    gpu = session.sandbox(command="sleep", args=["infinity"], container_image="pytorch/pytorch:latest",
                          resources={"cpu": "4000m", "memory": "16Gi", "gpu": "1"},
                          tags=["gpu-workload"])  # merged with the session's tags
    pool = [session.sandbox() for _ in range(5)]
    processes = [sb.exec(["python", "-c", f"print({i})"]) for i, sb in enumerate(pool)]
    results = [p.result() for p in processes]
    for orphan in Sandbox.list(tags=["orphaned-work"]).result():
        session.adopt(orphan)
    print(session.sandbox_count)
# everything stopped here, also after an exception; or by hand: session.close().result()

with Sandbox.run() as sandbox:                    # no session needed
    print(sandbox.exec(["echo", "hello"]).result().stdout)
"""
GPU = GUIDE[GUIDE.index("    gpu = ") : GUIDE.index("    pool = ")]

AWAITED = """\
import asyncio
import aviato
from aviato import Sandbox, SandboxDefaults

async def main():
    defaults = SandboxDefaults(container_image="python:3.11", tags=("project-alpha",))
    async with aviato.Session(defaults=defaults) as session:
        sb1 = session.sandbox()
        r = await sb1.exec(["echo", "sandbox 1"])
        gpu = session.sandbox(command="sleep", args=["infinity"], container_image="pytorch/pytorch:latest",
                              resources={"cpu": "4000m", "memory": "16Gi", "gpu": "1"},
                              tags=["gpu-workload"])
        pool = [session.sandbox() for _ in range(5)]
        processes = [sb.exec(["python", "-c", f"print({i})"]) for i, sb in enumerate(pool)]
        results = [await p for p in processes]
        for orphan in await Sandbox.list(tags=["orphaned-work"]):
            session.adopt(orphan)
        print(session.sandbox_count)

    async with Sandbox.run() as sandbox:
        print((await sandbox.exec(["echo", "hello"])).stdout)

    await verify(r, results, [sb1, *pool])

"""
AWAITED_GPU = AWAITED[AWAITED.index("        gpu = ") : AWAITED.index("        pool = ")]

ORPHAN = """\
import aviato as _aviato
_orphan = _aviato.Sandbox.run(tags=["orphaned-work"], detached=True)
_orphan.wait().result()
"""
CHECK = """
assert r.stdout == "sandbox 1\\n", r
assert [x.returncode for x in results] == [0] * 5, results
assert {str(sb.status) for sb in [sb1, *pool]} == {"terminated"}
assert str(_orphan.get_status().result()) == "terminated"
assert session.sandbox_count == 0
"""
AWAITED_CHECK = """
async def verify(r, results, sandboxes):
    assert r.stdout == "sandbox 1\\n", r
    assert [x.returncode for x in results] == [0] * 5, results
    assert {str(sb.status) for sb in sandboxes} == {"terminated"}
"""


REAL = ["local", pytest.param("docker", marks=pytest.mark.docker)]


def run(text: str, directory: Path, engine: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, with `python:3.11` tagged to this machine's own root first."""
    environment = page_environment(directory, engine=engine)
    if engine == "docker":
        require_docker()
        environment["DOCKER_HOST"] = str(find_endpoint())
    if engine == "local":
        tag = ["aviato", "image", "tag", "host", "python:3.11"]
        subprocess.run(tag, env=environment, check=True, capture_output=True)
    program = directory / "program.py"
    program.write_text(text)
    try:
        return subprocess.run(
            [*PYTHON, str(program)],
            env=environment,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )
    finally:
        if engine == "docker":
            remove_tagged("orphaned-work")


def assert_printed(done: subprocess.CompletedProcess[str], count: int) -> None:
    """The guide prints the number of sandboxes, then a greeting, and nothing goes wrong."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [str(count), "hello", ""]
    assert done.stderr == ""


def sync_program(guide: str) -> str:
    """Add to the guide a leftover sandbox to adopt, and what must be true at the end."""
    return f"{ORPHAN}{guide}\n{CHECK}"


def awaited_program(guide: str) -> str:
    """Add to the guide's awaited form what must be true at the end."""
    return f"{AWAITED_CHECK}\n{guide}\nasyncio.run(main())\n"


def on_the_core(guide: str) -> str:
    """Write the awaited form for `aviato.aio`."""
    text = guide.replace(
        "import aviato\nfrom aviato import Sandbox, SandboxDefaults", "from aviato import SandboxDefaults, aio"
    )
    return text.replace("aviato.Session", "aio.Session").replace(" Sandbox.", " aio.Sandbox.")


def test_whole_on_the_fake_engine(tmp_path: Path) -> None:
    """Every line of the guide runs where there are GPUs: one, a GPU one, five, and an adopted one."""
    assert_printed(run(sync_program(GUIDE), tmp_path, "fake"), 8)


@pytest.mark.parametrize("where", REAL)
def test_without_gpu_on_this_machine(where: str, tmp_path: Path) -> None:
    """On engines without GPUs the guide runs as written but for the GPU sandbox."""
    assert_printed(run(sync_program(GUIDE.replace(GPU, "")), tmp_path, where), 7)


def test_gpu_fails_at_the_end_and_disturbs_nothing(tmp_path: Path) -> None:
    """The whole text on an engine without GPUs: all else works, and `close` tells of the one that could not start."""
    caught = (
        "import aviato\ntry:\n"
        + "".join(f"    {line}\n" for line in GUIDE.splitlines()[1:])
        + "except aviato.SandboxError as error:\n"
        "    (cause,) = error.__cause__.exceptions\n"
        "    print(type(cause).__name__, [x.stdout for x in results])\n"
    )
    done = run(caught, tmp_path, "local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == ["7", "CapabilityError ['0\\n', '1\\n', '2\\n', '3\\n', '4\\n']"]


@pytest.mark.parametrize("where", ["fake", *REAL])
def test_awaited_on_the_front_door(where: str, tmp_path: Path) -> None:
    """The same text with `async with` and `await` runs under `import aviato`."""
    guide = AWAITED if where == "fake" else AWAITED.replace(AWAITED_GPU, "")
    assert_printed(run(awaited_program(guide), tmp_path, where), 7 if where == "fake" else 6)


@pytest.mark.parametrize("where", ["fake", *REAL])
def test_awaited_on_the_core(where: str, tmp_path: Path) -> None:
    """The same text runs on `aviato.aio`."""
    guide = on_the_core(AWAITED if where == "fake" else AWAITED.replace(AWAITED_GPU, ""))
    assert "aviato.Session" not in guide
    assert_printed(run(awaited_program(guide), tmp_path, where), 7 if where == "fake" else 6)
