"""`docker system df` adds up to what `du` counts: the whole, each image, what images share, containers, volumes, and what a prune frees."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import leaks
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, nothing_left, running, wait_until
from tests.e2e.parity import DOCKER, WHERRY, environment
from tests.e2e.test_image_store import HERE_PLATFORM, OTHER_PLATFORM, write_index
from tests.registry import docker_registry, skopeo_copy
from wherry.cli.units import decimal_size

pytestmark = [pytest.mark.requires("registry", "skopeo"), differs_on_dockerd("looks into wherry's store")]

Json = dict[str, Any]


def du(*paths: Path) -> int:
    if not paths:
        return 0
    done = subprocess.run(["du", "-scB1", *paths], check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def own(path: Path) -> int:
    """Without what is in it."""
    return path.lstat().st_blocks * 512


@pytest.fixture(scope="module")
def filled(archive: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, str]]:
    """An engine with images of all kinds: two platforms, one made here, one shared base; containers of both platforms, a volume, half a download."""
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    with nothing_left(), running(Engine(root), archive) as engine:
        yield engine, _fill(engine, tmp_path_factory.mktemp("registry"))
    shutil.rmtree(root)


def _fill(engine: Engine, place: Path) -> str:
    """→ the name of the image of two platforms."""
    with docker_registry(place / "registry") as host:
        write_index(place / "layout")
        name = f"{host}/multi:1"
        skopeo_copy(f"oci:{place}/layout:latest", f"docker://{name}", "--all")
        for platform in (HERE_PLATFORM, OTHER_PLATFORM):
            engine.docker("pull", "-q", "--platform", platform, name)
    script = "head -c 30000 /dev/urandom > /a; ln /a /b; mkdir /c; truncate -s 1G /sparse"
    engine.docker("run", "--name=made", "--network=none", "-v", "vol:/vol", name, "sh", "-c", script)
    engine.docker("commit", "made", "made:1")
    engine.docker("create", "--name=other", "--platform", OTHER_PLATFORM, name)
    (engine.data_root / "volumes/vol/_data/hole").write_bytes(b"x" * 9000)
    with (engine.data_root / "volumes/vol/_data/hole").open("r+b") as file:
        file.truncate(1 << 30)
    (engine.data_root / "content/partial" / f"sha256:{'5' * 64}").write_bytes(b"half" * 20_000)
    _settle(engine)
    return name


def _settle(engine: Engine) -> None:
    """What was removed goes from the disk soon after the answer."""
    trash = engine.data_root / "snapshots/trash"
    wait_until("the trash is empty", lambda: not any(trash.iterdir()))


def usage_of(engine: Engine) -> Json:
    status, usage = engine.api("GET", "/system/df")
    assert status == 200
    found: Json = usage
    return found


def pieces(engine: Engine, image: Json) -> set[Path]:
    """The files and directories that an image is made of, found by its documents and by where its layers are."""
    found: set[Path] = set()
    pending = [image["Descriptor"]["digest"]]
    while pending:
        path = engine.data_root / "content/blobs" / pending.pop().replace(":", "/")
        if path.exists():
            found.add(path)
            if path.stat().st_size < 10_000 and path.read_bytes()[:1] == b"{":
                document = json.loads(path.read_bytes())
                parts = [*document.get("manifests", ()), *document.get("layers", ()), document.get("config", {})]
                pending += [part["digest"] for part in parts if "digest" in part]
    for platform in (HERE_PLATFORM, OTHER_PLATFORM):
        done = engine.docker("image", "inspect", "--platform", platform, image["Id"], check=False)
        for shown in json.loads(done.stdout) if done.returncode == 0 else ():
            data = shown["GraphDriver"]["Data"]
            for fs in [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]:
                layer = Path(fs).parent
                found |= {layer, layer.parent.parent / "init" / layer.name}
    return {path for path in found if path.exists()}


def test_the_sum_is_that_of_du(filled: tuple[Engine, str]) -> None:
    engine, _ = filled
    usage, data = usage_of(engine), engine.data_root
    snapshots = [data / "snapshots" / name for name in ("layers", "init", "trash")]
    assert usage["LayersSize"] == usage["ImageUsage"]["TotalSize"] == du(data / "content", *snapshots)
    containers = {item["Id"]: item["SizeRw"] for item in usage["Containers"]}
    assert containers == {path.name: du(path) for path in (data / "snapshots/active").iterdir()}
    assert usage["ContainerUsage"]["TotalSize"] == sum(containers.values())
    [volume] = usage["Volumes"]
    assert volume["UsageData"]["Size"] == du(data / "volumes/vol/_data") < 1 << 20
    counted = usage["LayersSize"] + sum(containers.values()) + volume["UsageData"]["Size"]
    directories = [data, data / "snapshots", data / "snapshots/active", data / "volumes", data / "volumes/vol"]
    rest = [path for path in data.iterdir() if path.name not in ("content", "snapshots", "volumes")]  # logs, database
    assert counted + du(*rest, *data.glob("snapshots/driver")) + sum(map(own, directories)) == du(data)


def test_each_image_has_what_du_counts_of_its_own_and_with_others(filled: tuple[Engine, str]) -> None:
    engine, name = filled
    usage = usage_of(engine)
    paths = {image["Id"]: pieces(engine, image) for image in usage["Images"]}
    users = Counter(path for found in paths.values() for path in found)
    for image in usage["Images"]:
        shared = [path for path in paths[image["Id"]] if users[path] > 1]
        assert (image["Size"], image["SharedSize"]) == (du(*paths[image["Id"]]), du(*shared)), image["RepoTags"]
    unique = sum(image["Size"] - image["SharedSize"] for image in usage["Images"])
    content, snapshots = engine.data_root / "content", engine.data_root / "snapshots"
    around = [content, *(content / part for part in ("blobs", "blobs/sha256", "blobs/sha512", "ingest", "partial"))]
    around += [snapshots / part for part in ("layers", "init", "trash")]
    left = [content / "oci-layout", *(content / "partial").iterdir()]
    together = unique + du(*(path for path in users if users[path] > 1)) + du(*left) + sum(map(own, around))
    assert together == usage["LayersSize"]
    counts = {tag: image["Containers"] for image in usage["Images"] for tag in image["RepoTags"]}
    assert counts == {name: 2, "made:1": 0, BUSYBOX: 0}  # one of each platform
    assert set(engine.output("ps", "-a", "--format={{.Image}}").splitlines()) == {name}


def test_both_clients_show_it(filled: tuple[Engine, str]) -> None:
    engine, _ = filled
    usage = engine.api("GET", "/v1.50/system/df")[1]
    shown = [
        subprocess.run([*program, "system", "df", "-v"], env=environment(engine), capture_output=True, check=True)
        for program in (DOCKER, WHERRY)
    ]
    moment = re.compile(rb"(\d+|About an?|Less than a) (second|minute)s?")
    docker, wherry = (moment.sub(b"<time>", done.stdout).split() for done in shown)
    assert docker == wherry
    lines = [line.split() for line in shown[0].stdout.decode().splitlines()]
    for image in usage["Images"]:
        repository, _, tag = image["RepoTags"][0].rpartition(":")
        [row] = [line for line in lines if line[:2] == [repository, tag]]
        unique = image["Size"] - image["SharedSize"]
        sizes = [decimal_size(image["Size"], 3), decimal_size(image["SharedSize"]), decimal_size(unique)]
        assert row[-4:] == [*sizes, str(image["Containers"])]
    [volume] = [line for line in lines if line[0:1] == ["vol"]]
    assert volume[-2:] == ["1", decimal_size(usage["Volumes"][0]["UsageData"]["Size"])]
    total = engine.output("system", "df", "--format={{.Type}} {{.Size}}").splitlines()[0]
    assert total == f"Images {decimal_size(usage['LayersSize'])}"


def test_what_is_reclaimable_is_what_prunes_free(filled: tuple[Engine, str]) -> None:
    engine, _ = filled
    engine.docker("rm", "other")
    for used in (True, False):
        if not used:
            engine.docker("rm", "made")
        _settle(engine)
        usage = usage_of(engine)["ImageUsage"]
        assert (usage["TotalCount"], usage["ActiveCount"]) == ((3, 1) if used else (1, 0))
        before = du(engine.data_root / "content", engine.data_root / "snapshots")
        status, said = engine.api("POST", '/images/prune?filters={"dangling":["false"]}')
        assert status == 200 and said["SpaceReclaimed"] == usage["Reclaimable"] > 0
        assert before - du(engine.data_root / "content", engine.data_root / "snapshots") == usage["Reclaimable"]
