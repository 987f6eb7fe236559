"""What `aviato doctor` finds out about an engine: facts, each with its cure, and sandboxes that were really started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import choice

import attrs

from aviato.engines.base import Engine, SandboxSpec
from aviato.exceptions import AviatoError, CapabilityError, IsolationUnavailableError
from aviato.models import NetworkOptions, SandboxStatus

TRIAL_SECONDS = 60.0
_HELLO = "hello from a sandbox"
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_ROUTES = (
    "import time\n"
    "for _ in range(200):\n"
    "    routes = open('/proc/net/route').read().splitlines()[1:]\n"
    "    if any(line.split()[1] == '00000000' for line in routes): break\n"
    "    time.sleep(0.02)\n"
    "else: raise SystemExit('there is no default route')\n"
    f"print({_HELLO!r})\n"
)


@dataclass(frozen=True)
class Check:
    """One fact about the machine.

    Attributes:
        name: What was looked at.
        ok: True when nothing is to be done.
        blocker: True when no sandbox can start as long as it is not ok; otherwise something is weaker or missing.
        detail: What was found.
        remedy: The command or setting that changes it, empty when ok.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    blocker: bool = False


@dataclass(frozen=True)
class Trial:
    """One real sandbox.

    Attributes:
        name: What was tried.
        ok: True when its command ran and said what it should.
        seconds: From the request to the end.
        detail: What went wrong, or where it ran.
        remedy: What to do about it.
        step: The protection that was refused, if that is what went wrong.
        optional: True when sandboxes are of use without it.
        isolation: What protected it, as the engine reports it.
    """

    name: str
    ok: bool
    seconds: float
    detail: str
    remedy: str = ""
    step: str = ""
    optional: bool = False
    isolation: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    checks: tuple[Check, ...]
    trials: tuple[Trial, ...]

    @property
    def works(self) -> bool:
        """True when a sandbox really ran."""
        return any(trial.ok for trial in self.trials)


async def try_sandbox(make_engine: Callable[[], Engine], name: str, *, internet: bool = False) -> Trial:
    """Start a sandbox of the engine's default image, run a command in it, and remove it.

    Args:
        make_engine: Opens the engine.
        name: What to call it in the report.
        internet: Give it a network, and look for a way out; nothing is sent.
    """
    code = _ROUTES if internet else f"print({_HELLO!r})"
    spec = SandboxSpec(
        sandbox_id="sbx-" + "".join(choice(_LETTERS) for _ in range(16)),
        command=("python", "-c", code),
        tags=("aviato-doctor",),
        network=NetworkOptions(egress_mode="internet" if internet else "none"),
        max_lifetime_seconds=TRIAL_SECONDS,
    )
    began = time.monotonic()
    step = remedy = ""
    isolation: dict[str, object] = {}
    try:
        async with asyncio.timeout(TRIAL_SECONDS), make_engine() as engine:
            try:
                info = await engine.create(spec)
                isolation = {} if info.isolation is None else attrs.asdict(info.isolation)
                said = b"".join([record.data async for record in engine.logs(spec.sandbox_id, follow=True)])
                info = await engine.get(spec.sandbox_id)
            finally:
                await engine.delete(spec.sandbox_id, missing_ok=True)
        ok = info.status is SandboxStatus.COMPLETED and said.decode(errors="replace").strip() == _HELLO
        detail = "a command ran" if ok else f"the command said {said[-500:]!r} and ended as {info.status.value}"
    except IsolationUnavailableError as error:
        ok, detail, step, remedy = False, error.message, error.step, error.remedy
    except CapabilityError as error:
        ok, detail, remedy = False, error.message, error.hint or ""
    except AviatoError as error:
        ok, detail, remedy = False, f"{type(error).__name__}: {error.message}", error.hint or ""
    except TimeoutError:
        ok, detail = False, f"it did not end within {TRIAL_SECONDS:g} s"
    return Trial(name, ok, time.monotonic() - began, detail, remedy, step, internet, isolation)
