"""Run all benchmarks, each in an interpreter of its own; write JSON, a Markdown table and, with matplotlib, a plot.

python benchmarks/run.py [--quick] [--long] [--out DIRECTORY] [NAME...]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NAMES = ("import", "facade_hop", "exec", "start", "stop", "streams", "neighbour", "functions", "pool", "docker")


def main() -> int:
    """Run, and return 1 when a benchmark failed to run; a figure that misses its aim is not a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; not for quoting")
    parser.add_argument("--long", action="store_true", help="also what takes minutes")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="directory for the JSON and the plot")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    flags = [flag for flag, wanted in (("--quick", given.quick), ("--long", given.long)) if wanted]
    results: dict[str, Any] = {}
    failed = []
    for name in given.names:
        print(f"--- {name}", flush=True)
        file = given.out / f"{name}.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, str(HERE / f"bench_{name}.py"), *flags, "--json", str(file)]
        if subprocess.run(command, check=False).returncode == 0:
            results[name] = json.loads(file.read_text())
        else:
            failed.append(name)
    (given.out / "all.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "table.md").write_text(table(results))
    if results and importlib.util.find_spec("matplotlib"):
        plot(results, given.out / "ratios.svg")
    if failed:
        print(f"did not run to their end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def table(results: dict[str, Any]) -> str:
    """Lay all rows out as they stand in the documentation."""
    lines = ["| what | ours | baseline | ratio | aim | reached |", "|---|---|---|---|---|---|"]
    for result in results.values():
        for row in result["rows"]:
            ours = f"{row['ours'][row['statistic']]:.4g} {row['unit']}"
            base = f"{row['baseline'][row['statistic']]:.4g} {row['unit']}" if row["baseline"] else ""
            ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
            reached = {True: "yes", False: "**no**", None: ""}[row["reached"]]
            what = row["what"] if row["statistic"] == "median" else f"{row['what']}, {row['statistic']}"
            lines.append(f"| {what} | {ours} | {base} | {ratio} | {row['goal']} | {reached} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], file: Path) -> None:
    """Draw the ratio to the baseline of every row that has one."""
    importlib.import_module("matplotlib").use("Agg")  # it need not be installed, and needs no screen
    plt = importlib.import_module("matplotlib.pyplot")
    rows = [row for result in results.values() for row in result["rows"] if row["ratio"] is not None]
    figure, axes = plt.subplots(figsize=(10, 0.4 * len(rows) + 1))
    axes.barh([row["what"] for row in rows], [row["ratio"] for row in rows], color="#4477aa")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("ours / baseline, taken in turns in one run")
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(file)
    print(f"plot: {file}")


if __name__ == "__main__":
    sys.exit(main())
