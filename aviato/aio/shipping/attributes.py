"""What classes and functions carry as attributes, beside what their text gives them."""

from __future__ import annotations

import ast
import contextlib
import enum
from collections import Counter
from typing import Any

from aviato.aio.shipping import values
from aviato.aio.shipping.source import Place

Reference = list[Any]


def is_special(name: str) -> bool:
    """Tell whether a name is one of those that Python keeps for itself."""
    return name.startswith("__") and name.endswith("__")


def class_attributes(value: type, where: str, place: Place) -> list[tuple[str, Reference]]:
    """List the plain data among a class's attributes, but for what its text says as it stands."""
    assert isinstance(place.node, ast.ClassDef)  # noqa: S101 - narrows the type
    if issubclass(value, enum.Enum):  # these do not change
        return []
    bound = Counter(
        node.id for node in ast.walk(place.node) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    texts: dict[str, ast.expr] = {}
    for node in place.node.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and bound[target.id] == 1:
                    texts[target.id] = node.value
    found: list[tuple[str, Reference]] = []
    for name, content in vars(value).items():
        data = None if is_special(name) else values.describe_data(content, where)
        if data is None:
            continue
        with contextlib.suppress(ValueError):  # it is no literal, so that its text does not say what it is
            said = ast.literal_eval(texts[name]) if name in texts else values.MISSING
            if values.describe_data(said, where) == data:
                continue
        found.append((name, data))
    return found
