"""A parallel batch job that can be killed and started again: count the words of many texts, each in a sandbox.

    python examples/batch_job.py TEXTS RESULT.csv

TEXTS is a directory of `.txt` files. What was counted is kept in `RESULT.csv.journal`; run the same command again after
a crash, and only the rest is done.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import aviato


def count(name: str, text: str) -> dict[str, object]:
    """Run in a sandbox: whatever the text holds, and whatever happens to it, it happens there."""
    from collections import Counter  # noqa: PLC0415 - imported where the function runs

    words = Counter(text.lower().split())
    most = words.most_common(1)
    return {"name": name, "words": sum(words.values()), "most": most[0][0] if most else ""}


def main(texts: Path, result: Path) -> int:
    """Count, write the table, and return how many texts failed."""
    files = sorted(texts.glob("*.txt"))
    items = ((file.name, file.read_text(encoding="utf-8", errors="replace")) for file in files)
    failed = 0
    with aviato.Session() as session, session.pool(4, retries=3) as pool, result.open("w", newline="") as out:
        table = csv.DictWriter(out, ["name", "words", "most"])
        table.writeheader()
        journal = f"{result}.journal"
        rows = pool.map(count, items, return_exceptions=True, progress=True, journal=journal)
        for file, row in zip(files, rows, strict=True):
            if isinstance(row, BaseException):
                failed += 1
                sys.stderr.write(f"{file.name}: {row}\n")
            else:
                table.writerow(row)
        retried = pool.stats().retried
    sys.stderr.write(f"{len(files)} texts, {failed} failed, {retried} begun again\n")
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[1]), Path(sys.argv[2])) else 0)
