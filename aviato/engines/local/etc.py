"""What of the host's `/etc` sandboxes see: a copy of an allow-list, made once and shared as a lower layer."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil

NAMES = (
    "alternatives", "bash.bashrc", "ca-certificates.conf", "debian_version", "inputrc", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf", "os-release", "profile", "protocols", "python3",
    "services", "ssl/certs", "ssl/openssl.cnf", "terminfo", "pki/tls/certs", "pki/ca-trust/extracted",
)  # fmt: skip
FRESH = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 sandbox\n",
    "hostname": "sandbox\n",
    "resolv.conf": "",
}


def _fingerprint() -> str:
    digest = hashlib.sha256(repr(sorted(FRESH.items())).encode())
    for name in NAMES:
        with contextlib.suppress(OSError):
            found = os.stat(f"/etc/{name}")
            digest.update(f"{name} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.hexdigest()[:16]


def _only_public(folder: str, names: list[str]) -> set[str]:
    """Leave out what not everybody may read, and what is neither file, directory nor link."""
    left_out = set()
    for name in names:
        try:
            found = os.lstat(f"{folder}/{name}")
        except OSError:
            left_out.add(name)
            continue
        kind = found.st_mode & 0o170000
        if kind not in (0o040000, 0o100000, 0o120000) or (kind != 0o120000 and not found.st_mode & 0o004):
            left_out.add(name)
    return left_out


def prepare(home: str) -> str:
    """Return a directory with the copy, made anew when the host's files have changed.

    Raises:
        OSError: It could not be made.
    """
    target = f"{home}/supervisors/etc-{_fingerprint()}"
    if os.path.isdir(target):
        return target
    temporary = f"{target}.{os.getpid()}"
    os.mkdir(temporary, 0o755)
    try:
        for name in NAMES:
            source = f"/etc/{name}"
            place = f"{temporary}/{name}"
            if os.path.islink(source) and not os.path.isdir(source):
                source = os.path.realpath(source)
            os.makedirs(os.path.dirname(place), mode=0o755, exist_ok=True)
            if os.path.isdir(source):
                try:
                    shutil.copytree(source, place, symlinks=True, ignore=_only_public)
                except shutil.Error as error:  # it has one reason for each file; the first says enough
                    raise OSError(errno.EIO, error.args[0][0][2]) from error
            elif os.path.isfile(source) and os.stat(source).st_mode & 0o004:
                shutil.copyfile(source, place)
        for name, text in FRESH.items():
            with open(f"{temporary}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        for folder, folders, files in os.walk(temporary):
            for name in folders:
                if not os.path.islink(f"{folder}/{name}"):
                    os.chmod(f"{folder}/{name}", 0o755)
            for name in files:
                if not os.path.islink(f"{folder}/{name}"):
                    os.chmod(f"{folder}/{name}", 0o644)
        try:
            os.rename(temporary, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            shutil.rmtree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target
