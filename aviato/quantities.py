"""Kubernetes quantities: `"500m"`, `2`, `"16Gi"`.

The grammar is that of https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/;
CPU is kept as whole millicores and memory as whole bytes, rounded up, as Kubernetes does.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,2}|E[+-]?[0-9]{1,2}|[A-Za-z]*)")
_FACTORS = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
    **{f"{letter}i": Decimal(1024 ** (power + 1)) for power, letter in enumerate("KMGTPE")},
}


def parse_quantity(value: str | float, *, name: str) -> Decimal:
    """Read a quantity.

    Args:
        value: A number, or a string of a number and a Kubernetes suffix.
        name: The key that holds it, for the error.

    Raises:
        TypeError: It is neither a string nor a number.
        ValueError: It is negative, not finite or not a quantity.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f'{name} must be a quantity such as "500m", 2 or "16Gi", not {value!r}')
    text = str(value).strip()
    if text.startswith("-"):
        raise ValueError(f"{name} must not be negative, got {value!r}")
    match = _NUMBER.fullmatch(text.removeprefix("+"))
    if match is None:
        raise ValueError(f'{name} must be a quantity such as "500m", 2 or "16Gi", got {value!r}')
    number, suffix = match.groups()
    if suffix in _FACTORS:
        return Decimal(number) * _FACTORS[suffix]
    if suffix[:1] in "eE" and suffix[1:].lstrip("+-").isdigit():
        return Decimal(f"{number}{suffix}")
    raise ValueError(f"{name} has the unknown suffix {suffix!r} in {value!r}; known: m, k, M, G, T, Ki, Mi, Gi, Ti")


def parse_cpu(value: str | float, *, name: str = "cpu") -> int:
    """Read an amount of CPU as millicores, at least 1.

    Raises:
        TypeError: It is neither a string nor a number.
        ValueError: It is negative, zero or not a quantity.
    """
    return _positive(parse_quantity(value, name=name) * 1000, value, name)


def parse_bytes(value: str | float, *, name: str = "memory") -> int:
    """Read an amount of memory or disk as bytes, at least 1.

    Raises:
        TypeError: It is neither a string nor a number.
        ValueError: It is negative, zero or not a quantity.
    """
    return _positive(parse_quantity(value, name=name), value, name)


def _positive(amount: Decimal, value: object, name: str) -> int:
    if amount <= 0:
        raise ValueError(f"{name} must be more than zero, got {value!r}")
    return int(amount.to_integral_value(rounding=ROUND_CEILING))
