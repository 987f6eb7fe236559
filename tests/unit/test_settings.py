"""Settings: which source wins, and that every error names the place of the bad value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from aviato import settings
from aviato.exceptions import ConfigurationError

VARIABLES = ("ENGINE", "BASE_URL", "API_KEY", "HOME", "PROFILE", "DISABLE_SIGNAL_HANDLERS")


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Give a program without settings of its own, and a writer of its configuration file."""
    for name in VARIABLES:
        monkeypatch.delenv(f"AVIATO_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "/var/states")

    def write(text: str) -> Path:
        path = tmp_path / "aviato" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.mark.usefixtures("write")
def test_defaults() -> None:
    """With nothing set, the local engine is used and its state lies where the system keeps state."""
    found = settings.load_settings()
    assert (found.engine, found.base_url, found.api_key, found.profile) == ("local", None, None, None)
    assert found.home == settings.home() == "/var/states/aviato"
    assert found.disable_signal_handlers is False
    assert set(found.sources.values()) == {"default"}


def test_the_nearer_source_wins(write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword wins over the environment, that over the profile, that over the file; each value tells its source."""
    path = write('engine = "a"\nhome = "/a"\napi_key = "a"\n[profile.work]\nhome = "/b"\napi_key = "b"\n')
    monkeypatch.setenv("AVIATO_PROFILE", "work")
    monkeypatch.setenv("AVIATO_API_KEY", "c")
    found = settings.load_settings(base_url="http://d", engine=None)
    assert (found.engine, found.home, found.api_key, found.base_url) == ("a", "/b", "c", "http://d")
    assert found.sources["engine"] == str(path)
    assert found.sources["home"] == f"{path} [profile.work]"
    assert found.sources["api_key"] == "environment variable AVIATO_API_KEY"
    assert found.sources["base_url"] == "keyword base_url"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n", "config.toml has an unknown key 'colour'"),
        ("[profile.work]\ncolour = 1\n", r"\[profile.work\] has an unknown key 'colour'"),
        ("engine = 1\n[profile.work]\n", "config.toml: engine must be a str, got 1"),
        ('home = "here"\n[profile.work]\n', "config.toml: home must be an absolute path"),
        ("engine = \n", "config.toml is not TOML"),
        ("", r"config.toml has no table \[profile.work\]"),
    ],
)
def test_a_faulty_file_is_named(write: Callable[[str], Path], text: str, said: str) -> None:
    """The error has the file and the key."""
    write(text)
    with pytest.raises(ConfigurationError, match=said):
        settings.load_settings(profile="work")


@pytest.mark.usefixtures("write")
def test_faults_elsewhere_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad variable, an unknown keyword and a profile without a file are errors."""
    with pytest.raises(TypeError, match="unknown keyword 'colour'"):
        settings.load_settings(colour=1)
    with pytest.raises(ConfigurationError, match="profile 'work' was asked for, but there is no"):
        settings.load_settings(profile="work")
    monkeypatch.setenv("AVIATO_DISABLE_SIGNAL_HANDLERS", "maybe")
    with pytest.raises(ConfigurationError, match=r"AVIATO_DISABLE_SIGNAL_HANDLERS.* got 'maybe'"):
        settings.load_settings()


@pytest.mark.usefixtures("write")
def test_a_key_stays_secret() -> None:
    """A repr, which ends in logs, does not show the key; settings cannot be changed."""
    found = settings.load_settings(api_key="secret-value")
    assert "secret-value" not in repr(found)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.engine = "x"  # type: ignore[misc]  # what is tested
