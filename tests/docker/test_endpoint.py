"""The daemon is found as the docker command finds it, and a setting that cannot be is named."""

from __future__ import annotations

import hashlib
import json
import ssl
from pathlib import Path

import pytest

from aviato.engines.docker.endpoint import Endpoint, find_endpoint, parse_host
from aviato.exceptions import ConfigurationError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with two contexts, one of them by TLS."""
    config = tmp_path / ".docker"
    for name, endpoint in {
        "remote": {"Host": "ssh://root@build.example:2222"},
        "secure": {"Host": "tcp://10.0.0.5:2376", "SkipTLSVerify": True},
        "broken": {},
    }.items():
        folder = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
        folder.mkdir(parents=True)
        (folder / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    (config / "contexts" / "tls" / hashlib.sha256(b"secure").hexdigest() / "docker").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("unix:///run/user/1000/docker.sock", Endpoint("unix", "/run/user/1000/docker.sock", source="S")),
        ("tcp://localhost", Endpoint("tcp", "localhost", 2375, source="S")),
        ("tcp://[::1]:1234", Endpoint("tcp", "::1", 1234, source="S")),
        ("ssh://me@host", Endpoint("ssh", "me@host", source="S")),
        ("ssh://Me@BuildHost", Endpoint("ssh", "Me@BuildHost", source="S")),
        ("ssh://host:2222", Endpoint("ssh", "host", 2222, source="S")),
        ("https://host", Endpoint("tcp", "host", 2376, "", source="S")),
    ],
)
def test_addresses(host: str, expected: Endpoint) -> None:
    """All forms that DOCKER_HOST may have on Linux."""
    assert parse_host(host, "S") == expected


@pytest.mark.parametrize(
    "host",
    ["", "docker.sock", "unix://docker.sock", "npipe:////./pipe/docker", "tcp://", "tcp://h:99999", "tcp://h/path",
     "tcp://me@h:1", "tcp://h:1?x", "ssh://-oProxyCommand=x", "ssh://-l@host", "fd://", "://"],
)  # fmt: skip
def test_what_is_no_address(host: str) -> None:
    """It is named with where it stands and the right form; nothing that ssh would take for an option gets through."""
    with pytest.raises(ConfigurationError, match="DOCKER_HOST must be unix:///PATH") as caught:
        parse_host(host, "DOCKER_HOST")
    assert repr(host) in str(caught.value)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    """Without them the port would be taken for a part of it."""
    assert str(parse_host("tcp://[::1]:1234", "S")) == "tcp://[::1]:1234"


def test_a_password_for_ssh_is_refused() -> None:
    """Instead of being dropped; it is not shown."""
    with pytest.raises(ConfigurationError, match="must not hold a password") as caught:
        parse_host("ssh://me:secret@host", "DOCKER_HOST")
    assert "secret" not in str(caught.value)


def test_the_order_of_sources(home: Path) -> None:
    """DOCKER_HOST, then DOCKER_CONTEXT, then the current context, then the usual places."""
    surroundings = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    (home / ".docker" / "config.json").write_text('{"currentContext": "remote"}')
    both = {**surroundings, "DOCKER_CONTEXT": "secure", "DOCKER_HOST": "unix:///x"}
    assert str(find_endpoint(both)) == "unix:///x"
    del both["DOCKER_HOST"]
    secure = find_endpoint(both)
    assert (str(secure), secure.verify, secure.source) == ("tcp://10.0.0.5:2376", False, "context secure")
    assert str(find_endpoint(surroundings)) == "ssh://root@build.example:2222"
    (home / ".docker" / "config.json").unlink()
    assert find_endpoint(surroundings).kind == "unix"


def test_a_rootless_socket_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no system-wide daemon, Docker's or Podman's of this user is used."""
    monkeypatch.setattr("aviato.engines.docker.endpoint._DEFAULT_SOCKET", str(home / "none"))
    socket = home / "podman" / "podman.sock"
    socket.parent.mkdir()
    socket.touch()
    assert find_endpoint({"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}).address == str(socket)


@pytest.mark.parametrize("name", ["broken", "no-such-context"])
def test_a_context_that_is_not_there(home: Path, name: str) -> None:
    """It is named, with where it was asked for."""
    with pytest.raises(ConfigurationError, match=f"DOCKER_CONTEXT names the docker context '{name}'"):
        find_endpoint({"HOME": str(home), "DOCKER_CONTEXT": name})


def test_a_damaged_configuration(home: Path) -> None:
    """The file is named."""
    (home / ".docker" / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"config\.json cannot be read"):
        find_endpoint({"HOME": str(home)})


def test_tls_needs_certificates_that_can_be_read(home: Path) -> None:
    """DOCKER_TLS_VERIFY asks for them; what cannot be read is named with the right form."""
    certificates = home / "certificates"
    certificates.mkdir()
    (certificates / "ca.pem").write_text("no certificate")
    wanted = {"DOCKER_HOST": "tcp://host", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    endpoint = find_endpoint({"HOME": str(home), **wanted})
    assert (endpoint.port, endpoint.tls) == (2376, str(certificates))
    with pytest.raises(ConfigurationError, match="certificates"):
        endpoint.ssl_context()
    skipping = find_endpoint({"HOME": str(home), "DOCKER_CONTEXT": "secure"}).ssl_context()
    assert skipping is not None
    assert skipping.verify_mode is ssl.CERT_NONE
    assert parse_host("tcp://host", "S").ssl_context() is None


def test_a_directory_of_certificates_that_is_not_there(tmp_path: Path) -> None:
    """It is named: without it the daemon would be spoken to with other certificates than was asked for."""
    wanted = {"DOCKER_HOST": "tcp://host", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path / "none")}
    with pytest.raises(ConfigurationError, match=r"none cannot be used: there is no such directory"):
        find_endpoint({"HOME": str(tmp_path), **wanted}).ssl_context()


def test_an_https_address_trusts_nothing_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ca.pem that lies there by chance is none of its certificates."""
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.chdir(tmp_path)
    assert parse_host("https://host", "S").ssl_context() is not None
