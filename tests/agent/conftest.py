"""Fixtures: an agent and a channel to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent.harness import AgentProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aviato.agent.channel import Channel


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """Run an agent."""
    async with AgentProcess(tmp_path) as agent:
        yield agent


@pytest.fixture
async def channel(agent: AgentProcess) -> Channel:
    """Open a channel to the agent."""
    return await agent.channel()
