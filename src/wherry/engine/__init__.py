"""Docker's semantics, in wherryd: what create, start, exec, logs, stop, remove mean. Below are core, network and volumes; above, the API.

`Containers` (with its `execs`), `System`, `NetworkObjects` and `VolumeObjects` implement the Protocols of `api.backend`; `Services` is what they
stand on. A newcomer starts at `containers.py`, then `start.py` and `lifecycle.py`.
"""
