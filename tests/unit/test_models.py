"""The public values: what they take, what they refuse, and that they are frozen."""

from __future__ import annotations

import pickle
from typing import Any

import attrs
import pytest

from aviato import models
from aviato.models import (
    ExitReason,
    MountedFile,
    NetworkOptions,
    ProcessResult,
    Resources,
    SandboxDefaults,
    SandboxStatus,
)


def test_exports_are_complete() -> None:
    """`__all__` is sorted and holds every public name of the module."""
    assert models.__all__ == sorted(models.__all__)
    own = {name for name, value in vars(models).items() if getattr(value, "__module__", "") == "aviato.models"}
    assert {name for name in own if name[0] != "_"} <= set(models.__all__)


def test_resources_read_quantities_in_both_spellings() -> None:
    """Flat keys, nested limits and requests, and GPUs in every form."""
    value = Resources(cpu="500m", memory="16Gi", gpu="1", disk="1G", processes=10, requests={"cpu": 0.1})
    assert (value.cpu_millicores, value.memory_bytes, value.gpu_count) == (500, 16 << 30, 1)
    assert (value.disk_bytes, value.max_processes, value.cpu_request_millicores) == (10**9, 10, 100)
    assert Resources.coerce({"limits": {"cpu": 1, "memory": "1Mi"}}) == Resources(cpu=1, memory="1Mi")
    assert Resources.coerce(None) == Resources()
    assert Resources.coerce(value) is value
    typed = Resources(gpu={"count": 2, "type": "a100"})
    assert (typed.gpu_count, typed.gpu_type) == (2, "a100")
    assert Resources(gpu={}).gpu_count == 1
    assert Resources(gpu=0).gpu_count == 0


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ({"cpu": "-1"}, ValueError, "resources.cpu"),
        ({"cpu": "lots"}, ValueError, "resources.cpu"),
        ({"cpu": 0}, ValueError, "resources.cpu"),
        ({"cpu": True}, TypeError, "resources.cpu"),
        ({"memory": "1Qi"}, ValueError, "resources.memory"),
        ({"memory": []}, TypeError, "resources.memory"),
        ({"disk": "x"}, ValueError, "resources.disk"),
        ({"gpu": -1}, ValueError, "resources.gpu"),
        ({"gpu": "many"}, ValueError, "resources.gpu"),
        ({"gpu": "-1"}, ValueError, "resources.gpu"),
        ({"gpu": "²"}, ValueError, "resources.gpu"),
        ({"gpu": 1.5}, TypeError, "resources.gpu"),
        ({"gpu": True}, TypeError, "resources.gpu"),
        ({"gpu": {"amount": 1}}, TypeError, "amount"),
        ({"gpu": {"count": 1, "type": ""}}, ValueError, "resources.gpu.type"),
        ({"processes": 0}, ValueError, "resources.processes"),
        ({"processes": "1"}, TypeError, "resources.processes"),
        ({"cpus": 1}, TypeError, "did you mean 'cpu'"),
        ({"requests": {"gpu": 1}}, TypeError, "resources.requests"),
        ({"limits": {"colour": 1}}, TypeError, "resources.limits"),
        ({"cpu": 1, "limits": {"cpu": 2}}, ValueError, "resources.limits.cpu"),
        ({"cpu": 1, "requests": {"cpu": 2}}, ValueError, "resources.requests.cpu"),
        ({"memory": "1Gi", "requests": {"memory": "2Gi"}}, ValueError, "resources.requests.memory"),
        ({"requests": 5}, TypeError, "resources.requests"),
        ({"limits": ["cpu"]}, TypeError, "resources.limits"),
        ("cpu=1", TypeError, "resources"),
        (5, TypeError, "resources"),
    ],
)
def test_bad_resources(value: Any, error: type[Exception], text: str) -> None:
    """The error names the key."""
    with pytest.raises(error) as caught:
        Resources.coerce(value)
    assert text in str(caught.value)


def test_mounted_files_take_both_spellings() -> None:
    """`path` and `content`, or `mount_path` and `file_content`; text is UTF-8."""
    assert MountedFile.coerce({"path": "/a", "content": "ä"}) == MountedFile("/a", "ä".encode())
    assert MountedFile.coerce({"mount_path": "/a", "file_content": bytearray(b"x")}) == MountedFile("/a", b"x")
    value = MountedFile("/a", b"")
    assert MountedFile.coerce(value) is value


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ({"path": "a", "content": ""}, ValueError, "absolute"),
        ({"path": 5, "content": ""}, TypeError, "path"),
        ({"path": "/a"}, TypeError, "content"),
        ({"content": ""}, TypeError, "path"),
        ({"path": "/a", "content": 5}, TypeError, "content"),
        ({"path": "/a", "content": "", "mount_path": "/b"}, TypeError, "exactly one"),
        ({"path": "/a", "mount_path": "/b"}, TypeError, "exactly one"),
        ({"path": "/a", "content": "", "mode": 1}, TypeError, "mode"),
        ("/a", TypeError, "content"),
    ],
)
def test_bad_mounted_files(value: Any, error: type[Exception], text: str) -> None:
    """The error names what is wrong."""
    with pytest.raises(error) as caught:
        MountedFile.coerce(value)
    assert text in str(caught.value)


