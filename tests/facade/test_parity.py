"""Both faces have the same members with the same signatures, found by inspection and not by the generator."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

import aviato_sync
from aviato import aio
from aviato_sync import OperationRef, _generated

CLASSES = [(getattr(aio, name), getattr(aviato_sync, name)) for name in _generated.__all__]
SPECIAL = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "__await__": "__await__",
}


def _skipped(core: type) -> set[str]:
    """Names under `@facade.skip`, as the source says."""
    return set(re.findall(r"@facade\.skip\(.*\)\n(?:    @.*\n)*    (?:async )?def (\w+)", inspect.getsource(core)))


def _public(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(cls).items():
        if not name.startswith("_") and (isinstance(member, (FunctionType, property, classmethod)) or callable(member)):
            yield name, member


def _pairs() -> Iterator[Any]:
    for core, facade in CLASSES:
        for name, member in _public(core):
            if name not in _skipped(core):
                yield pytest.param(facade, name, member, id=f"{core.__name__}.{name}")


def _function(member: Any) -> Any:
    if isinstance(member, property):
        return member.fget
    return member.__func__ if isinstance(member, classmethod) else member


def test_same_classes() -> None:
    """Every handle of the core has its counterpart, and there is nothing else."""
    handles = {name for name in aio.__all__ if inspect.isclass(getattr(aio, name))}
    assert handles == set(_generated.__all__)


@pytest.mark.parametrize(("facade", "name", "member"), list(_pairs()))
def test_same_member(facade: type, name: str, member: Any) -> None:
    """A member has the same kind, parameters and defaults, a mapped result and a docstring."""
    ours = inspect.getattr_static(facade, name)
    assert isinstance(ours, property) == isinstance(member, property)
    assert isinstance(ours, classmethod) == isinstance(member, classmethod)
    theirs, own = inspect.signature(_function(member)), inspect.signature(_function(ours))
    assert [(item.name, item.kind, item.default) for item in theirs.parameters.values()] == [
        (item.name, item.kind, item.default) for item in own.parameters.values()
    ]
    assert not inspect.iscoroutinefunction(_function(ours))
    assert (_function(ours).__doc__ or "").split("\n")[0].strip()
    if hasattr(OperationRef, name):
        return  # a ref's own members are typed in OperationRef
    annotation = str(theirs.return_annotation)
    if re.match(r"(\w+\.)*Async(Iterator|Generator)\[", annotation):
        annotation = re.sub(r"^[\w.]*\[(.*?)(, None)?\]$", r"BlockingIterator[\1]", annotation)
    elif inspect.iscoroutinefunction(_function(member)):
        annotation = f"OperationRef[{annotation}]"
    assert str(own.return_annotation) == annotation
    assert [str(item.annotation) for item in theirs.parameters.values()] == [
        str(item.annotation) for item in own.parameters.values()
    ]


@pytest.mark.parametrize(("core", "facade"), CLASSES, ids=_generated.__all__)
def test_nothing_more(core: type, facade: type) -> None:
    """The facade has no public member of its own."""
    wanted = {name for name, _ in _public(core)} - _skipped(core)
    assert {name for name, _ in _public(facade)} <= wanted


@pytest.mark.parametrize(("core", "facade"), CLASSES, ids=_generated.__all__)
def test_special_methods(core: type, facade: type) -> None:
    """What can be awaited, entered or iterated can be both ways on the facade."""
    for name, blocking in SPECIAL.items():
        assert hasattr(facade, name) == hasattr(core, name), name
        assert hasattr(facade, blocking) == hasattr(core, name), blocking


@pytest.mark.parametrize(("core", "facade"), CLASSES, ids=_generated.__all__)
def test_constructors(core: type, facade: type) -> None:
    """A documented constructor has the same parameters; any other cannot be called."""
    if core.__init__.__doc__:  # type: ignore[misc]  # of a class, on purpose
        theirs, ours = inspect.signature(core), inspect.signature(facade)
        assert [str(item) for item in theirs.parameters.values()] == [str(item) for item in ours.parameters.values()]
    else:
        with pytest.raises(TypeError, match="returned by other methods"):
            facade()


def test_functions_of_the_module() -> None:
    """`results`, `wait` and `as_completed` take the same arguments on both faces."""
    for name in ("results", "wait", "as_completed"):
        theirs, ours = inspect.signature(getattr(aio, name)), inspect.signature(getattr(aviato_sync, name))
        assert [(item.name, item.kind, item.default) for item in theirs.parameters.values()] == [
            (item.name, item.kind, item.default) for item in ours.parameters.values()
        ]
