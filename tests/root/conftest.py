"""Fixtures of the tests on a real kernel."""

from tests.runtime_lab import lab

__all__ = ["lab"]
