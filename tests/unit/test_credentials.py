"""The user's logins, as docker's configuration and its helpers give them."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aviato.exceptions import AviatoAuthenticationError, ConfigurationError
from aviato.registry import helper
from aviato.registry.credentials import Credentials, config_path, find, login_hint

HUB = "https://index.docker.io/v1/"
Configure = Callable[[Any], None]
Program = Callable[[str, str], None]


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write docker's configuration: text as it is, anything else as JSON."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def write(config: Any) -> None:
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))

    return write


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Make a helper, a script of the shell, that is found on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def make(name: str, script: str) -> None:
        path = folder / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return make


def encoded(text: str) -> str:
    """Encode a login as docker does."""
    return base64.b64encode(text.encode()).decode()


def test_without_a_configuration_there_is_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there, or says nothing of the registry, is nobody's login."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nosuch"))
    assert find("ghcr.io") is None
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_path() == tmp_path / ".docker/config.json"
    assert find("docker.io") is None


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        (HUB, "docker.io"),
        (HUB, "registry-1.docker.io"),
        ("docker.io", "docker.io"),
        ("https://index.docker.io", "index.docker.io"),
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://localhost:5000/v2/", "localhost:5000"),
    ],
)
def test_logins_are_found_however_they_are_written(configure: Configure, key: str, registry: str) -> None:
    """Old and new spellings of a registry mean the same one."""
    configure({"auths": {"other.io": {"auth": encoded("a:b")}, key: {"auth": encoded("me:se:cret")}}})
    assert find(registry) == Credentials("me", "se:cret")
    assert find("another.io") is None


@pytest.mark.parametrize("key", ["ghcr.io.evil.example", "xghcr.io", "ghcr.io:444", "evil.example/ghcr.io"])
def test_logins_of_others_are_not_taken(configure: Configure, key: str) -> None:
    """A registry's login goes to that very registry."""
    configure({"auths": {key: {"auth": encoded("me:secret")}}})
    assert find("ghcr.io") is None


def test_other_forms_of_a_login(configure: Configure) -> None:
    """Plain fields and identity tokens are understood, and an entry without either is no login."""
    configure(
        {
            "auths": {
                "plain.io": {"username": "me", "password": "secret"},
                "token.io": {"auth": encoded(":"), "identitytoken": "refresh"},
                "helper.io": {},
                "padded.io": {"auth": encoded("me:secret\0\0")},
            }
        }
    )
    assert find("plain.io") == find("padded.io") == Credentials("me", "secret")
    assert find("token.io") == Credentials(identity_token="refresh")
    assert find("helper.io") is None


def test_secrets_are_not_shown() -> None:
    """Neither password nor token is in a repr."""
    assert "secret" not in repr(Credentials("me", "secret", "secret"))


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "[" * 100_000,
        {"auths": 7},
        {"auths": {"ghcr.io": []}},
        {"auths": {"ghcr.io": {"auth": 7}}},
        {"auths": {"ghcr.io": {"auth": "!"}}},
        {"auths": {"ghcr.io": {"auth": encoded("nocolon")}}},
        {"credHelpers": []},
        {"credHelpers": {"ghcr.io": 7}},
        {"credsStore": "../../bin/sh"},
        {"credsStore": "a b"},
    ],
)
def test_bad_configurations_are_said(configure: Configure, config: Any) -> None:
    """What docker's configuration should not be is ConfigurationError with the file's name."""
    configure(config)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        find("ghcr.io")


def test_an_enormous_configuration_is_not_read(configure: Configure) -> None:
    """Nor is one that would fill the memory."""
    configure(" " * (5 << 20))
    with pytest.raises(ConfigurationError, match="more than"):
        find("ghcr.io")


def test_helpers_are_asked(configure: Configure, program: Program, tmp_path: Path) -> None:
    """The one for the registry goes before the one for all, and both read the registry's name."""
    answer = 'read server; echo "$1 $server" >> {log}; echo \'{{"Username": "{user}", "Secret": "s"}}\''
    for name in ("one", "all"):
        program(name, answer.format(log=tmp_path / name, user=name))
    configure({"credHelpers": {"ghcr.io": "one"}, "credsStore": "all", "auths": {"ghcr.io": {"auth": encoded("x:y")}}})
    assert find("ghcr.io") == Credentials("one", "s")
    assert find("quay.io") == Credentials("all", "s")
    assert find("docker.io") == Credentials("all", "s")
    assert (tmp_path / "one").read_text() == "get ghcr.io\n"
    assert (tmp_path / "all").read_text() == f"get quay.io\nget {HUB}\n"


def test_a_helpers_token(configure: Configure, program: Program) -> None:
    """The name <token> stands for an identity token."""
    program("x", 'cat >/dev/null; echo \'{"ServerURL": "a", "Username": "<token>", "Secret": "t"}\'')
    configure({"credsStore": "x"})
    assert find("ghcr.io") == Credentials(identity_token="t")


def test_a_helper_without_a_login(configure: Configure, program: Program) -> None:
    """Then what is stored beside it counts, or nothing."""
    program("x", "echo credentials not found in native keychain; exit 1")
    configure({"credsStore": "x", "auths": {"quay.io": {"auth": encoded("me:secret")}}})
    assert find("ghcr.io") is None
    assert find("quay.io") == Credentials("me", "secret")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "status 3: it said nothing"),
        ("echo locked >&2; exit 1", "status 1: locked"),
        ("echo hello", "did not answer with a JSON object"),
        ("echo []", "did not answer with a JSON object"),
        ('echo \'{"Username": 7, "Secret": "s"}\'', "did not answer with a JSON object"),
        ("yes", "more than"),
        ("yes >&2", "more than"),
    ],
)
def test_helpers_that_fail(configure: Configure, program: Program, script: str, said: str) -> None:
    """Whatever a helper does wrong is AviatoAuthenticationError that names the program."""
    program("x", script)
    configure({"credsStore": "x"})
    with pytest.raises(AviatoAuthenticationError, match=f"docker-credential-x .*{said}"):
        find("ghcr.io")


def test_a_helper_that_is_not_there(configure: Configure, program: Program) -> None:
    """A configuration that came from another machine says what to repair."""
    configure({"credsStore": "desktop.exe"})
    with pytest.raises(AviatoAuthenticationError, match=r"docker-credential-desktop\.exe is not on PATH") as caught:
        find("docker.io")
    assert "credsStore" in (caught.value.hint or "")


@pytest.mark.parametrize("script", ["exec sleep 1000", "exec >&- 2>&-; exec sleep 1000"])
def test_a_helper_that_hangs(
    configure: Configure, program: Program, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """It is ended after a while, whether or not it has closed its output."""
    monkeypatch.setattr(helper, "TIMEOUT", 0.2)
    program("x", script)
    configure({"credsStore": "x"})
    with pytest.raises(AviatoAuthenticationError, match="did not answer within"):
        find("ghcr.io")


def test_what_a_user_does_to_log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint is docker's own command, with the file that it writes."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert login_hint("docker.io").startswith("docker login   (")
    assert login_hint("ghcr.io").startswith("docker login ghcr.io   (")
    assert str(tmp_path / "config.json") in login_hint("ghcr.io")


def test_looking_for_a_login_loads_no_aiohttp() -> None:
    """Other engines use it without the client."""
    program = "import sys, aviato.registry.credentials; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "False"
