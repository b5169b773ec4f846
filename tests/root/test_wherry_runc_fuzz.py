"""Configurations that nobody means, given to the real wherry-runc: whatever it says, it says in one line, and nothing of a
container is left. The validator alone gets far more of them (tests/unit/runtime/test_oci_validate_fuzz.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.mutations import mutated
from tests.root.test_wherry_runc import Runtime, groups, program, reap, rootfs, runtime

__all__ = ["program", "rootfs", "runtime"]

pytestmark = pytest.mark.requires("root", "busybox", "libseccomp")


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_configuration_gives_a_traceback_or_half_a_container(runtime: Runtime, data: st.DataObject) -> None:
    mounted = Path("/proc/self/mountinfo").read_text()
    runtime.write("true")
    config: Any = json.loads((runtime.bundle / "config.json").read_text())
    text = data.draw(mutated(config, keep=("root", "linux.cgroupsPath", "linux.namespaces")))
    (runtime.bundle / "config.json").write_bytes(text)
    done = runtime("run", "-b", str(runtime.bundle), "box")
    assert "Traceback" not in done.stderr, text
    assert not done.returncode or "level=error" in done.stderr, (done, text)
    reap()
    assert [path.name for path in runtime.root.glob("[!.]*")] == [], text
    assert groups() == [], text
    assert Path("/proc/self/mountinfo").read_text() == mounted, text
