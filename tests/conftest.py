"""Fixtures and checks for every test: a state directory of our own, engines to run on, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from tests.helpers import faults, left
from tests.helpers.docker import BARE_IMAGE, containers, remove_images, require_docker, why_not_docker
from tests.helpers.local import groups_left, require_local, sandboxes_alive, sandboxes_running

ENGINES = ["fake", "local", "docker"]
NATIVE = "docker-native"
"""Docker with an image without Python: only on demand, since many tests run Python in their sandboxes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run choose its engines."""
    parser.addoption(
        "--engine", action="append", default=[], help="only these engines: fake, local, docker, docker-native"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give the whole run a state directory of its own."""
    del config
    _forget_ignored_signals()
    os.environ["AVIATO_HOME"] = tempfile.mkdtemp(prefix="aviato-")
    for name in ("AVIATO_ENGINE", "AVIATO_BASE_URL", "AVIATO_PROFILE"):
        os.environ.pop(name, None)
    os.environ["XDG_CONFIG_HOME"] = os.environ["AVIATO_HOME"] + "/no-config"


def _forget_ignored_signals() -> None:
    """Undo what a shell does to its background jobs, and nohup to its child: both hand on ignored signals.

    The programs that the tests start inherit them, and could not be interrupted or hung up.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the state directory."""
    del config
    shutil.rmtree(os.environ["AVIATO_HOME"], ignore_errors=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that use an engine on each of them."""
    if "engine" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--engine") or ENGINES
        marks = {"docker": pytest.mark.docker, NATIVE: pytest.mark.docker}
        given = [pytest.param(name, marks=marks.get(name, ())) for name in wanted]
        metafunc.parametrize("engine", given, indirect=True, scope="function")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of Docker out where other engines were asked for."""
    wanted = config.getoption("--engine")
    if wanted and not {"docker", NATIVE} & set(wanted):
        items[:] = [item for item in items if item.get_closest_marker("docker") is None]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count the faults that a test let happen."""
    report = yield
    faults.note(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which faults happened, and which never did."""
    if happened := faults.summary():
        terminalreporter.write_line(f"faults that happened: {happened}")
    if faults.is_whole(terminalreporter.config):
        for line in faults.missing():
            terminalreporter.write_line(f"never happened: {line}", red=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run of everything in which a fault never happened."""
    if exitstatus == pytest.ExitCode.OK and faults.is_whole(session.config) and faults.missing():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine by the name that configurations take, or an object."""
    if request.param == "local":
        require_local()
        return "local"
    if request.param in {"docker", NATIVE}:
        require_docker()
        if request.param == NATIVE:
            monkeypatch.setattr("aviato.engines.docker.engine.DEFAULT_IMAGE", BARE_IMAGE)
        return "docker"
    from aviato.testing import FakeEngine

    return FakeEngine(missing_images=["no/such-image:9"])


@pytest.fixture
def local_engine() -> None:
    """Skip where the local engine cannot run; in CI that is a failure."""
    require_local()


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_collected() -> Iterator[None]:
    """Spare the collector, which runs after each test, everything that was there before the module."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


_KEPT_THREADS = ("aviato-loop", "aviato-callbacks", "asyncio_", "pytest_timeout", "ThreadPoolExecutor")


_kept: Counter[str] = Counter()
_KEPT_AT_MOST = 8


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread, a descriptor, a child process, a mount or a sandbox behind.

    The facade's loop and its engines live on between tests, so they may keep a few descriptors, over all tests.
    """
    threads = {thread.ident for thread in threading.enumerate()}
    open_before, children_before = left.descriptors(), set(left.children())
    yield
    gc.collect()
    more = [t.name for t in threading.enumerate() if t.ident not in threads and not t.name.startswith(_KEPT_THREADS)]
    assert more == []
    assert sandboxes_running() == []
    left.soon(lambda: left.descriptors() <= open_before, 0.5)
    growth = left.descriptors() - open_before
    facade_runs = any(thread.name.startswith("aviato-loop") for thread in threading.enumerate())
    assert facade_runs or not growth, growth
    _kept.update(growth)
    kept, allowed = _kept.total(), _KEPT_AT_MOST
    if kept > allowed:
        _kept.subtract(growth)  # one test fails for it, not all that follow
    assert kept <= allowed, f"left by this test: {dict(growth)}, by those before: {dict(_kept)}"
    assert left.soon(lambda: set(left.children()) <= children_before), left.children()
    assert left.mounts() == []


@pytest.fixture(autouse=True)
def no_container_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of the Docker engine that leaves a container that runs."""
    if request.node.get_closest_marker("docker") is None:
        yield
        return
    require_docker()
    before = set(containers(running=True))
    yield
    assert left.soon(lambda: set(containers(running=True)) <= before, 5.0), containers(running=True)


@pytest.fixture(autouse=True)
async def no_task_left(nothing_left: None) -> Any:
    """Fail an asynchronous test that leaves a task behind.

    Its loop is closed before `nothing_left` looks.
    """
    del nothing_left
    yield
    gc.collect()
    for _ in range(10):  # what the collector found may take some turns of the loop to close
        await asyncio.sleep(0)
    current = asyncio.current_task()
    running = [task for task in asyncio.all_tasks() if task is not current and not task.done()]
    assert [repr(task) for task in running] == []


@pytest.fixture(scope="session", autouse=True)
def no_sandbox_left() -> Iterator[None]:
    """Fail the run when a sandbox or supervisor is still there at its end."""
    yield
    from aviato import aio

    aio.stop_all_at_exit(5.0)
    if why_not_docker.cache_info().currsize:
        assert containers(running=False) == []
        remove_images()
    assert sandboxes_alive() == []
    assert groups_left() == []
