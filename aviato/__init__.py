"""Run untrusted code in sandboxes through one typed API.

Everything here is handed on lazily (PEP 562): importing the package starts no thread, opens nothing
and imports no engine. The handles are those of the facade `aviato_sync`; the asyncio core is `aviato.aio`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aviato.exceptions import *  # noqa: F403 - the front door hands on all of them
    from aviato.models import *  # noqa: F403 - likewise
    from aviato_sync import *  # noqa: F403 - likewise
