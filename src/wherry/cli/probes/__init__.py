"""What `wherry doctor` looks at: one small function per question, each really tried where trying is harmless.

A probe returns a `Finding`. Things are tried in a forked child with namespaces of its own (`trial.attempt`), so the machine is as it was afterwards.
Order is that of the report: first what nothing works without.
"""

from __future__ import annotations

from .finding import OK, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Finding", "all_findings"]


def all_findings(data_root: str) -> Iterator[Finding]:
    """Every probe's finding, as they are made. Without the privileges that the engine needs, what needs them is not tried."""
    from . import kernel, limits, machine, network, security, storage

    yield machine.python()
    privileges = machine.privileges()
    yield privileges
    harmless: list[Callable[[], Finding]] = [
        machine.resource_capability,
        kernel.system_calls,
        kernel.user_namespaces,
        limits.controllers,
        storage.erofs,
        lambda: storage.free_space(data_root),
        security.apparmor,
        network.forwarding,
        machine.open_files,
        machine.programs,
        machine.docker_cli,
    ]
    privileged: list[Callable[[], Finding]] = [
        kernel.namespaces,
        limits.cgroups,
        lambda: storage.overlay(data_root),
        storage.many_layers,
        security.seccomp,
        network.links,
        network.firewall,
    ]
    for probe in (privileged if privileges.status == OK else []) + harmless:
        yield probe()
