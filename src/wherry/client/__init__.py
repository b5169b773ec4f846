"""The Engine API client: `Client` for programs that need containers, and the transport that the `wherry` command stands on.

    from wherry.client import Client

    with Client() as client:                       # DOCKER_HOST / WHERRY_HOST, or the default socket
        result = client.containers.run("busybox", ["echo", "hello"], network="none")
        print(result.exit_code, result.stdout)

Works with wherryd and with any other engine of Docker's API. Blocking, one call at a time per `Client`; no event loop, no third-party package, and
nothing imported before it is needed: a command line starts with this module. Absent on purpose: ssh:// transport.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .api import Client
    from .errors import ApiError, ConnectionFailed

__all__ = ["ApiError", "Client", "ConnectionFailed"]

_HOMES = {"ApiError": "errors", "Client": "api", "ConnectionFailed": "errors"}


def __getattr__(name: str) -> object:
    """The public names, imported when first asked for."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{home}", fromlist=[name])
    return getattr(module, name)
