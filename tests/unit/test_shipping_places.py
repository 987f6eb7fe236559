"""Functions from a package with relative imports, from a script, and from the prompt."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from aviato.aio.shipping.inside.messages import read_result, write_call
from aviato.aio.shipping.inside.runner import MARK, VALUE
from aviato.aio.shipping.program import COMMAND, message, program
from tests.unit.test_shipping import run


def test_a_module_with_relative_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes from a neighbour is shipped as its source: neither package nor path need be there."""
    package = tmp_path / "aviato_test_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("SCALE = 3\n")
    (package / "tools.py").write_text("from . import SCALE\n\ndef scaled(x):\n    return x * SCALE\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "work.py").write_text(
        "from ..tools import scaled\nfrom .. import SCALE as factor\n\n\ndef work(x):\n    return scaled(x) + factor\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("aviato_test_package.inner.work").work
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome, done = run(work, elsewhere, 5)
    assert outcome == {"value": 18}, done.stderr.decode()
    for name in [name for name in sys.modules if name.startswith("aviato_test_package")]:
        del sys.modules[name]


_SCRIPT = """\
import dataclasses, sys
from aviato.aio.shipping.collect import collect

LIMIT = 2

@dataclasses.dataclass
class Box:
    size: int

def grow(box):
    return Box(box.size + LIMIT)

def main():
    def inner(n):
        return 1 if n < 2 else n * inner(n - 1)

    def entry(n):
        return grow(Box(inner(n))).size

    sys.stdout.buffer.write(collect(entry).document)

main()
"""


def test_a_script(tmp_path: Path) -> None:
    """Nested and recursive functions, classes and globals of `__main__`, where the sandbox has another one."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    made = subprocess.run([sys.executable, str(script)], capture_output=True, check=True)
    token = bytes(range(16))
    call = b"".join([token, *write_call((4,), {}, ())])
    done = subprocess.run(
        COMMAND,
        input=b"".join(message(part) for part in (program(), made.stdout, token, b"1", call)),
        capture_output=True,
        check=False,
    )
    frame = done.stdout.split(MARK + token)[-1]
    assert frame[:1] == VALUE, done.stderr.decode()
    assert read_result(frame[9:], (), trusted=False) == 26


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the plain prompt keeps no source before Python 3.13")
def test_what_was_typed_at_the_prompt(tmp_path: Path) -> None:
    """The prompt of Python 3.13 and later keeps what was typed."""
    lines = (
        "def f(x):\n    return x + 1\n\n"
        "from aviato.aio.shipping.collect import collect\nprint(len(collect(f).document))\n"
    )
    done = subprocess.run([sys.executable, "-i", "-q"], input=lines, capture_output=True, text=True, check=False)
    assert int(done.stdout.strip().splitlines()[-1]) > 0, done.stderr
