"""For tests: an engine in memory with switches for what goes wrong."""

from aviato.testing._clock import Clock, ManualClock
from aviato.testing._faults import Faults
from aviato.testing._machine import FakeMachine
from aviato.testing._processes import Program
from aviato.testing.fake import FakeEngine

__all__ = ["Clock", "FakeEngine", "FakeMachine", "Faults", "ManualClock", "Program"]
