"""What an image without Python has, and what a sandbox from it is made of.

An image is known to lack Python when a container of it could not be started for want of `python3`; what else it has is
looked up in that container, which never ran. Both are remembered by the image's id.
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from aviato.engines.base import SandboxSpec
from aviato.engines.docker import keeper, records
from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.container import Plan
from aviato.exceptions import AviatoError, CapabilityError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_FOUND = 404
_USUAL_SHELL = "/bin/sh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOTE = (
    "native execution: the image has no python3, so a shell holds the time limits, "
    "and commands that run as its user can deceive it"
)
BARE_NOTE = "native execution: the image has no shell, so nothing in the container holds a time limit"


@attrs.frozen
class Facts:
    """What an image without Python has.

    Attributes:
        shell: Path of its shell, None for none.
        has_sleep: Whether that shell finds `sleep`.
    """

    shell: str | None
    has_sleep: bool


class NoPythonError(Exception):
    """A container could not be started because its image has no Python."""

    def __init__(self, facts: Facts) -> None:
        super().__init__("the image has no python3")
        self.facts = facts


def lacks_python(error: BaseException) -> bool:
    """Tell whether the daemon says so."""
    text = error.said.lower() if isinstance(error, ApiError) else ""
    return "python3" in text and ("executable file not found" in text or "no such file" in text)


async def look(api: Api, container: str, path: str | None) -> Facts:
    """Look up what a container that does not run has.

    Raises:
        EngineError: It cannot be asked.
    """
    folders = [folder for folder in (path or _PATH).split(":") if folder.startswith("/")]
    shells = dict.fromkeys([_USUAL_SHELL, *(posixpath.join(folder, "sh") for folder in folders)])
    shell = await _first(api, container, list(shells))
    sleeps = [posixpath.join(folder, "sleep") for folder in folders]
    if shell is None:
        return Facts(None, has_sleep=False)
    busybox = [posixpath.join(folder, "busybox") for folder in folders]  # its shell finds what has no name of its own
    return Facts(shell, has_sleep=await _first(api, container, [*sleeps, *busybox]) is not None)


async def _first(api: Api, container: str, paths: Sequence[str]) -> str | None:
    for path in paths:
        try:
            await api.head(f"/containers/{container}/archive", params={"path": path}, what=f"look at {path}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
        else:
            return path
    return None


def _refuse(spec: SandboxSpec, facts: Facts, name: str) -> None:
    def lacking(what: str, hint: str) -> AviatoError:
        return CapabilityError(
            f"image {name!r} has no python3, which the agent in a sandbox needs, and {what}", hint=hint
        )

    python = "Use an image with Python 3.8 or later, or add it: apt-get install python3-minimal."
    if facts.shell is not None and not facts.has_sleep:
        raise lacking(
            "no sleep, which its shell needs to hold time limits", f"Add sleep (coreutils, busybox). {python}"
        )
    if facts.shell is None and not spec.command:
        raise lacking(
            "no shell that could keep a sandbox alive", f"Give a command that does not end by itself. {python}"
        )
    if facts.shell is None:
        for limit in ("max_lifetime_seconds", "idle_timeout_seconds", "orphan_timeout_seconds"):
            if getattr(spec, limit) is not None:
                raise lacking(f"no shell, so that nothing there can hold {limit}", f"Leave {limit} out. {python}")
    if spec.secrets:
        raise lacking("nothing else there delivers secrets", f"Leave secrets out. {python}")
    for item in (*(spec.command or ()), *spec.environment.values(), *spec.environment):
        try:
            item.encode()
        except UnicodeEncodeError:
            raise lacking(f"Docker's API cannot carry what is not UTF-8: {item!r}", python) from None


def make_native(plan: Plan, spec: SandboxSpec, facts: Facts, name: str) -> Plan:
    """Change a plan to one without the agent.

    Raises:
        CapabilityError: Something was asked for that needs what the image does not have.
    """
    _refuse(spec, facts, name)
    config = plan.config
    user = config["user"].decode()
    environment = [f"{key.decode()}={value.decode()}" for key, value in config["env"].items()]
    labels = dict(plan.body["Labels"])
    record = json.loads(labels[records.RECORD_LABEL])
    record["native"] = {
        "shell": facts.shell,
        "user": user or "0:0",
        "idle_ms": config["idle_ms"] if facts.shell else 0,
        "orphan_ms": config["orphan_ms"] if facts.shell else 0,
    }
    record["isolation"]["notes"] = [NOTE if facts.shell else BARE_NOTE, *record["isolation"]["notes"]]
    labels[records.RECORD_LABEL] = json.dumps(record)
    body: dict[str, Any] = {**plan.body, "Labels": labels}
    body["HostConfig"] = {**plan.body["HostConfig"], "CapAdd": ["KILL"]}
    body["User"] = user if user and spec.command else "0:0"
    if facts.shell is None:
        body |= {"Entrypoint": list(spec.command or ()), "Env": environment}
    else:
        script = [facts.shell, "-c", keeper.KEEP, facts.shell, *keeper.arguments(spec, config)]
        body |= {"Entrypoint": script, "Env": [*plan.body["Env"], *environment], "OpenStdin": True}
    archive = plan.archive if spec.read_only else _with_folder(spec.temp_dir, plan.archive)  # else it is a mount
    return Plan(body, archive, config, native=True)


def check_lifetime(container: Mapping[str, Any]) -> None:
    """Refuse to extend what nothing in the container holds.

    Raises:
        CapabilityError: The container has no agent and no shell.
    """
    native = records.read_record(container["Config"]["Labels"]).get("native")
    if native is not None and native["shell"] is None:
        raise CapabilityError("a lifetime needs a shell or python3 in the image: nothing else there can hold it")


def image_path(image: Mapping[str, Any]) -> str | None:
    """Return where an image's commands are looked up."""
    for item in (image.get("Config") or {}).get("Env") or ():
        name, _, value = item.partition("=")
        if name == "PATH":
            return str(value)
    return None


def _with_folder(path: str, archive: bytes) -> bytes:
    """Add the directory for temporary files to an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    return buffer.getvalue()[:512] + (archive or bytes(1024))
