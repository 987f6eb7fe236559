"""Names, platforms, challenges and pauses: what pulling decides without asking anybody."""

from __future__ import annotations

import email.utils
import time

import pytest

from aviato.registry import platforms
from aviato.registry.names import Reference, is_loopback
from aviato.registry.platforms import Platform, rank
from aviato.registry.retries import Retries, seconds
from aviato.registry.tokens import Challenge, challenges

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("name", "host", "repository", "version"),
    [
        ("python:3.12", "registry-1.docker.io", "library/python", "3.12"),
        ("docker.io/library/python", "registry-1.docker.io", "library/python", "latest"),
        ("index.docker.io/owner/app:v1", "registry-1.docker.io", "owner/app", "v1"),
        ("owner/app", "registry-1.docker.io", "owner/app", "latest"),
        ("ghcr.io/owner/app:v1", "ghcr.io", "owner/app", "v1"),
        ("localhost/app", "localhost", "app", "latest"),
        ("localhost:5000/library/app", "localhost:5000", "library/app", "latest"),
        (f"ghcr.io/app@{DIGEST}", "ghcr.io", "app", DIGEST),
        (f"ghcr.io/app:v1@{DIGEST}", "ghcr.io", "app", DIGEST),
    ],
)
def test_where_a_name_leads(name: str, host: str, repository: str, version: str) -> None:
    """Docker Hub is meant where no registry is named, and its own images are below `library`."""
    reference = Reference.parse(name)
    assert (reference.host, reference.repository, reference.version) == (host, repository, version)


@pytest.mark.parametrize("name", ["host", "x.io:99999/a", "x.io:0/a", "a?b", "x.io/a#b", "x.io/a%2fb"])
def test_names_that_lead_nowhere(name: str) -> None:
    """What could become another path of the registry is no name."""
    with pytest.raises(ValueError, match="image"):
        Reference.parse(name)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("localhost.example", False),
        ("127.0.0.1.example:80", False),
        ("192.0.2.1:5000", False),
        ("registry:5000", False),
    ],
)
def test_this_machine_by_its_names(host: str, expected: bool) -> None:
    """Only what cannot be another machine is this one."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("machine", "offered", "best"),
    [
        ("x86_64", ["linux/amd64/v3", "linux/amd64", "windows/amd64"], "linux/amd64"),
        ("x86_64", ["linux/amd64/v3", "linux/386"], None),
        ("aarch64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("aarch64", ["linux/arm64/v8", "linux/arm64"], "linux/arm64"),
        ("armv7l", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"], "linux/arm/v6"),
        ("armv6l", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("armv6l", ["linux/arm/v7"], None),
        ("riscv64", ["linux/riscv64", "linux/amd64"], "linux/riscv64"),
    ],
)
def test_which_variant_fits(
    monkeypatch: pytest.MonkeyPatch, machine: str, offered: list[str], best: str | None
) -> None:
    """The best that runs on a machine is chosen, and none that wants more than it surely has."""
    monkeypatch.setattr(platforms.platform, "machine", lambda: machine)  # type: ignore[attr-defined]  # the module that it uses
    here = platforms.here()
    ranked = [(badness, text) for text in offered if (badness := rank(Platform(*text.split("/")), here)) is not None]
    assert (min(ranked)[1] if ranked else None) == best


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/token",service="b, c",scope="repository:d:pull"',
            [Challenge("bearer", {"realm": "https://a/token", "service": "b, c", "scope": "repository:d:pull"})],
        ),
        ('BEARER Realm=plain , error="a\\"b"', [Challenge("bearer", {"realm": "plain", "error": 'a"b'})]),
        (
            'Basic realm="x", Bearer realm="y"',
            [Challenge("basic", {"realm": "x"}), Challenge("bearer", {"realm": "y"})],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("", []),
        (",,,=", []),
        ('realm="no scheme"', []),
    ],
)
def test_challenges(header: str, expected: list[Challenge]) -> None:
    """`WWW-Authenticate` is read with quotes, commas in them, several schemes, and rubbish."""
    assert challenges([header]) == expected


def test_long_challenges_are_read_in_time() -> None:
    """A header made to keep a parser busy does not."""
    begun = time.monotonic()
    for rubbish in ('Bearer realm="' + "\\" * 100_000, "a=" * 50_000, "a" * 100_000, 'a="' * 30_000):
        challenges([rubbish])
    assert time.monotonic() - begun < 5


def test_pauses_grow_and_end() -> None:
    """Pauses are doubled up to a cap, with jitter, and there are only so many."""
    retries = Retries(attempts=6, base=1.0, cap=4.0)
    for attempt, most in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (5, 4.0)):
        pause = retries.pause(attempt)
        assert pause is not None
        assert most / 2 <= pause <= most
    assert retries.pause(6) is None


def test_a_server_may_choose_the_pause() -> None:
    """`Retry-After` is waited for, unless it is too long."""
    retries = Retries(base=0.1, longest=30)
    assert retries.pause(1, "20") == 20
    assert retries.pause(1, "31") is None
    assert retries.pause(1, "nonsense") is not None
    assert seconds(email.utils.formatdate(time.time() + 100)) == pytest.approx(100, abs=2)
    assert seconds(email.utils.formatdate(time.time() - 100)) == 0
    assert seconds("9" * 50) is None
    assert seconds(None) is None
