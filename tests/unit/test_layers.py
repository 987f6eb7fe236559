"""Who may import whom, read from the imports themselves, and how large a module may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "aviato").rglob("*.py"), *(ROOT / "aviato_sync").rglob("*.py")])
LARGEST = 600
FOR_USERS = {"aviato.testing.plugin"}  # its fixtures give what the front door gives

VALUES = {
    "aviato.exceptions",
    "aviato.models",
    "aviato.validation",
    "aviato.quantities",
    "aviato._parts",
    "aviato._defaults",
}
ALLOWED = {
    "values": {"values"},
    "settings": {"values", "settings"},
    "agent": {"values", "agent"},
    "base": {"values", "settings", "agent", "base"},
    "registry": {"values", "registry"},
    "local": {"values", "settings", "agent", "base", "registry", "local"},
    "docker": {"values", "settings", "agent", "base", "registry", "docker"},
    "aio": {"values", "settings", "agent", "base", "aio"},
    "cli": {"values", "settings", "agent", "base", "registry", "local", "docker", "aio", "cli"},
    "testing": {"values", "settings", "agent", "base", "aio", "testing"},
    "sync": {"values", "aio package", "sync"},
    "front door": {"values", "aio package", "sync", "front door"},
}


def room(module: str) -> str:
    """Name the layer that a module belongs to."""
    if module in VALUES:
        return "values"
    if module in {"aviato", "aviato.__init__"}:
        return "front door"
    if module.startswith("aviato_sync"):
        return "sync"
    for prefix, name in (
        ("aviato.settings", "settings"),
        ("aviato.agent", "agent"),
        ("aviato.registry", "registry"),
        ("aviato.engines.local", "local"),
        ("aviato.engines.docker", "docker"),
        ("aviato.engines", "base"),
        ("aviato.aio", "aio"),
        ("aviato.cli", "cli"),
        ("aviato.testing", "testing"),
    ):
        if module == prefix or module.startswith(prefix + "."):
            return name
    raise AssertionError(f"{module} belongs to no layer: add it to this test and to the architecture page")


def name_of(path: Path) -> str:
    """Return a file's module name."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """List the modules of ours that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").exists()
                found.add(inner if is_module or (ROOT / inner.replace(".", "/")).is_dir() else node.module)
    return {name for name in found if name.split(".")[0] in {"aviato", "aviato_sync"}}


@pytest.mark.parametrize("path", MODULES, ids=[name_of(path) for path in MODULES])
def test_a_module_imports_only_from_its_own_layer_and_those_below(path: Path) -> None:
    """The layers of the architecture page hold for every import, also for late ones."""
    layer = room(name_of(path))
    for module in imports(path):
        if layer in {"sync", "front door"} and module == "aviato.aio":
            continue
        if module == "aviato" and layer != "front door":
            assert layer in {"sync", "cli"} or name_of(path) in FOR_USERS, f"{name_of(path)} imports the front door"
            continue
        if name_of(path) == "aviato.engines" and module in {
            "aviato.engines.local.engine",
            "aviato.engines.docker.engine",
        }:
            continue  # the one place that knows engines by name
        assert room(module) in ALLOWED[layer], f"{name_of(path)} ({layer}) imports {module} ({room(module)})"


@pytest.mark.parametrize("path", MODULES, ids=[name_of(path) for path in MODULES])
def test_no_module_is_too_large(path: Path) -> None:
    """A module of more than 600 lines wants to be two."""
    if "_generated" not in path.parts:
        assert len(path.read_text().splitlines()) <= LARGEST


@pytest.mark.parametrize(
    "module", ["aviato", "aviato.exceptions", "aviato.models", "aviato.settings", "aviato.agent.frames"]
)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    """Neither aiohttp nor asyncio nor a thread comes with them."""
    heavy = ("aiohttp", "asyncio", "rich", "click")
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_local_sandbox_never_loads_aiohttp() -> None:
    """The core and the local engine do without it."""
    program = "import sys, aviato.aio, aviato.engines.local.engine; print('aiohttp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
