"""How often, and after what pause, a request to a registry is repeated."""

from __future__ import annotations

import email.utils
import random
import time

import attrs

RETRIED = frozenset({429, 500, 502, 503, 504})


@attrs.frozen
class Retries:
    """Pauses grow twofold, with jitter, up to a cap.

    Attributes:
        attempts: Requests in all.
        base: Seconds of the first pause.
        cap: The longest pause that we choose.
        longest: The longest pause that a server may choose; one that wants more is given up.
    """

    attempts: int = 5
    base: float = 0.4
    cap: float = 8.0
    longest: float = 30.0

    def pause(self, attempt: int, retry_after: str | None = None) -> float | None:
        """Return the seconds to wait after a failed attempt, counted from 1, or None to give up.

        Args:
            attempt: How many have failed.
            retry_after: The server's `Retry-After`, seconds or a date.
        """
        if attempt >= self.attempts:
            return None
        ours = min(self.cap, self.base * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        theirs = seconds(retry_after)
        if theirs is None:
            return ours
        return None if theirs > self.longest else max(ours, theirs)


def seconds(retry_after: str | None) -> float | None:
    """Read `Retry-After`; None when there is none, or none that can be understood."""
    if not retry_after:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:  # noqa: PLR2004 - thirty years
        return float(text)
    try:
        then = email.utils.parsedate_to_datetime(text)
        return max(0.0, then.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
