"""Ending a sandbox as its machine might: at once, from outside, and without a word to anybody."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.helpers import docker
from tests.helpers.local import init_of


def crash(engine: Any, sandbox_id: str) -> None:
    """Kill the first process of a sandbox."""
    if engine == "local":
        os.kill(init_of(sandbox_id), signal.SIGKILL)
    elif engine == "docker":
        docker.ask("POST", f"/containers/{sandbox_id}/kill", params={"signal": "SIGKILL"})
    else:
        engine.faults.crash(sandbox_id)
