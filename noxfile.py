"""The project's checks, one nox session each; CI runs these and nothing else.

Python versions come from the classifiers in pyproject.toml, so there is one place to change.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
CODE = ("aviato", "aviato_sync", "tests", "benchmarks", "examples", "noxfile.py")

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "facade", "typing", "tests", "docs_examples", "package"]


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and spelling."""
    session.install("ruff>=0.8", "codespell>=2.3")
    session.run("ruff", "check", *CODE)
    session.run("ruff", "format", "--check", *CODE)
    session.run("codespell", *CODE, "docs", "README.md", "pyproject.toml")


@nox.session(venv_backend="none")
def facade(session: nox.Session) -> None:
    """Check that the generated facade is fresh; `-- --write` makes it anew."""
    arguments = () if "--write" in session.posargs else ("--check",)
    session.run(sys.executable, "-P", "aviato_sync/_codegen.py", *arguments, external=True)


@nox.session
def typing(session: nox.Session) -> None:
    """Check types with mypy and pyright: packages, tests, benchmarks, this file."""
    session.install(".[lint,test]", "nox")
    session.run("mypy")
    session.run("pyright")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the test suite with one Python; arguments after `--` go to pytest."""
    _pytest(session)


def _pytest(session: nox.Session, *paths: str) -> None:
    session.install(".[test]")
    session.run("python", "-m", "pytest", *paths, *session.posargs)


@nox.session
def isolation(session: nox.Session) -> None:
    """Try to get out of real sandboxes of this machine, as the user who runs this."""
    _pytest(session, "tests/isolation")


@nox.session
def faults(session: nox.Session) -> None:
    """Break what is around sandboxes, and cancel everywhere, as the user who runs this."""
    _pytest(session, "tests/faults")


@nox.session
def docs_examples(session: nox.Session) -> None:
    """Run every code block of README.md and docs/, the sessions guide included."""
    _pytest(session, "tests/docs")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the baselines; `-- --quick` for a short form."""
    session.install(".")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz what strangers send, guided by coverage; options after `--` are libFuzzer's: `-- -max_total_time=600`."""
    session.install(".[test]", "atheris>=2.3")
    corpus = Path(session.cache_dir) / "fuzz"
    for target in ("codec", "client", "tar"):
        (corpus / target).mkdir(parents=True, exist_ok=True)
        options = session.posargs or ["-max_total_time=60"]
        session.run("python", "-m", "tests.fuzz.guided", target, *options, str(corpus / target))


@nox.session
def soak(session: nox.Session) -> None:
    """Make 2,000 sandboxes, break things, compare bytes, look for leftovers; `-- --short` for the least of it."""
    session.install(".")
    session.run("python", "benchmarks/soak.py", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build, look into the wheel, and import it where no optional dependency is installed."""
    session.install("build")
    out = Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), str(ROOT))
    (wheel,) = out.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wrong = [name for name in names if name.endswith("_codegen.py") or not name.startswith("aviato")]
    missing = {"aviato/py.typed", "aviato_sync/py.typed", "aviato/agent/payload.py"} - set(names)
    if wrong or missing:
        session.error(f"in the wheel and should not be: {wrong}; missing: {sorted(missing)}")
    session.install("--force-reinstall", str(wheel))
    session.cd(session.create_tmp())  # away from the source tree, so that the wheel is what is imported
    session.run("python", "-c", "import aviato, aviato_sync, aviato.aio; aviato.Session, aviato_sync.Sandbox")
    session.run("aviato", "--help", silent=True)
