"""A root file system that is not this machine's: busybox where it is installed, and a copy of the running Python.

There is no registry in a test. The tree is another userland all the same: other paths, another shell, no `/opt`, an
`/etc` of its own. `AVIATO_ISOLATION_IMAGE` names a directory or archive to use instead, with a `python3` and `/bin/sh`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from aviato.engines.local.images import ImageStore

NAME = "aviato-isolation-test"
HOME = "/lib/python"
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "site-packages",
    "dist-packages", "config-*", "*.a", "_test*", "distutils", "pydoc_data", "unittest", "xml", "asyncio",
)  # fmt: skip


def libraries(*programs: Path) -> list[str]:
    """List the shared libraries that programs load; none of a static one."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    words = [word for line in said.splitlines() if not line.endswith(":") for word in line.split()]
    return sorted({word for word in words if word.startswith("/")})


def build(root: Path) -> None:
    """Make the tree."""
    for folder in ("bin", "lib", "lib64", "etc", "usr/bin"):
        (root / folder).mkdir(parents=True)
    (root / "etc/os-release").write_text("ID=aviato-isolation\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    add_shell(root)
    _python(root)


def add_shell(root: Path) -> None:
    """Put busybox into a tree, or the shell of this machine with its libraries."""
    busybox = shutil.which("busybox")
    if busybox is not None:
        _copy(root, Path(busybox), Path("bin/busybox"))
        for applet in ("sh", "ls", "cat", "env", "mount", "find", "grep", "head", "true", "sleep"):
            (root / "bin" / applet).symlink_to("busybox")
        return
    shell = Path("/bin/sh").resolve()
    _copy(root, shell, Path("bin/sh"))


def _python(root: Path) -> None:
    program = Path(os.path.realpath(sys.executable))
    stdlib = Path(sysconfig.get_path("stdlib"))
    target = root / HOME.lstrip("/") / "lib" / stdlib.name
    shutil.copytree(stdlib, target, symlinks=False, ignore=_LEFT_OUT, ignore_dangling_symlinks=True)
    _copy(root, program, Path("bin/python3.real"))
    for library in libraries(*(target / "lib-dynload").glob("*.so")):
        _copy(root, Path(library), Path("lib/python") / Path(library).name, follow=False)
    wrapper = f'#!/bin/sh\nexport LD_LIBRARY_PATH={HOME} PYTHONHOME={HOME}\nexec /bin/python3.real -S "$@"\n'
    path = root / "bin/python3"
    path.write_text(wrapper)
    path.chmod(0o755)


def _copy(root: Path, source: Path, place: Path, *, follow: bool = True) -> None:
    target = root / place
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy(source, target)
    if not follow:
        return
    for library in libraries(source):
        # the loader by its own path, everything else where the wrapper looks for it
        at = (
            Path(library.lstrip("/"))
            if Path(library).name.startswith("ld-")
            else Path("lib/python") / Path(library).name
        )
        _copy(root, Path(library), at, follow=False)
        if not place.name.startswith("python3") and not (root / library.lstrip("/")).exists():
            _copy(root, Path(library), Path(library.lstrip("/")), follow=False)


def imported(state: str, workshop: Path) -> tuple[str, Path]:
    """Import the image and give its name and the directory where its files lie."""
    store = ImageStore(state)
    given = os.environ.get("AVIATO_ISOLATION_IMAGE")
    if given is None:
        build(workshop / "tree")
    store.import_(NAME, given or str(workshop / "tree"))
    root = store.resolve(NAME).root
    assert root is not None
    return NAME, Path(root)


def removed(state: str) -> None:
    """Remove it again."""
    ImageStore(state).remove(NAME)
