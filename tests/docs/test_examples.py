"""Every code block of README.md and docs/ runs, on the local engine; those about Docker on a daemon."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aviato.engines.docker.endpoint import find_endpoint
from tests.docs.environment import PYTHON, ROOT, page_environment
from tests.docs.run_page import Block, blocks, check_output
from tests.helpers.docker import require_docker

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
RUN = ("python", "console")


def has_code(page: Path) -> bool:
    """Tell whether a page has something to run."""
    return any(block.kind.split()[:1] == [kind] for block in blocks(page.read_text()) for kind in RUN)


def with_code() -> Iterator[Any]:
    """List the pages that have something to run."""
    for page in PAGES:
        if has_code(page):
            marks = [pytest.mark.docker] if page.stem == "docker" else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", list(with_code()))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """A page's blocks run top to bottom in a fresh interpreter and print what the page says."""
    environment = page_environment(tmp_path)
    if page.stem == "docker":
        require_docker()
        environment["DOCKER_HOST"] = str(find_endpoint())
    done = subprocess.run(
        [*PYTHON, str(ROOT / "tests/docs/run_page.py"), str(page)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page points at a file of the repository, and a fragment at one of its headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if fragment:
            assert fragment in anchors(file.read_text()), f"{page.name} links to {target}"


def anchors(text: str) -> set[str]:
    """Return the fragments of a page's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_blocks_are_found_with_their_lines() -> None:
    """The collector sees every fenced block and where its text begins."""
    page = "# Title\n\n```python\nx = 1\n```\n\n```text output\n1\n```\n"
    assert list(blocks(page)) == [Block("python", "x = 1\n", 4), Block("text output", "1\n", 8)]


def test_an_open_block_is_refused() -> None:
    """A fence without its end would silently swallow the rest of a page."""
    with pytest.raises(ValueError, match="line 2 is not closed"):
        list(blocks("```python\nx = 1\n"))


def test_shown_output_is_compared() -> None:
    """Output that differs from the page fails, and three dots stand for anything."""
    check_output("sbx-1 [running]\nend\n", "sbx-... [running]\nend\n", "here")
    check_output("a\nb\nc\n", "a\n...\nc\n", "here")
    with pytest.raises(AssertionError, match="the page says"):
        check_output("a\n", "b\n", "here")
