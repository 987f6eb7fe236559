"""What all benchmarks share: rows beside their baselines, facts of the machine, baselines, memory and processes.

A benchmark is a script with one function that returns rows. Each row holds every sample of ours and of the baseline,
taken in turns in the same run, so that a busy machine disturbs both. Read ratios rather than times.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

TRUE = shutil.which("true") or "/bin/true"
CLEAN = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
PIPE_READ = 64 * 1024


@attrs.frozen
class Options:
    """How long to measure.

    Attributes:
        quick: A tenth of the work, to see that everything runs; such figures are not for quoting.
        long: Also what takes minutes.
    """

    quick: bool = False
    long: bool = False

    def count(self, number: int) -> int:
        """Return how often to do something."""
        return max(3, number // 10) if self.quick else number


@attrs.frozen
class Row:
    """One figure: what was measured, all samples, and what is aimed at.

    Attributes:
        what: The row's name.
        unit: Unit of the samples.
        ours: One sample a repeat.
        baseline: The same for the baseline, or empty.
        versus: What the baseline is.
        goal: The aim as a person reads it.
        ratio_limit: Aim for the ratio of medians, ours to the baseline: at most this.
        ratio_floor: The same: at least this.
        limit: Aim for `statistic` of ours itself: at most this.
        floor: The same: at least this.
        statistic: `"median"`, `"p95"`, `"p99"` or `"max"`, for all of the above.
        facts: Other numbers of the same run.
    """

    what: str
    unit: str
    ours: Sequence[float]
    baseline: Sequence[float] = ()
    versus: str = ""
    goal: str = ""
    ratio_limit: float | None = None
    ratio_floor: float | None = None
    limit: float | None = None
    floor: float | None = None
    statistic: str = "median"
    facts: dict[str, Any] = attrs.field(factory=dict)

    @property
    def value(self) -> float:
        """Our figure."""
        return statistic(self.ours, self.statistic)

    @property
    def ratio(self) -> float | None:
        """Ours over the baseline's."""
        return self.value / statistic(self.baseline, self.statistic) if self.baseline else None

    @property
    def reached(self) -> bool | None:
        """True when every aim is met, None when there is none."""
        ratio = self.ratio
        checks = [
            (self.ratio_limit is None or ratio is None) or ratio <= self.ratio_limit,
            (self.ratio_floor is None or ratio is None) or ratio >= self.ratio_floor,
            self.limit is None or self.value <= self.limit,
            self.floor is None or self.value >= self.floor,
        ]
        aims = (self.ratio_limit, self.ratio_floor, self.limit, self.floor)
        return None if all(aim is None for aim in aims) else all(checks)

    def as_json(self) -> dict[str, Any]:
        """Return everything, samples summed up."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": summary(self.ours),
            "baseline": summary(self.baseline) if self.baseline else None,
            "versus": self.versus,
            "statistic": self.statistic,
            "ratio": self.ratio,
            "goal": self.goal,
            "reached": self.reached,
            "facts": self.facts,
        }


def statistic(samples: Sequence[float], name: str) -> float:
    """Return one statistic of samples: `median`, `max`, or a percentile such as `p95`."""
    ordered = sorted(samples)
    if name == "median":
        return statistics.median(ordered)
    if name == "max":
        return ordered[-1]
    return ordered[min(len(ordered) - 1, int(len(ordered) * int(name[1:]) / 100))]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Return what is worth keeping of samples."""
    numbers = {name: round(statistic(samples, name), 4) for name in ("median", "p95", "p99", "max")}
    return {"repeats": len(samples), "min": round(min(samples), 4), **numbers}


