"""Every probe, on this machine's root file system and on an image: what it said, against what it must say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aviato.engines.local import etc, seccomp
from tests.helpers.local import require_local
from tests.isolation.expected import expected
from tests.isolation.running import GROUPS, PACKAGE, PROBES, ROOTS, copied, parse, told
from tests.isolation.world import reached, world

AS_ROOT = os.getuid() == 0
NAMES = sorted(expected("host", as_root=AS_ROOT))

# What a command can read directly below /proc: facts of the kernel and the hardware, and nothing that names a user's
# files, processes, keys or addresses in the kernel. Not every kernel has each.
READABLE = {
    "buddyinfo", "cgroups", "consoles", "cpuinfo", "crypto", "devices", "dma", "execdomains", "fb",
    "filesystems", "ioports", "loadavg", "mdstat", "meminfo", "misc", "mounts", "mtrr", "pagetypeinfo",
    "schedstat", "softirqs", "stat", "swaps", "uptime", "version", "version_signature", "vmstat",
    "dynamic_debug", "bootconfig",
}  # fmt: skip
DEVICES = {
    "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
    "console",
}  # fmt: skip
TOP = {
    ".aviato", "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "libo32", "opt", "proc", "root", "run",
    "sbin", "sys", "tmp", "usr", "var", "workspace",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("name", NAMES)
def test_probe(name: str, root: str) -> None:
    """The probe ended as it must, for the reason it must."""
    answer = told(root).answers[name]
    wanted = expected(root, as_root=AS_ROOT)[name]
    assert wanted.fits(answer.verdict, answer.detail), f"expected {wanted}, got {answer}"


@pytest.mark.parametrize("root", ROOTS)
def test_every_probe_ran_and_is_expected(root: str) -> None:
    """None was forgotten on either side."""
    assert sorted(told(root).answers) == NAMES


@pytest.mark.parametrize("root", ROOTS)
def test_nothing_outside_was_changed_or_reached(root: str) -> None:
    """The machine's files are as they were, and no signal arrived."""
    assert told(root).changed == []
    assert told(root).reached_victim == ""


def test_every_call_that_the_filter_refuses_is_tried() -> None:
    """By the numbers of both architectures, written down apart from the filter's."""
    text = (PROBES / "calls.py").read_text()
    tried = {(int(x86), int(arm)) for x86, arm in re.findall(r'": \((\d+), (-?\d+)', text)}
    forgotten = (
        "_sysctl",
        "create_module",
        "get_kernel_syms",
        "lookup_dcookie",
        "nfsservctl",
        "query_module",
        "uselib",
    )
    refused = {name: numbers for name, numbers in seccomp._REFUSED.items() if name not in forgotten}
    missing = {name for name, (x86, arm) in refused.items() if (x86, -1 if arm is None else arm) not in tried}
    assert missing == set()
    assert {name for name, number in seccomp._MISSING.items() if (number, number) not in tried} <= {"open_tree_attr"}


@pytest.mark.parametrize("root", ROOTS)
def test_proc_shows_nothing_beyond_the_golden_list(root: str) -> None:
    """A new kernel's new file must be looked at by a person before it is let through."""
    names = set(told(root).answers["list-what-proc-lets-read"].detail.split())
    assert {"meminfo", "cpuinfo", "stat", "version"} <= names
    assert names - READABLE == set()


@pytest.mark.parametrize("root", ROOTS)
def test_only_harmless_devices_are_there(root: str) -> None:
    """The list of names is an allow-list."""
    assert set(told(root).answers["list-devices"].detail.split()) - DEVICES == set()


@pytest.mark.parametrize("root", ROOTS)
def test_only_allowed_names_are_at_the_top(root: str) -> None:
    """And an image brings no others of this machine's."""
    names = set(told(root).answers["list-the-top"].detail.split())
    assert names - TOP == set()
    assert root == "host" or "opt" not in names


def test_etc_is_a_subset_of_the_allow_list() -> None:
    """Everything else of `/etc` was never there."""
    allowed = {name.split("/")[0] for name in (*etc.NAMES, *etc.FRESH)}
    assert set(told("host").answers["list-etc"].detail.split()) - allowed == set()


def test_etc_of_an_image_has_nothing_of_the_machine() -> None:
    """Only what names the sandbox itself is added."""
    added = {"hostname", "hosts", "resolv.conf", "group", "passwd", "os-release"}
    assert set(told("image").answers["list-etc"].detail.split()) <= added


OUTSIDE = [
    "connect-to-the-machines-loopback", "connect-to-another-loopback-address",
    "connect-to-the-machines-own-address", "connect-to-a-socket-in-tmp", "connect-to-a-socket-in-the-home",
    "connect-to-a-socket-in-the-working-directory", "connect-to-an-abstract-socket",
    "see-connections-of-the-machine", "see-unix-sockets-of-the-machine", "see-processes-of-the-machine",
    "signal-a-process-of-the-machine", "hold-a-process-of-the-machine", "attach-shared-memory-of-the-machine",
    "see-the-machines-tmp", "see-the-clients-directory", "see-the-callers-home", "see-the-state-directory",
    "see-another-sandboxs-record", "list-tmp",
]  # fmt: skip


def test_the_same_probes_succeed_outside(tmp_path: Path) -> None:
    """The control: what is stopped inside is open to the same program of the same user without a sandbox."""
    with world() as (context, victim):
        given = {**context, "other": str(tmp_path), "own": str(tmp_path), "supervisor": "", "shell_inside": "/bin/sh"}
        (copied(tmp_path) / "context.json").write_text(json.dumps(given))
        said = {}
        for group in GROUPS:
            command = [sys.executable, "-m", f"{PACKAGE}.{group}", *OUTSIDE]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
            said.update(parse(done.stdout))
        assert reached(victim)
    assert {name for name in OUTSIDE if said[name].verdict != "open"} == set(), said


def test_the_images_python_is_its_own() -> None:
    """The second root file system is really another: its marker is there, this machine's is not."""
    answers = told("image").answers
    assert "os-release" in answers["list-etc"].detail
    assert told("image").said["files"] != told("host").said["files"]
