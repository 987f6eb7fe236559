"""A process that is killed while its children are being born takes them along."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from aviato.engines.local.family import kill_with_children


def test_children_in_sessions_of_their_own_go_as_well() -> None:
    """Neither a session of their own nor ignored signals save them."""
    program = (
        "import os, signal, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); signal.signal(15, signal.SIG_IGN); os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)\n"
        "time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    children = [int(process.stdout.readline()) for _ in range(3)]
    kill_with_children(process.pid)
    assert process.wait(timeout=10) == -9
    process.stdout.close()
    deadline = time.monotonic() + 10
    for child in children:
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not Path(f"/proc/{child}").exists()
