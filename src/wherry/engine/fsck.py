"""`wherry system fsck`: the whole store verified while the engine works, and mended on request. In wherryd.

Blobs are hashed in threads, layers unpacked once more by workers, beside their own directory, and compared. What is checked is leased meanwhile:
nothing of it is removed. What a pull, a load or a removal is just doing is no problem: what looks left over must do so at the beginning and at
the end.

**Invariants**: a layer that a container runs on is never replaced; a blob is replaced by one that was verified, or stays as it is; one check at a
time. What cannot be mended is said, with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from wherry.core.cancellation import thread_to_the_end
from wherry.core.layers import LayerWork
from wherry.core.pull import Puller
from wherry.core.restore import lacks_layers, restore_layers
from wherry.core.snapshots import Layer, Staged
from wherry.core.unpackers import Unpackers
from wherry.core.verify import (
    Kind,
    Problem,
    Rows,
    blob_problem,
    database_problems,
    disk_problems,
    layer_problems,
    read_rows,
    row_problems,
)
from wherry.engine.services import Services
from wherry.errors import Conflict, WherryError
from wherry.spec.calls import ProgressSink, RegistryAuth
from wherry.spec.ids import ChainId, Digest
from wherry.spec.reference import Reference, parse

MOST_PROBLEMS = 10_000
"""Told of one check; the rest is counted."""


@dataclass(slots=True)
class _Check:
    """One check under way: what it tells, and what it has counted."""

    progress: ProgressSink
    repair: bool
    auths: Mapping[str, RegistryAuth]
    """By registry."""
    counts: dict[str, int] = field(default_factory=lambda: {"Blobs": 0, "Layers": 0, "Problems": 0, "Mended": 0})

    def step(self, what: str, done: int, total: int) -> None:
        self.progress({"status": f"Checking {what}", "progressDetail": {"current": done, "total": total}, "id": what})

    def tell(self, problem: Problem, *, mended: bool, reason: str = "") -> None:
        self.counts["Problems"] += 1
        self.counts["Mended"] += mended
        if self.counts["Problems"] <= MOST_PROBLEMS:
            text = f"{problem.text} ({reason})" if reason else problem.text
            shown = {"Kind": str(problem.kind), "Object": problem.object, "Text": text, "Mended": mended}
            self.progress({"problem": shown})


class Fsck:
    def __init__(self, services: Services, unpackers: Unpackers, work: LayerWork, puller: Puller) -> None:
        self._services = services
        self._images = services.images
        self._content = services.images.content
        self._snapshots = services.snapshots
        self._unpackers = unpackers
        self._work = work
        self._puller = puller
        self._busy = False

    async def run(self, *, repair: bool, auths: Mapping[str, RegistryAuth], progress: ProgressSink) -> None:
        """Tells {"problem": {"Kind", "Object", "Text", "Mended"}} of each, at last {"summary": {"Blobs", "Layers", "Problems", "Mended"}}.
        Conflict when a check is under way."""
        if self._busy:
            raise Conflict("a check of the store is under way already")
        self._busy = True
        check = _Check(progress, repair, auths)
        images = {image.id for image in self._images.all()}
        try:
            await self._run(check)
            progress({"summary": check.counts})
        finally:
            self._busy = False
            if images - {image.id for image in self._images.all()}:
                await self._images.collect()  # what was removed while it was leased

    async def _run(self, check: _Check) -> None:
        for problem in await self._services.database.run(database_problems):
            check.tell(problem, mended=False)
        rows, before = await self._look()
        with self._images.lease(rows.blobs), self._snapshots.leased(layer.chain_id for layer in rows.layers):
            broken = await self._check_blobs(check, rows)
            told, sources = await thread_to_the_end(row_problems, rows, self._content)
            if told and check.repair:
                rows, sources = await self._mend_rows(check, rows, told)
            else:
                for problem in told:
                    check.tell(problem, mended=False)
            for number, layer in enumerate(rows.layers):
                check.step("layers", number, len(rows.layers))
                blob = sources.get(layer.chain_id)
                if blob is not None and blob not in broken:
                    await self._check_layer(check, layer, blob)
        if check.repair:
            await self._images.revive()
        _, after = await self._look()
        left = [problem for problem in after if problem in before]
        if check.repair and left:
            await self._remove(left)
            _, after = await self._look()
        for problem in left:
            check.tell(problem, mended=problem not in after)

    async def _look(self) -> tuple[Rows, list[Problem]]:
        rows = await self._services.database.run(read_rows)
        found = await thread_to_the_end(self._on_disk, rows, self._images.leased())
        return rows, found

    def _on_disk(self, rows: Rows, leased: set[Digest]) -> list[Problem]:
        return list(disk_problems(self._services.settings.data_root, rows, kept=leased, idle=False))

    async def _remove(self, left: list[Problem]) -> None:
        """Leftovers: blobs by the collector, directories into the trash."""
        await self._images.collect()
        blobs = os.path.join(self._content.root, "blobs", "")
        for problem in left:
            if problem.path and not problem.path.startswith(blobs):
                self._snapshots.trash.put(problem.path)
        await self._snapshots.trash.empty()

    # --- rows

    async def _mend_rows(self, check: _Check, rows: Rows, told: list[Problem]) -> tuple[Rows, dict[ChainId, Digest]]:
        """Layers that no row names are made again of their blobs; an image that a name has lost is pulled. → the rows as they are then."""
        reasons: dict[str, str] = {}
        for image in self._images.all():
            if lacks_layers(self._images, image):
                try:
                    await restore_layers(self._images, self._unpackers, self._work, image)
                except (WherryError, OSError, TimeoutError) as error:
                    reasons[image.id] = str(error)
        targets = {target.digest for row in rows.images for target in row.targets}
        orphans = [(name, target) for name, target in rows.names if target not in targets]
        for name, target in orphans:
            if self._images.primary(target) is None:
                try:
                    await self._pull_named(parse(name), target, check.auths)
                except (WherryError, OSError, TimeoutError) as error:
                    reasons[name] = str(error)
        for name, target in orphans:
            if (found := self._images.primary(target)) is not None:
                await self._images.tag(found.id, parse(name), target, by_user=False)
        rows = await self._services.database.run(read_rows)
        left, sources = await thread_to_the_end(row_problems, rows, self._content)
        for problem in told:
            check.tell(problem, mended=problem not in left, reason=reasons.get(problem.object, ""))
        return rows, sources

    async def _pull_named(self, name: Reference, target: Digest, auths: Mapping[str, RegistryAuth]) -> None:
        """What the name stood for, whatever the registry has under it by now."""
        auth = auths.get(name.domain, RegistryAuth())
        await self._puller.pull(name.with_digest(target), None, auth, lambda _: None)

    # --- blobs

    async def _check_blobs(self, check: _Check, rows: Rows) -> set[Digest]:
        """→ those that are broken, and stay so."""
        wanted = sorted(rows.blobs)
        found: dict[Digest, Problem] = {}
        for number, digest in enumerate(wanted):
            check.step("blobs", number, len(wanted))
            problem = await thread_to_the_end(blob_problem, self._content, digest)
            if problem is None:
                self._content.trust(digest)
            else:
                self._content.suspect(digest)
                found[digest] = problem
        check.counts["Blobs"] = len(wanted)
        reasons = await self._fetch(set(found), check.auths) if check.repair and found else {}
        for digest, problem in found.items():
            mended = check.repair and digest not in reasons
            check.tell(problem, mended=mended, reason=reasons.get(digest, ""))
        return set(found) if not check.repair else set(reasons)

    async def _fetch(self, broken: set[Digest], auths: Mapping[str, RegistryAuth]) -> dict[Digest, str]:
        """Pulls them again, from where the images that need them came; each takes its place in one step. → those that could not be had, and why."""
        reasons = dict.fromkeys(broken, "its image came from no registry")
        for image in self._images.all():
            for reference in self._images.names_of(image):
                needed = {digest for digest in image.blobs & broken if not self._content.has(digest)}
                if not needed or reference.digest is None:
                    continue
                auth = auths.get(reference.domain, RegistryAuth())
                try:
                    await self._puller.pull(reference, image.platform if image.config else None, auth, lambda _: None)
                except (WherryError, OSError, TimeoutError) as error:
                    reasons.update(dict.fromkeys(needed, str(error)))
        return {digest: reason for digest, reason in reasons.items() if not self._content.has(digest)}

    # --- layers

    async def _check_layer(self, check: _Check, layer: Layer, blob: Digest) -> None:
        staged = self._snapshots.stage(layer.chain_id, layer.parent, layer.diff_id)
        try:
            problems = await self._compare(staged, layer, blob)
        except BaseException as error:
            await self._snapshots.abandon(staged)
            if not isinstance(error, (WherryError, OSError)):
                raise
            problem = Problem(Kind.LAYER, layer.chain_id, f"cannot be compared: {error}")
            check.tell(problem, mended=False)
            return
        check.counts["Layers"] += 1
        mended, reason = False, ""
        if problems and check.repair:
            mended = await self._snapshots.replace(staged, lambda: not self._users(layer.chain_id))
            if not mended:
                names = ", ".join(sorted(self._users(layer.chain_id))) or "a container"
                reason = f"{names} stands on it: stop it, then repair again"
        else:
            await self._snapshots.abandon(staged)
        for problem in problems:
            check.tell(problem, mended=mended, reason=reason)

    async def _compare(self, staged: Staged, layer: Layer, blob: Digest) -> list[Problem]:
        staged.unpacked = await self._unpackers.unpack(self._content.path(blob), staged.fs, layer.diff_id)
        lower = self._snapshots.lower(layer.parent)
        stored = self._snapshots.directory(layer)

        def compare() -> list[Problem]:
            driver = self._snapshots.driver
            driver.inherit(staged.fs, staged.unpacked.implied, [path for path in lower if os.path.isdir(path)])
            with driver.readable([staged.fs]) as (fresh,):
                return layer_problems(driver, layer, stored, fresh, staged.unpacked)

        return await thread_to_the_end(compare)

    def _users(self, chain_id: ChainId) -> list[str]:
        """Names of the containers that run on a layer, or are just being changed."""
        return [
            container.name
            for container in self._services.containers.all()
            if (container.is_running or container.lock.locked()) and chain_id in self._snapshots.stands_on(container.id)
        ]
