"""Containers on layers that are erofs images, in user namespaces: below their root file system, and in it with mapped ids."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from tests.contract.snapshot_suite import Store
from tests.root.shim_lab import NAMESPACES, Lab, busybox_rootfs, config, lab

from wherry.core.tasks import JsonFileLogConfig, TaskSpec
from wherry.linux import mounts

pytestmark = pytest.mark.requires("root", "overlay", "erofs", "userns", "busybox")

BASE = 200_000
MAPPING = [{"containerID": 0, "hostID": BASE, "size": 65536}]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "engine", "erofs")
    yield found
    found.close()


def layers(directory: Path) -> list[bytes]:
    """busybox, as the container's root is to own it; and a file of another user, with an attribute, over it."""
    root = busybox_rootfs(directory)
    (root / "data").write_bytes(b"d" * 70_000)

    def give(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = BASE
        return member

    base, top = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=base, mode="w") as archive:
        archive.add(root, ".", filter=give)
    with tarfile.open(fileobj=top, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("home/own")
        member.uid, member.gid, member.size, member.mode = BASE + 1000, BASE + 7, 3, 0o600
        archive.addfile(member, io.BytesIO(b"own"))
    shutil.rmtree(root)
    return [base.getvalue(), top.getvalue()]


def outcome(tmp_path: Path, store: Store, script: str, **changes: Any) -> str:
    """What the script prints in a container with a user namespace on the snapshot "c1"."""

    async def run(it: Lab) -> str:
        linux = {"uidMappings": MAPPING, "gidMappings": MAPPING}
        settings = config(
            ["sh", "-ec", script], cgroup=it.cgroup("c"), namespaces=(*NAMESPACES, "user"), linux=linux, **changes
        )
        spec = TaskSpec(settings, store.snapshots.mounts("c1"), log=JsonFileLogConfig(str(it.log_path())))
        it.log_path().parent.mkdir()
        it._ids.append("c")
        await it.tasks.start("c", spec, attach=[])
        ended = await it.exited()
        text = it.log_path().read_text()
        assert ended.status == 0, text
        return text

    async def test() -> str:
        place = tmp_path / "lab"
        place.mkdir()
        async with lab(place) as it:
            return await run(it)

    return uvloop.run(test())


def test_a_user_namespaces_root_owns_what_was_made_for_it(tmp_path: Path, store: Store) -> None:
    store.prepare("c1", store.stack(layers(tmp_path)))
    shown = outcome(
        tmp_path,
        store,
        "stat -c 'own %u %g %a' /home/own; stat -c 'root %u %g' /; wc -c /data; cat /home/own; "
        "echo more >> /data; wc -c /data; chown 5:6 /home/own; rm /etc/passwd; mv /home /moved; ls /moved",
        process={"capabilities": {kind: ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"] for kind in ("bounding", "effective", "permitted")}},
    )  # fmt: skip
    for line in ("own 1000 7 600", "root 0 0", "70000 /data", "70005 /data"):
        assert line in shown
    assert {"C /data", "D /etc/passwd", "D /home", "A /moved", "A /moved/own"} <= store.changes("c1")
    upper = tmp_path / "engine/snapshots/active/c1/fs"
    found = (upper / "moved/own").stat()
    assert (found.st_uid, found.st_gid, (upper / "moved/own").read_bytes()) == (BASE + 5, BASE + 6, b"own")


@pytest.mark.requires("idmap")
def test_a_layer_is_bound_with_mapped_ids(tmp_path: Path, store: Store) -> None:
    """As an image's files that belong to the host's root are shown to a container's."""
    top = store.stack([*layers(tmp_path)])
    store.prepare("c1", top)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.uid, member.gid, member.size = 5, 6, 4
        archive.addfile(member, io.BytesIO(b"text"))
    store.stack([plain.getvalue()])
    directory = max((tmp_path / "engine/snapshots/layers").iterdir(), key=lambda path: int(path.name))
    point = tmp_path / "layer"
    point.mkdir()
    fd = mounts.open_erofs(f"{directory}/fs")
    try:
        mounts.attach_at(fd, str(point))
    finally:
        os.close(fd)
    try:
        bound = {"destination": "/mnt", "type": "bind", "source": str(point), "options": ["bind", "idmap"]}
        shown = outcome(
            tmp_path,
            store,
            "stat -c '%u %g' /mnt/file; cat /mnt/file; touch /mnt/new 2>&1 || echo refused",
            mounts=[bound],
        )
    finally:
        mounts.detach(str(point))
    assert "5 6" in shown and "text" in shown and "refused" in shown
