"""`docker commit`, `docker diff`, `docker export`: what can be made of a container's file system. Runs in wherryd."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from wherry.core.bridge import produced
from wherry.core.cancellation import thread_to_the_end
from wherry.core.commit import Committer, Step
from wherry.core.images import Image
from wherry.engine import changes as dockerfile
from wherry.engine.image_json import RUN_KEYS
from wherry.engine.lifecycle import Lifecycle
from wherry.engine.records import Container, Record, Status
from wherry.engine.services import Services
from wherry.engine.store import describe
from wherry.engine.times import rfc3339_nano
from wherry.errors import Conflict, FailedPrecondition, NotFound
from wherry.spec.calls import CommitOptions, JsonList
from wherry.spec.ids import ImageId
from wherry.spec.reference import Reference
from wherry.wire.engine import ContainerConfig


async def changes(services: Services, container: Container) -> JsonList:
    """What GET /containers/{id}/changes answers."""
    found = await thread_to_the_end(services.snapshots.changes, container.id)
    return [{"Path": "/" + change.path.decode("utf-8", "replace"), "Kind": int(change.kind)} for change in found]


async def export(services: Services, container: Container) -> AsyncIterator[bytes]:
    """The container's file system as a tar. It is read by the time that the first piece is asked for."""
    async for piece in produced(lambda write: services.snapshots.export(container.id, write)):
        yield piece
    services.events.publish("container", "export", container.id, describe(container.record))


async def commit(
    services: Services,
    lifecycle: Lifecycle,
    committer: Committer,
    container: Container,
    options: CommitOptions,
    name: Reference | None,
) -> ImageId:
    """→ the new image's id."""
    record = container.record
    if container.status in (Status.DEAD, Status.REMOVING):
        state = "Dead" if container.status is Status.DEAD else "being removed"
        raise Conflict(f"You cannot commit container {container.id} which is {state}")
    image = services.images.by_id(record.image)
    if image is None:
        raise NotFound(f"No such image: {record.image}")
    if image.damage:
        raise FailedPrecondition(f"container {container.id}: its image {image.id} is damaged: {image.damage}")
    run = _configuration(options, record, image)
    created_by = " ".join(_as_list(record.config.cmd))
    step = Step(run, rfc3339_nano(time.time_ns()), created_by, options.author, options.comment)
    paused = options.pause and container.status is Status.RUNNING
    if paused:
        await lifecycle.pause(container)
    try:
        made = await committer.commit(container.id, image, step, name)
    finally:
        if paused and container.status is Status.PAUSED:
            await lifecycle.unpause(container)
    attributes = {
        **describe(record),
        "comment": options.comment,
        "imageID": made.id,
        "imageRef": name.familiar if name else "",
    }
    services.events.publish("container", "commit", container.id, attributes)
    services.events.publish("image", "create", made.id, {"name": made.id})
    if name is not None:
        services.events.publish("image", "tag", made.id, {"name": name.familiar})
    return made.id


def _configuration(options: CommitOptions, record: Record, image: Image) -> dict[str, Any]:
    """The new image's configuration: the request's, else the container's, as the changes leave it; where that is silent, the container's again.

    So an empty command is none, and a label or a variable can be set but not taken away: as dockerd.
    """
    own = _of(record.config)
    if not image.run.get("WorkingDir") and own.get("WorkingDir") == "/":
        del own["WorkingDir"]  # the container has it because there was none
    of_image = {key: value for key, value in image.run.items() if key in ("OnBuild", "Shell", "Healthcheck")}
    asked = own if options.config is None else _of(options.config)
    changed = dockerfile.apply({**of_image, **asked}, options.changes)
    wanted = {key: value for key, value in changed.items() if value}
    below = {**of_image, **own}
    for key in ("Volumes", "ExposedPorts", "Labels", "Healthcheck"):
        if key in wanted and key in below:
            wanted[key] = {**below[key], **wanted[key]}
    if "Env" in wanted:
        given = {item.partition("=")[0] for item in wanted["Env"]}
        wanted["Env"] = [*wanted["Env"], *(item for item in own.get("Env", ()) if item.partition("=")[0] not in given)]
    if "Entrypoint" in wanted:
        below.pop("Cmd", None)
    return {**below, **wanted}


def _of(config: ContainerConfig) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(config)
    for key in ("Cmd", "Entrypoint"):
        found[key] = _as_list(found.get(key))
    return {key: found[key] for key in RUN_KEYS if found.get(key)}


def _as_list(value: list[str] | str | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
