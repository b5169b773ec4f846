"""What the Engine API describes and wherry does not do yet: each answers 501 and says which it is.

A route that lands in a resource's module leaves this list; a test holds the two together to the Engine API's description.
"""

from __future__ import annotations

from aiohttp import web

from wherry import errors
from wherry.api.call import Call
from wherry.api.router import Handler, Route

_PATHS = """
POST /containers/{id}/update
GET /containers/{id}/attach/ws
HEAD /containers/{id}/archive
GET /containers/{id}/archive
PUT /containers/{id}/archive
POST /build
POST /build/prune
POST /build/cancel
PUT /volumes/{name}
DELETE /networks/{id}
POST /networks/create
POST /networks/{id}/connect
POST /networks/{id}/disconnect
GET /plugins/privileges
POST /plugins/pull
DELETE /plugins/{name}
POST /plugins/{name}/enable
POST /plugins/{name}/disable
POST /plugins/{name}/upgrade
POST /plugins/create
POST /plugins/{name}/push
POST /plugins/{name}/set
GET /nodes
GET /nodes/{id}
DELETE /nodes/{id}
POST /nodes/{id}/update
GET /swarm
POST /swarm/init
POST /swarm/join
POST /swarm/leave
POST /swarm/update
GET /swarm/unlockkey
POST /swarm/unlock
GET /services
POST /services/create
GET /services/{id}
DELETE /services/{id}
POST /services/{id}/update
GET /services/{id}/logs
GET /tasks
GET /tasks/{id}
GET /tasks/{id}/logs
GET /secrets
POST /secrets/create
GET /secrets/{id}
DELETE /secrets/{id}
POST /secrets/{id}/update
GET /configs
POST /configs/create
GET /configs/{id}
DELETE /configs/{id}
POST /configs/{id}/update
POST /session
POST /grpc
"""


def _refuse(method: str, template: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        raise errors.NotImplemented(f"wherry does not support {method} {template} yet")

    return handler


def table() -> list[Route]:
    return [
        Route(method, template, _refuse(method, template))
        for method, template in (line.split(" ") for line in _PATHS.split("\n") if line)
    ]
