"""libnetwork's place: the default bridge, addresses, network namespaces kept ready, published ports, name resolution files.

`networks.Networks` is the way in; `ports` and `files` are what the engine needs of pure data. Runs in wherryd.
"""
