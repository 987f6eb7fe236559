"""What an import costs, over the start of a bare interpreter, and what it loads.

Each sample is one fresh interpreter. `import asyncio` is shown beside it, since that is what most programs pay anyway.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from common import Options, Row, interleave, main, statistic, timed

LOADED = "import sys, threading; print(threading.active_count(), *sorted(set(sys.modules) & set(sys.argv[1:])))"
HEAVY = (
    "aiohttp",
    "aiohttp.client",
    "asyncio",
    "cattrs",
    "anyio",
    "click",
    "rich",
    "aviato.aio",
    "aviato.engines.local",
)
FIRST_SANDBOX = "import aviato\nwith aviato.Sandbox.run() as s: s.exec(['true']).result()\n"


def measure(options: Options) -> list[Row]:
    """Return the rows of this file."""

    def start(code: str) -> list[float]:
        return [timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))]

    codes = {
        "bare": "pass",
        "aviato": "import aviato",
        "asyncio": "import asyncio",
        "core": "import aviato.aio",
        "session": "import aviato; aviato.Session",
    }
    samples = interleave({name: partial(start, code) for name, code in codes.items()}, options.count(30))
    bare = statistic(samples["bare"], "median")
    added = {name: [sample - bare for sample in values] for name, values in samples.items()}
    loaded = _loaded("import aviato\n" + LOADED)
    first = _loaded(FIRST_SANDBOX + LOADED)
    return [
        Row(
            "import aviato, over a bare interpreter",
            "ms",
            added["aviato"],
            samples["bare"],
            "python -c pass, whole",
            "+ <= 15 ms",
            limit=15,
            facts={
                "threads and heavy modules after it": loaded,
                "import asyncio": f"+ {statistic(added['asyncio'], 'median'):.1f} ms",
                "import aviato.aio": f"+ {statistic(added['core'], 'median'):.1f} ms",
                "import aviato; aviato.Session": f"+ {statistic(added['session'], 'median'):.1f} ms",
            },
        ),
        Row(
            "aiohttp loaded by a first local sandbox",
            "",
            [float("aiohttp" in first.split())],
            goal="no",
            limit=0,
            facts={"threads and heavy modules after it": first},
        ),
    ]


def _loaded(code: str) -> str:
    command = [sys.executable, "-c", code, *HEAVY]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main(measure)
