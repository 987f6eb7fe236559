"""The example of a batch job: it runs, it is interrupted, and it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.environment import ROOT


def entries(journal: Path) -> list[int]:
    """List the items that a journal holds."""
    lines = journal.read_bytes().split(b"\n")[1:-1] if journal.exists() else []
    return [json.loads(line.partition(b" ")[2])["i"] for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_batch_job(tmp_path: Path, local_engine: None, how: signal.Signals) -> None:
    """Killed or interrupted in the middle and started again, it does the rest and writes every row once."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number:03}.txt").write_text(f"word{number} " * (number + 1))
    result = tmp_path / "result.csv"
    journal = Path(f"{result}.journal")
    command = [sys.executable, str(ROOT / "examples" / "batch_job.py"), str(texts), str(result)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(entries(journal)) < 5:
        assert job.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    job.send_signal(how)
    job.communicate(timeout=30)
    assert job.returncode != 0
    before = entries(journal)
    assert 5 <= len(before) < 60
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=90)
    assert "count: 60 done" in done.stderr
    assert done.stderr.endswith("60 texts, 0 failed, 0 begun again\n")
    after = entries(journal)
    assert after[: len(before)] == before
    assert sorted(after) == list(range(60))
    rows = result.read_text().splitlines()[1:]
    assert rows == [f"{number:03}.txt,{number + 1},word{number}" for number in range(60)]
