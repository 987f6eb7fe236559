"""Why a container could not be created or started, from what the daemon says."""

from __future__ import annotations

from aviato.engines.base import SandboxSpec
from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.logs import WRONG_PROCESSOR
from aviato.exceptions import AviatoError, CapabilityError, SandboxFailedError, SandboxResourceExhaustedError

_NO_BRIDGE = "network bridge not found"


async def check_network(api: Api, spec: SandboxSpec) -> None:
    """See that a network which is asked for is there: Docker starts a container without it, and says nothing.

    Raises:
        CapabilityError: It is not there.
        EngineError: The daemon cannot be asked.
    """
    if spec.network.egress_mode == "none":
        return
    try:
        await api.request("GET", "/networks/bridge", what="look up its network")
    except ApiError as error:
        if error.said == _NO_BRIDGE:  # Podman has another name for its own, and other words
            raise explain_start(error, spec) from error


def explain_start(error: ApiError, spec: SandboxSpec) -> AviatoError:
    """Turn the daemon's refusal into an error that names what was asked for."""
    said, text = error.said, error.said.lower()
    causes = {
        "runtime": ("unknown or invalid runtime", "unknown runtime", "invalid runtime"),
        "resources.disk": ("storage-opt", "storage driver"),
        "resources.gpu": ("could not select device driver", "device driver"),
        "network.egress_mode": (_NO_BRIDGE, "network default not found"),
        "volumes": ("invalid mount config", "invalid volume", "volume name"),
        "user": ("unable to find user",),
    }
    for name, words in causes.items():
        if any(word in text for word in words):
            hint = {"runtime": f"See `docker info`; runtime was {spec.runtime!r}."}.get(name, f"Leave {name} out.")
            return CapabilityError(f"{name}: the Docker daemon cannot give what was asked for: {said}", hint=hint)
    if any(word in text for word in ("no space left", "cannot allocate memory", "resource temporarily unavailable")):
        return SandboxResourceExhaustedError(
            f"the Docker daemon's machine has no more of something: {said}", sandbox_id=spec.sandbox_id
        )
    if error.status is not None and error.status < 500:  # noqa: PLR2004 - the request's fault, not the daemon's
        return SandboxFailedError(f"sandbox {spec.sandbox_id} could not be started: {said}", sandbox_id=spec.sandbox_id)
    return error


def explain_end(name: str, code: int, said: str, machine: str, spec: SandboxSpec) -> AviatoError:
    """Turn what a first process left, which ended before the agent came, into an error.

    Args:
        name: The image's.
        code: The exit code.
        said: The end of its log.
        machine: The daemon's processor.
        spec: What was asked for.
    """
    if WRONG_PROCESSOR in said:
        return CapabilityError(
            f"image {name!r} is not made for the Docker daemon's processor, {machine}: {said}",
            hint=f"Pull the variant for it, `docker pull --platform linux/... {name}`, or let the daemon's machine "
            "emulate others (qemu-user-static).",
        )
    return SandboxFailedError(
        f"sandbox {spec.sandbox_id} could not be started: the first process in image {name!r} ended with code {code}: "
        f"{said or 'it said nothing'}",
        hint=f"The agent needs Python 3.8 or later: docker run --rm {name} python3 --version",
        sandbox_id=spec.sandbox_id,
    )
