"""Fixtures of the tests that attack."""

from tests.runtime_lab import lab

__all__ = ["lab"]
