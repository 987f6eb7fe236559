"""For tests: an engine in memory with switches for what goes wrong, and the contract that every engine keeps."""

from aviato.testing._clock import Clock, LoopClock, ManualClock
from aviato.testing._faults import Faults
from aviato.testing._machine import FakeMachine
from aviato.testing._processes import Program
from aviato.testing.contract import CheckResult, ContractError, ContractReport, check_engine, contract_checks
from aviato.testing.fake import FakeEngine

__all__ = [
    "CheckResult",
    "Clock",
    "ContractError",
    "ContractReport",
    "FakeEngine",
    "FakeMachine",
    "Faults",
    "LoopClock",
    "ManualClock",
    "Program",
    "check_engine",
    "contract_checks",
]
