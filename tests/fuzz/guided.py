"""Fuzzing guided by coverage, outside the test suite: `python -m tests.fuzz.guided codec|client|tar [OPTION...]`.

The options are libFuzzer's. What it finds is written to a file in the working directory; give that file as last
argument to see it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import sys
from random import Random
from typing import Any

atheris: Any = importlib.import_module("atheris")  # not for every Python and system, and without types
with atheris.instrument_imports(include=["aviato.agent", "aviato.engines.local"]):
    from aviato.agent import _link, channel, frames, remote, transfers  # noqa: F401 - what is to be seen
    from aviato.engines.local.tarstream import ArchiveError, Source, TarStream

from tests.fuzz.conversations import Conversation, codec, cut  # noqa: E402 - after what is watched

RUNNER = asyncio.Runner()


def fuzz_codec(data: bytes) -> None:
    """Read bytes as frames; the first ones say how they are cut."""
    codec(cut(Random(data[:4]), data[4:]))


def fuzz_client(data: bytes) -> None:
    """Answer a client that has asked for everything, first rightly and then with these bytes."""
    RUNNER.run(Conversation().hold(Random(data[:4]), spoilt=True, last=data[4:]))


def fuzz_tar(data: bytes) -> None:
    """Read bytes as an archive, plain and with every checksum right."""
    for archive in (data, _summed(data)):
        with contextlib.suppress(ArchiveError):
            tar = TarStream(Source(io.BytesIO(archive), limit=1 << 20))
            for _ in tar:
                for _ in tar.chunks():
                    pass


def _summed(data: bytes) -> bytes:
    """Set the checksum of every block that could be a header: the fuzzer would not guess it."""
    blocks = []
    for start in range(0, len(data), 512):
        block = bytearray(data[start : start + 512].ljust(512, b"\0"))
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        blocks.append(bytes(block))
    return b"".join(blocks)


if __name__ == "__main__":
    TARGETS = {"codec": fuzz_codec, "client": fuzz_client, "tar": fuzz_tar}
    TARGET = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, TARGET)
    atheris.Fuzz()