def test_two_files_for_one_path_are_refused() -> None:
    """However the path is spelt, and at the call."""
    with pytest.raises(ValueError, match="two files for '/a/b'"):
        SandboxDefaults(mounted_files=[{"path": "/a/b", "content": ""}, {"path": "/a/./b", "content": ""}])


def test_network_is_closed_by_default() -> None:
    """Nothing in, nothing out; lists become tuples."""
    assert NetworkOptions.coerce(None) == NetworkOptions(egress_mode="none", ingress_mode="none")
    value = NetworkOptions.coerce({"egress_mode": "internet", "exposed_ports": [80], "allow_hosts": ["a.b"]})
    assert (value.exposed_ports, value.allow_hosts) == ((80,), ("a.b",))
    assert NetworkOptions.coerce(value) is value


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ({"egress_mode": "all"}, ValueError, "egress_mode"),
        ({"ingress_mode": "all"}, ValueError, "ingress_mode"),
        ({"exposed_ports": [0]}, ValueError, "65535"),
        ({"exposed_ports": [65536]}, ValueError, "65535"),
        ({"exposed_ports": [True]}, ValueError, "True"),
        ({"exposed_ports": ["80"]}, ValueError, "'80'"),
        ({"exposed_ports": 80}, TypeError, "exposed_ports"),
        ({"exposed_ports": "80"}, TypeError, "exposed_ports"),
        ({"allow_hosts": "a.b"}, TypeError, "['a.b']"),
        ({"egress": "internet"}, TypeError, "egress"),
        ("internet", TypeError, "egress_mode"),
    ],
)
def test_bad_network(value: Any, error: type[Exception], text: str) -> None:
    """The error names the field."""
    with pytest.raises(error) as caught:
        NetworkOptions.coerce(value)
    assert text in str(caught.value)


def test_defaults_merge_and_override() -> None:
    """Tags and mappings merge, later ones win; the original is unchanged."""
    base = SandboxDefaults(tags=("a",), environment_variables={"A": "1", "B": "2"}, annotations={"x": "1"})
    assert base.merge_tags(["b", "a"]) == ("a", "b")
    assert dict(base.merge_environment_variables({"B": "3"})) == {"A": "1", "B": "3"}
    assert dict(base.merge_annotations({"y": "2"})) == {"x": "1", "y": "2"}
    assert base.with_overrides(working_dir="/x").working_dir == "/x"
    assert base.working_dir is None
    assert SandboxDefaults.from_dict({"tags": ["a"]}).tags == ("a",)


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ({"tags": "a"}, TypeError, "['a']"),
        ({"tagz": ["a"]}, TypeError, "tags"),
        ({"container_image": ""}, ValueError, "container_image"),
        ({"working_dir": "x"}, ValueError, "working_dir"),
        ({"max_lifetime_seconds": -1}, ValueError, "max_lifetime_seconds"),
        ({"idle_timeout_seconds": "1"}, TypeError, "idle_timeout_seconds"),
        ({"request_timeout_seconds": 0}, ValueError, "request_timeout_seconds"),
        ({"secrets": ["A"], "mounted_files": [{"path": "/run/secrets/A", "content": ""}]}, ValueError, "mounted_files"),
        ({"read_only": "yes"}, TypeError, "read_only"),
        ({"pull_policy": "sometimes"}, ValueError, "pull_policy"),
        ({"on_pull_progress": "print"}, TypeError, "on_pull_progress"),
        ({"environment_variables": {"A": 1}}, TypeError, "environment_variables"),
        ({"detached": 1}, TypeError, "detached"),
        ({"mounted_files": {"path": "/a"}}, TypeError, "mounted_files"),
    ],
)
def test_bad_defaults(values: dict[str, Any], error: type[Exception], text: str) -> None:
    """The error comes at once and names the field."""
    with pytest.raises(error) as caught:
        SandboxDefaults.from_dict(values)
    assert text in str(caught.value)


def test_values_are_frozen_and_can_be_pickled() -> None:
    """None can be changed, and each arrives as it was."""
    values: list[Any] = [
        Resources(cpu=1, gpu={"count": 1, "type": "t"}),
        MountedFile("/a", b"x"),
        NetworkOptions(exposed_ports=(80,)),
        ProcessResult(b"", b"", 0, ("true",), 0.1),
        SandboxDefaults(tags=("a",)),
    ]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, attrs.fields(type(value))[0].name, None)


def test_terminal_states_are_three() -> None:
    """Completed, failed and terminated; all others go on."""
    assert {status for status in SandboxStatus if status.is_terminal} == {"completed", "failed", "terminated"}
    assert [reason for reason in ExitReason if reason.is_infrastructure] == [ExitReason.LOST]


def test_output_is_text_with_replacements() -> None:
    """Bytes are kept as they were."""
    result = ProcessResult(b"a\xff", b"\xc3\xa4", 0, ("x",), 0.0)
    assert (result.stdout, result.stderr) == ("a\ufffd", "ä")
