"""`import aviato`: everything is there, and nothing is loaded before it is asked for."""

from __future__ import annotations

import pytest

import aviato
import aviato_sync
from aviato import aio, exceptions, models
from aviato_sync import _generated
from tests.facade.script import run

HEAVY = ("asyncio", "threading", "typing", "attrs", "attr", "anyio", "aiohttp", "click", "rich", "logging", "inspect")


def test_import_loads_nothing() -> None:
    """The import loads no heavy module and none of our own, and starts no thread."""
    program = f"""
import sys
before = set(sys.modules)
import aviato
new = set(sys.modules) - before
print(sorted(new & set({HEAVY!r})), sorted(name for name in new if name.startswith("aviato")), "_thread" in new)
"""
    assert run(program, "-S", "-E") == (0, "[] ['aviato'] False\n", "")


def test_every_public_name() -> None:
    """Every name of the facade, of the values and of the errors is a name of the front door, as the same object."""
    homes = (aviato_sync, models, exceptions)
    wanted = {name: getattr(home, name) for home in homes for name in home.__all__}
    assert {name: getattr(aviato, name) for name in wanted} == wanted
    assert set(aviato.__all__) == {*wanted, "aio", "exceptions", "models"}
    assert set(aviato.__all__) <= set(dir(aviato))


def test_lists_are_sorted_and_complete() -> None:
    """The lists of public names are sorted, and the facade has every handle that is generated."""
    for module in (aviato, aviato_sync, _generated, exceptions, models, aio):
        names = module.__all__
        assert list(names) == sorted(set(names)), module.__name__
    assert set(_generated.__all__) <= set(aviato_sync.__all__)
    assert set(aio.__all__) - {"stop_all_at_exit"} <= set(aviato_sync.__all__)


def test_core_by_attribute() -> None:
    """The core is reached as an attribute too."""
    assert run("import aviato; print(aviato.aio.Session.__module__)") == (0, "aviato.aio.session\n", "")


def test_unknown_name() -> None:
    """What does not exist is an `AttributeError` as of any module."""
    with pytest.raises(AttributeError, match="module 'aviato' has no attribute 'sesion'"):
        getattr(aviato, "sesion")  # noqa: B009 - the mistake under test, out of sight of type checkers
