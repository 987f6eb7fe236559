"""What the Docker daemon can do for sandboxes: where it is, what it is, what it holds firmly, and a real one."""

from __future__ import annotations

import re
from typing import Any

from aviato.engines.diagnosis import Check, Report, try_sandbox
from aviato.engines.docker.api import Api
from aviato.engines.docker.endpoint import Endpoint, find_endpoint
from aviato.engines.docker.engine import DockerEngine
from aviato.engines.docker.images import DEFAULT_IMAGE, find_image
from aviato.exceptions import AviatoError, ConfigurationError

_FIRST_SOUND_RUNC = (1, 1, 12)
"""Later ones close CVE-2024-21626, by which a container could reach the machine's files."""


async def examine() -> Report:
    """Look at the daemon and start a sandbox on it, which pulls the default image when that is missing."""
    try:
        endpoint = find_endpoint()
    except ConfigurationError as error:
        return Report((_blocker("daemon", error),), ())
    api = Api(endpoint)
    try:
        await api.open()
        info = await api.request("GET", "/info", what="describe itself")
        has_image = await find_image(api, DEFAULT_IMAGE) is not None
        checks = (*_checks(endpoint, api.version, info), _check_image(has_image=has_image))
    except AviatoError as error:
        return Report((_blocker(f"daemon at {endpoint}", error),), ())
    finally:
        await api.close()
    return Report(checks, (await try_sandbox(lambda: DockerEngine(endpoint), f"sandbox on {endpoint}"),))


def _blocker(name: str, error: AviatoError) -> Check:
    return Check(name, ok=False, detail=error.message, remedy=error.hint or "", blocker=True)


def _checks(endpoint: Endpoint, version: dict[str, Any], info: dict[str, Any]) -> tuple[Check, ...]:
    return (
        Check(
            "daemon",
            ok=True,
            detail=f"{endpoint}, {version.get('Version')} with API {version.get('ApiVersion')}, "
            f"{info.get('OperatingSystem')}, {info.get('Architecture')}, found in {endpoint.source}",
        ),
        _check_ids(info),
        _check_seccomp(info),
        _check_groups(info),
        _check_runtime(version, info),
        _check_disk(info),
    )


def _options(info: dict[str, Any]) -> list[str]:
    return [str(item) for item in info.get("SecurityOptions") or ()]


def _check_ids(info: dict[str, Any]) -> Check:
    if any("name=rootless" in item or "name=userns" in item for item in _options(info)):
        return Check("user ids", ok=True, detail="they are shifted: root inside is nobody outside")
    return Check(
        "user ids",
        ok=False,
        detail="root in a container is root of the machine, held back by capabilities and filters alone",
        remedy='rootless Docker or Podman, or "userns-remap": "default" in /etc/docker/daemon.json',
    )


def _check_seccomp(info: dict[str, Any]) -> Check:
    found = next((item for item in _options(info) if "name=seccomp" in item), None)
    if found is not None and "unconfined" not in found:
        return Check("system calls", ok=True, detail="filtered by the daemon's default profile")
    remedy = "a kernel with CONFIG_SECCOMP, and no seccomp-profile=unconfined in the daemon's settings"
    return Check("system calls", ok=False, detail="they are not filtered", remedy=remedy)


def _check_groups(info: dict[str, Any]) -> Check:
    missing = [what for what, key in _LIMITS.items() if not info.get(key)]
    version = info.get("CgroupVersion", "1")
    if not missing:
        return Check("limits", ok=True, detail=f"memory, processes and CPU, by control groups of version {version}")
    remedy = "rootless: delegate the controllers (systemd: Delegate=yes); else mount the cgroup controllers"
    return Check("limits", ok=False, detail=f"{', '.join(missing)} cannot be limited", remedy=remedy)


_LIMITS = {"memory": "MemoryLimit", "processes": "PidsLimit", "CPU": "CpuCfsQuota"}


def _check_runtime(version: dict[str, Any], info: dict[str, Any]) -> Check:
    runtimes = ", ".join(sorted(info.get("Runtimes") or ())) or "none named"
    found = next((part for part in version.get("Components") or () if part.get("Name") == "runc"), None)
    if found is not None and (number := _number(str(found.get("Version")))) < _FIRST_SOUND_RUNC and number:
        detail = f"runc {found['Version']}; runtimes: {runtimes}"
        return Check(
            "runtime", ok=False, detail=detail, remedy="upgrade runc to 1.1.12 or later, or see that it is patched"
        )
    return Check("runtime", ok=True, detail=runtimes)


def _number(version: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return () if found is None else tuple(map(int, found.groups()))


def _check_disk(info: dict[str, Any]) -> Check:
    driver = info.get("Driver")
    backing = dict(item for item in info.get("DriverStatus") or () if len(item) == 2).get("Backing Filesystem")  # noqa: PLR2004 - pairs
    if driver in {"btrfs", "zfs"} or (driver == "overlay2" and backing == "xfs"):
        return Check("disk", ok=True, detail=f"{driver} on {backing}")
    detail = f"{driver} on {backing}: resources.disk is refused, and a sandbox may fill the daemon's disk"
    return Check("disk", ok=False, detail=detail, remedy="a data root on xfs mounted with pquota")


def _check_image(*, has_image: bool) -> Check:
    if has_image:
        return Check("default image", ok=True, detail=f"{DEFAULT_IMAGE} is there")
    detail = f"{DEFAULT_IMAGE} is not there; the first sandbox pulls it"
    return Check("default image", ok=False, detail=detail, remedy=f"docker pull {DEFAULT_IMAGE}")
