"""Faults on purpose: what is injected here, and where the rest is.

Here: clocks that jump, records that are not as written, thousands of sandboxes at once, a cancellation at every
suspension, commands and files that misbehave, random histories. Elsewhere, beside what they break: killed clients and
supervisors (`benchmarks/soak.py`, `tests/local/test_ends.py`), signals, ends of the process and forks (`tests/core`,
`tests/facade`), exhausted descriptors and disks (`tests/local/test_trouble.py`), races of stops (`tests/local`), slow
and silent starts (`tests/testing/test_faults.py`), hostile agents (`tests/agent`), hostile archives and paths
(`tests/local`), reporters that block or fail (`tests/contract/test_session_details.py`).
"""
