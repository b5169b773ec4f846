"""Fixtures of the tests that attack."""

from tests.e2e.conftest import archive, engine, shared_engine
from tests.root.test_wherry_runc import program, rootfs, runtime
from tests.runtime_lab import lab

__all__ = ["archive", "engine", "lab", "program", "rootfs", "runtime", "shared_engine"]
