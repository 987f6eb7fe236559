"""Kubernetes quantities: the grammar, rounding, and every kind of nonsense."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aviato.quantities import parse_bytes, parse_cpu, parse_quantity

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18}
BINARY = {f"{letter}i": 1024 ** (n + 1) for n, letter in enumerate("KMGTPE")}


@pytest.mark.parametrize(
    ("value", "millicores"),
    [
        ("500m", 500),
        (2, 2000),
        ("2", 2000),
        (0.5, 500),
        ("0.1", 100),
        ("1e1", 10000),
        ("1500000u", 1500),
        ("1n", 1),
        (".5", 500),
        ("2.", 2000),
    ],
)
def test_cpu(value: str | float, millicores: int) -> None:
    """Whole millicores, rounded up."""
    assert parse_cpu(value) == millicores


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16Gi", 16 << 30),
        ("1k", 1000),
        (512, 512),
        ("1.5Ki", 1536),
        ("1e3", 1000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("100m", 1),
        ("1Ei", 1 << 60),
    ],
)
def test_bytes(value: str | int, size: int) -> None:
    """Whole bytes, rounded up; E is a suffix and an exponent."""
    assert parse_bytes(value) == size


@given(st.integers(1, 10**9), st.sampled_from(sorted({**SUFFIXES, **BINARY})))
def test_any_number_with_any_suffix(number: int, suffix: str) -> None:
    """The value is the number times the factor."""
    assert parse_bytes(f"{number}{suffix}") == number * {**SUFFIXES, **BINARY}[suffix]


@given(st.decimals(min_value="0.001", max_value="100000", allow_nan=False, allow_infinity=False, places=3))
def test_decimals_are_exact(number: Decimal) -> None:
    """No binary rounding on the way."""
    assert parse_quantity(str(number), name="x") == number
    assert parse_cpu(str(number)) == int(number * 1000)


@given(st.text(max_size=12))
def test_text_is_a_quantity_or_a_clear_error(text: str) -> None:
    """Whatever the text: a number that is not negative, or a ValueError with the key and the text."""
    try:
        value = parse_quantity(text, name="resources.cpu")
    except ValueError as error:
        message = str(error)
        assert "resources.cpu" in message
        assert repr(text) in message
    else:
        assert value >= 0
        assert value.is_finite()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "-",
        "1x",
        "1 Gi",
        "Gi",
        "1ki",
        "0x10",
        "nan",
        "inf",
        "1e",
        "1e+",
        "1e999",
        "\u0661",
        "1,5",
        "--1",
        "+-1",
        float("nan"),
        float("inf"),
        -0.5,
    ],
)
def test_nonsense_is_refused(value: str | float) -> None:
    """A ValueError that names the key."""
    with pytest.raises(ValueError, match="memory"):
        parse_bytes(value)


@pytest.mark.parametrize("value", [0, "0", "0Gi", 0.0, "0m"])
def test_zero_is_refused(value: str | float) -> None:
    """Nothing runs with no processor or memory."""
    with pytest.raises(ValueError, match="more than zero"):
        parse_cpu(value)


@pytest.mark.parametrize("value", [True, None, b"1", [1], object()])
def test_wrong_types_are_refused(value: object) -> None:
    """A TypeError with the right form."""
    with pytest.raises(TypeError, match="500m"):
        parse_cpu(value)  # type: ignore[arg-type]  # what is tested
