"""The generated modules are what the core's source gives now."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from aviato_sync import _codegen


def test_facade_is_fresh() -> None:
    """`_codegen.py --check`, as a contributor runs it, finds nothing."""
    command = [sys.executable, "-P", "aviato_sync/_codegen.py", "--check"]
    done = subprocess.run(command, cwd=_codegen.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_generator_needs_nothing_but_the_standard_library() -> None:
    """The generator imports the standard library only, and stays small."""
    text = Path(_codegen.__file__).read_text()
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert len(text.splitlines()) <= 510


def test_no_rule_is_idle() -> None:
    """Every rule about names matches something in the core of today."""
    files, listing = _codegen.generate(_codegen.ROOT)
    sources = "".join(path.read_text() for path in (_codegen.ROOT / "aviato" / "aio").glob("[!_]*.py"))
    for name in (*_codegen.INHERITED, *_codegen.ENDS, "__await__", "__del__", "__repr__"):
        assert f"def {name}(" in sources, name
    text = "".join(files.values())
    for used in (
        "start_class(",
        "call_class(",
        "unwrap(",
        "feed(",
        "_start_wrapped(",
        "_call_wrapped(",
        "_get(",
        "@overload",
    ):
        assert used in text, used
    assert any("left out" in line for line in listing)
