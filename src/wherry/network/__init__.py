"""libnetwork's place: the default bridge, addresses, network namespaces kept ready, published ports, name resolution files.

`Networks` is the way in; `ports` and `files` are what the engine needs of pure data. Runs in wherryd.
"""

from wherry.network.files import hosts_file, resolv_conf
from wherry.network.model import BridgeConfig, Endpoint, EndpointRequest
from wherry.network.networks import Networks

__all__ = ["BridgeConfig", "Endpoint", "EndpointRequest", "Networks", "hosts_file", "resolv_conf"]