def machine() -> dict[str, Any]:
    """Return the facts without which no figure means anything."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    bwrap = shutil.which("bwrap")
    version = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=True).stdout if bwrap else ""
    return {
        "taken": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "bubblewrap": version.strip(),
        "root": os.geteuid() == 0,
        "load_before": os.getloadavg()[0],
    }


def show(rows: Sequence[Row]) -> str:
    """Lay rows out as a table."""
    lines = [f"{'what':<52} {'ours':>12} {'baseline':>12} {'ratio':>7}  {'aim':<26} reached"]
    for row in rows:
        base = f"{statistic(row.baseline, row.statistic):.4g}" if row.baseline else "-"
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else "-"
        reached = {True: "yes", False: "NO", None: "-"}[row.reached]
        ours = f"{row.value:.4g} {row.unit}"
        lines.append(f"{row.what:<52} {ours:>12} {base:>12} {ratio:>7}  {row.goal:<26} {reached}")
        lines.extend(f"    {name}: {value}" for name, value in row.facts.items())
    return "\n".join(lines)


def main(measure: Callable[[Options], list[Row]]) -> None:
    """Run a benchmark as a script: print its table, and write JSON where `--json` says."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; not for quoting")
    parser.add_argument("--long", action="store_true", help="also what takes minutes")
    parser.add_argument("--json", type=Path, help="file to write")
    given = parser.parse_args()
    facts = machine()
    rows = measure(Options(given.quick, given.long))
    facts["load_after"] = os.getloadavg()[0]
    print(show(rows))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"machine": facts, "rows": [row.as_json() for row in rows]}, indent=1) + "\n")


def interleave(contestants: dict[str, Callable[[], Sequence[float]]], rounds: int) -> dict[str, list[float]]:
    """Run contestants in turns, each round starting with another one; return all their samples."""
    names = list(contestants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            samples[name] += contestants[name]()
    return samples


def timed(function: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


async def timed_await(awaitable: Awaitable[object]) -> float:
    """Return the milliseconds that an awaitable takes."""
    start = time.perf_counter()
    await awaitable
    return (time.perf_counter() - start) * 1e3


def spawn_true() -> None:
    """Start `true` on the host and wait for it: the floor under every exec."""
    os.waitpid(os.posix_spawn(TRUE, [TRUE], CLEAN), 0)


def spawn_many(argv: list[str], number: int, at_once: int) -> None:
    """Start a command `number` times on the host, `at_once` running at any time, and wait for all."""
    running: set[int] = set()
    started = 0
    while started < number or running:
        while started < number and len(running) < at_once:
            running.add(os.posix_spawnp(argv[0], argv, CLEAN))
            started += 1
        pid, status = os.waitpid(-1, 0)
        if pid in running:
            assert status == 0, f"{argv[0]} ended with status {status}"
            running.discard(pid)


def bare_bwrap(*command: str) -> list[str]:
    """Return the shortest bubblewrap command line that separates everything and can still run a command."""
    links = [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")]
    binds = [part for target, path in links if Path("/" + target).exists() for part in ("--symlink", target, path)]
    bwrap = shutil.which("bwrap") or "bwrap"
    return [
        bwrap,
        "--unshare-all",
        "--die-with-parent",
        "--ro-bind",
        "/usr",
        "/usr",
        *binds,
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        *command,
    ]


def read_pipe(argv: list[str]) -> int:
    """Run a command on the host and read its output from a pipe, 64 KiB at a time; return the number of bytes."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, bufsize=0) as process:
        assert process.stdout is not None
        descriptor, total = process.stdout.fileno(), 0
        while data := os.read(descriptor, PIPE_READ):
            total += len(data)
    return total


def descendants(ancestor: int | None = None) -> list[int]:
    """Return the process ids of all that descend from a process (this one)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [ancestor or os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def agents() -> list[int]:
    """Return the processes of this program's sandboxes that are process 1 of their sandbox."""
    return [pid for pid in descendants() if _namespace_pids(pid)[-1:] == ["1"]]


def _namespace_pids(pid: int) -> list[str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return []
    pids = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
    return pids if len(pids) > 1 else []


def pss_bytes(pids: Sequence[int]) -> int | None:
    """Return the memory of processes, shared pages counted in parts; None when it may not be read."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except PermissionError:
            return None
        except OSError:  # it has ended
            continue
        total += 1024 * int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))
    return total


def reset_peak() -> int:
    """Forget the peak of this process's memory; return what it uses now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_kib("VmRSS") * 1024


def peak() -> int:
    """Return the peak of this process's memory since `reset_peak`, in bytes."""
    return _status_kib("VmHWM") * 1024


def _status_kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def rounds_of(number: int, size: int) -> Iterator[range]:
    """Split `range(number)` into ranges of at most `size`."""
    for start in range(0, number, size):
        yield range(start, min(start + size, number))
