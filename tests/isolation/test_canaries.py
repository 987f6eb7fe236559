"""The canary grid: random content in every secret place there is, and a hunt for all of it from inside a sandbox."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.local import home, require_local
from tests.isolation.running import ROOTS, copied, root
from tests.isolation.world import own_address, service, shared_memory

REPOSITORY = Path(__file__).parents[2]
HOME_PLACES = {
    "home": "", "ssh": ".ssh", "aws": ".aws", "config": ".config/gcloud", "gnupg": ".gnupg", "kube": ".kube",
    "docker": ".docker", "azure": ".azure", "cache": ".cache", "local-share": ".local/share/keyrings",
}  # fmt: skip
MACHINE_PLACES = {
    "tmp": "/tmp", "var-tmp": "/var/tmp", "run": "/run", "run-lock": "/run/lock", "shared-memory": "/dev/shm",
    "etc": "/etc",
    "etc-ssh": "/etc/ssh", "etc-ssl-private": "/etc/ssl/private", "srv": "/srv", "mnt": "/mnt", "media": "/media",
    "boot": "/boot", "home-of-others": "/home", "var-lib": "/var/lib", "var-log": "/var/log", "var-spool": "/var/spool",
    "var-backups": "/var/backups",
    "top": "/", "root-home": "/root",
}  # fmt: skip
OF_THE_CLIENT = (
    "environment", "arguments", "working-directory", "descriptor-of-a-file", "descriptor-of-a-pipe",
    "descriptor-of-memory", "session-keyring", "state-directory", "records-of-sandboxes", "image-store",
)  # fmt: skip
OF_ANOTHER = (
    "environment-of-another-sandbox", "arguments-of-another-sandbox", "file-of-another-sandbox-in-workspace",
    "file-of-another-sandbox-in-tmp", "file-of-another-sandbox-in-dev-shm",
)  # fmt: skip
SERVICES = (
    "socket-in-tmp", "socket-in-the-home", "socket-in-var-tmp", "abstract-socket", "loopback", "system-v-memory",
)  # fmt: skip


def _can_write(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


PLACES = {
    **{name: str(Path.home() / place) for name, place in HOME_PLACES.items()},
    **{name: place for name, place in MACHINE_PLACES.items() if _can_write(place)},
}
LABELS = [*PLACES, *OF_THE_CLIENT, *OF_ANOTHER, *SERVICES]
IN_SANDBOXES_ONLY = {*OF_ANOTHER, "environment", "arguments"}


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@contextlib.contextmanager
def _planted(label: str, folder: Path, token: str) -> Iterator[str]:
    """Keep a file with the token in a folder, which is made where it is missing; all of it goes away afterwards."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{label}-{secrets.token_hex(6)}"
    try:
        path.write_text(token)
        path.chmod(0o644)  # a secret whose mode does not protect it
        yield str(path)
    finally:
        path.unlink()
        for made in missing:
            made.rmdir()


def _services(stack: contextlib.ExitStack, tokens: dict[str, str]) -> dict[str, Any]:
    folders = {
        "socket-in-tmp": tempfile.mkdtemp(prefix="aviato-grid-", dir="/tmp"),
        "socket-in-the-home": tempfile.mkdtemp(prefix=".aviato-grid-", dir=Path.home()),
        "socket-in-var-tmp": tempfile.mkdtemp(prefix="aviato-grid-", dir="/var/tmp"),
    }
    sockets = []
    for label, folder in folders.items():
        stack.callback(shutil.rmtree, folder)
        sockets.append(f"{folder}/service")
        stack.enter_context(service(socket.AF_UNIX, sockets[-1], tokens[label].encode()))
    abstract = f"aviato-grid-{secrets.token_hex(6)}"
    stack.enter_context(service(socket.AF_UNIX, f"\0{abstract}", tokens["abstract-socket"].encode()))
    _, port = stack.enter_context(service(socket.AF_INET, ("0.0.0.0", 0), tokens["loopback"].encode()))
    key = stack.enter_context(shared_memory(tokens["system-v-memory"].encode()))
    hosts = ["127.0.0.1", "127.0.0.2", "10.0.2.2", own_address()]
    return {
        "services": sockets, "abstract_service": abstract, "canary_port": port, "canary_key": key, "hosts": hosts,
        "python": os.path.realpath(sys.base_prefix),
    }  # fmt: skip


@functools.cache
def hunted(mode: str, root_name: str) -> tuple[dict[str, str], str]:
    """Plant everything, hunt once, clear all away; give the tokens by label, and everything that was said."""
    tokens = {label: f"aviato-canary-{label}-{secrets.token_hex(16)}" for label in LABELS}
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(root(root_name))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aviato-grid-")))
        context = _services(stack, tokens)
        state = home()
        folders = {
            **{label: Path(path) for label, path in PLACES.items()},
            "working-directory": folder,
            "state-directory": state,
            "records-of-sandboxes": state / "sandboxes",
            "image-store": state / "images",
        }
        paths = [stack.enter_context(_planted(name, where, tokens[name])) for name, where in folders.items()]
        (copied(folder) / "hunt.json").write_text(json.dumps({**context, "paths": paths}))
        (folder / "secrets.json").write_text(json.dumps(tokens))
        module = [sys.executable, "-m", "tests.isolation.grid_client"]
        done = subprocess.run(
            [*module, mode, str(folder), place.image, tokens["arguments"]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "AVIATO_GRID_SECRET": tokens["environment"]},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "hunted" in done.stdout, done.stdout + done.stderr
    return tokens, done.stdout + done.stderr


def test_the_grid_is_wide_enough() -> None:
    """At least twenty places, for an ordinary user as well."""
    assert len(LABELS) >= 35


@pytest.mark.parametrize("root_name", ROOTS)
@pytest.mark.parametrize("label", LABELS)
def test_canary_is_not_found(label: str, root_name: str) -> None:
    """Neither by name, nor by walking, nor in any process, descriptor, service, keyring or memory."""
    tokens, said = hunted("inside", root_name)
    assert tokens[label] not in said
    assert f"aviato-canary-{label}-" not in said


@pytest.mark.parametrize("label", [label for label in LABELS if label not in IN_SANDBOXES_ONLY])
def test_canary_is_found_outside(label: str) -> None:
    """The control: the same hunt by the same user without a sandbox finds it, by name alone."""
    tokens, said = hunted("outside", "host")
    assert tokens[label] in said


@pytest.mark.parametrize("root_name", ROOTS)
def test_the_hunt_went_everywhere(root_name: str) -> None:
    """It walked the whole tree and found none of the paths."""
    _, said = hunted("inside", root_name)
    assert "FOUND" not in said
    assert " exists " not in said
    walked = [int(line.split()[1]) for line in said.splitlines() if line.startswith("walked ")]
    assert walked[0] > (1000 if root_name == "host" else 100)
