"""One life of an engine's network layer in a process of its own, to be killed: connects a container, tells of it on stdout, waits.

Arguments: the data root. The container's process is a `sleep` inside its namespace, which outlives this one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from tests.root.network_lab import INSTANCE, run_in

from wherry.core.db import Database
from wherry.network import EndpointRequest, Networks
from wherry.network.ports import PortRequest


async def main(root: str) -> None:
    made = Networks(exec_root=root, instance=INSTANCE, db=Database(f"{root}/wherry.db"))
    await made.open()
    await made.settle()
    ports = (PortRequest(80, "tcp", None, range(8080, 8081)), PortRequest(53, "udp", None, range(5353, 5354)))
    found = []
    for id in ("a" * 64, "b" * 64):
        endpoint = await made.connect(id, EndpointRequest("web", ports if id[0] == "a" else ()))
        process = run_in(endpoint.netns_fd, lambda: subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL))
        found.append({"id": id, "pid": process.pid, "saved": endpoint.saved()})
    print(json.dumps(found), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
