"""Pulling: from Debian's docker-registry with skopeo's images, and from registries that go wrong in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.images import Entry, ImageSpec, busybox_spec, image_config, image_id, layer, write_oci_layout
from tests.registry import OCI_INDEX, ScriptedRegistry, docker_registry, error, skopeo_copy

from wherry.core.admission import Admission
from wherry.core.content import Content
from wherry.core.db import Database
from wherry.core.images import Image, Images
from wherry.core.layers import LayerWork
from wherry.core.pull import Puller
from wherry.core.snapshots import Snapshots
from wherry.core.unpackers import Unpackers
from wherry.distribution import connection
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import DataLoss, Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth
from wherry.spec.ids import Digest
from wherry.spec.image import parse_platform
from wherry.spec.reference import parse

pytestmark = pytest.mark.requires("root")


@dataclass
class Store:
    """An engine's image part on its own, as the composition root puts it together."""

    images: Images
    puller: Puller
    progress: list[dict[str, Any]] = field(default_factory=list)

    async def pull(self, reference: str, auth: RegistryAuth | None = None, platform: str | None = None) -> Image:
        chosen = parse_platform(platform) if platform else None
        return await self.puller.pull(parse(reference), chosen, auth or RegistryAuth(), self.progress.append)

    @property
    def statuses(self) -> list[str]:
        return [
            message["status"] for message in self.progress if message["status"] not in ("Downloading", "Extracting")
        ]


@asynccontextmanager
async def store_in(root: Path) -> AsyncIterator[Store]:
    db = Database(str(root / "db"))
    snapshots = Snapshots(str(root / "snapshots"), db)
    images = Images(Content(str(root / "content")), snapshots, db)
    unpackers = Unpackers()
    puller = Puller(images, unpackers, LayerWork(snapshots), RegistryHosts(), Admission(images))
    try:
        await snapshots.open()
        await images.open()
        yield Store(images, puller)
    finally:
        await puller.close()
        await unpackers.close()
        db.close()


def partials(root: Path) -> list[str]:
    return sorted(f"content/partial/{name}" for name in os.listdir(root / "content/partial"))


def leftovers(root: Path) -> list[str]:
    """Files of images below a store's root, other than the empty directories that it always has."""
    found = [
        str(path.relative_to(root))
        for part in ("content/blobs", "content/ingest", "content/partial", "snapshots")
        for path in (root / part).rglob("*")
    ]
    always = {"content/blobs/sha256", "content/blobs/sha512", "snapshots/layers", "snapshots/init"}
    always |= {"snapshots/active", "snapshots/trash"}
    return sorted(set(found) - always)


def three_layers(seed: int = 0, size: int = 400_000) -> ImageSpec:
    source = random.Random(seed)
    small = [Entry(f"data/f{n}", source.randbytes(200)) for n in range(200)]
    return ImageSpec(
        layers=(
            layer(small),
            layer([Entry("big", source.randbytes(size))]),
            layer([Entry(".wh.big"), Entry("last", b"x")]),
        ),
        config={"Cmd": ["/x"], "Labels": {"a": "b"}},
    )


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_BACKOFF", 0.0)


# --- a real registry


@pytest.mark.requires("registry", "skopeo")
@pytest.mark.parametrize(
    "options", [["--dest-compress-format=gzip"], ["--dest-compress-format=zstd"], ["--format=v2s2"]]
)
def test_what_skopeo_pushed_is_pulled(registry: str, tmp_path: Path, options: list[str]) -> None:
    spec = three_layers(seed=len(options[0]))
    write_oci_layout(str(tmp_path / "layout"), spec)
    name = f"{registry}/team/app-{options[0][-4:]}"
    skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{name}:1.0", *options)

    async def run() -> None:
        async with store_in(tmp_path / "store") as store:
            image = await store.pull(f"{name}:1.0")
            assert image.id == image_id(spec) or "v2s2" in options[0]
            assert image.repo_tags == (f"{name}:1.0",)
            [digest] = image.repo_digests
            assert image.size == sum(len(item) for item in [b"x"]) + 200 * 200 + 400_000
            tops = store.images.snapshots.lower(image.top)
            assert (Path(tops[0]) / "last").read_bytes() == b"x"
            assert store.statuses[0] == f"Pulling from {name.partition('/')[2]}"
            assert store.statuses[-1] == f"Status: Downloaded newer image for {name}:1.0"
            assert sorted(store.statuses[1:-2]) == sorted(
                3 * ["Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"]
            )
            again = Store(store.images, store.puller)
            assert await again.pull(f"{name}:1.0") == image
            assert again.statuses[-1] == f"Status: Image is up to date for {name}:1.0"
            assert (await again.pull(digest)).id == image.id
            assert again.statuses[-1] == f"Status: Image is up to date for {digest}"

    (tmp_path / "store").mkdir()
    asyncio.run(run())


@pytest.mark.requires("registry", "skopeo")
def test_basic_authentication_of_a_real_registry(tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text("ann:$2y$04$ZWQc3/1U04dSxqOY9snIKOHjCmh08HNS8GMhvdlRweEvC59F10h4C\n")  # "secret"
    extra = f"auth: {{htpasswd: {{realm: tests, path: {tmp_path}/htpasswd}}}}\n"
    write_oci_layout(str(tmp_path / "layout"), busybox_spec())

    async def run(host: str) -> None:
        async with store_in(tmp_path) as store:
            with pytest.raises(PermissionDenied, match="no basic auth credentials"):
                await store.pull(f"{host}/busybox")
            with pytest.raises(PermissionDenied, match="unauthorized: authentication required"):
                await store.pull(f"{host}/busybox", RegistryAuth(username="ann", password="wrong"))
            assert store.progress == []
            image = await store.pull(f"{host}/busybox", RegistryAuth(username="ann", password="secret"))
            assert image.id == image_id(busybox_spec())

    with docker_registry(tmp_path / "registry", extra=extra) as host:
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{host}/busybox:latest", "--dest-creds=ann:secret")
        asyncio.run(run(host))


@pytest.mark.requires("registry", "skopeo")
def test_what_is_not_there_is_said_in_dockers_words(registry: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with store_in(tmp_path) as store:
            with pytest.raises(NotFound) as refusal:
                await store.pull(f"{registry}/nothing")
            assert (
                str(refusal.value)
                == f"manifest for {registry}/nothing:latest not found: manifest unknown: manifest unknown"
            )
            assert store.progress == []

    asyncio.run(run())


# --- scripted registries


def against(registry: ScriptedRegistry, root: Path, use: Any) -> None:
    async def run() -> None:
        async with registry.serving(), store_in(root) as store:
            await use(store, f"{registry.host}/x")

    asyncio.run(run())


def test_a_registry_without_time_is_waited_for_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ScriptedRegistry()
    spec = three_layers()
    registry.put_image(spec, "latest")
    large = max(registry.blobs, key=lambda digest: len(registry.blobs[digest]))
    waits: list[float] = []
    left = ["7", "1"]

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    async def behave(request: web.Request) -> web.Response | None:
        if request.path.endswith(large) and left:
            return error(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": left.pop(0)})
        return None

    async def use(store: Store, name: str) -> None:
        assert (await store.pull(name)).id == image_id(spec)
        verify(store, spec)
        told = [message["status"] for message in store.progress if message.get("id") == large[7:19]]
        assert [status for status in told if "Retry" in status] == ["Retrying in 7 seconds", "Retrying in 1 second"]

    monkeypatch.setattr(connection, "pause", pause)
    registry.behave = behave
    against(registry, tmp_path, use)
    assert waits == [7.0, 1.0]


def test_a_refusal_is_said_in_dockers_words(tmp_path: Path) -> None:
    registry = ScriptedRegistry()

    async def deny(request: web.Request) -> web.Response | None:
        return (
            error(403, "DENIED", "requested access to the resource is denied")
            if "/manifests/" in request.path
            else None
        )

    async def use(store: Store, name: str) -> None:
        with pytest.raises(NotFound) as refusal:
            await store.pull(name)
        assert str(refusal.value) == (
            f"pull access denied for {name}, repository does not exist or may require 'docker login': "
            "denied: requested access to the resource is denied"
        )

    registry.behave = deny
    against(registry, tmp_path, use)


def test_a_token_server_is_asked(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(), "latest")

    async def tokens(request: web.Request) -> web.Response | None:
        if request.path == "/token":
            return web.json_response({"token": "good"})
        if request.headers.get("Authorization") == "Bearer good":
            return None
        challenge = f'Bearer realm="http://{registry.host}/token",service="s"'
        return error(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})

    async def use(store: Store, name: str) -> None:
        assert (await store.pull(name)).id == image_id(three_layers())

    registry.behave = tokens
    against(registry, tmp_path, use)


def test_the_manifest_for_the_platform_is_taken_from_an_index(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    specs = {arch: ImageSpec(three_layers(n).layers, {}, arch) for n, arch in enumerate(("amd64", "arm64"))}
    entries = [
        registry.put_image(spec) | {"platform": {"os": "linux", "architecture": arch}} for arch, spec in specs.items()
    ]
    attestation = registry.put_manifest(b'{"schemaVersion": 2}') | {
        "platform": {"os": "unknown", "architecture": "unknown"}
    }
    index = registry.put_manifest(
        {"schemaVersion": 2, "manifests": [attestation, *entries]}, "latest", media_type=OCI_INDEX
    )

    async def use(store: Store, name: str) -> None:
        for platform, arch in (("linux/arm64/v8", "arm64"), ("linux/amd64", "amd64")):
            image = await store.pull(name, platform=platform)
            assert image.id == image_id(specs[arch])
            assert image.repo_digests == (f"{name}@{index['digest']}",)
        with pytest.raises(NotFound, match=r"no matching manifest for linux/s390x in the manifest list entries"):
            await store.pull(name, platform="linux/s390x")
        assert store.images.get(name).id == image_id(specs["amd64"])

    against(registry, tmp_path, use)


def test_an_image_for_another_platform_than_asked_for_is_refused(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(ImageSpec(three_layers().layers, {}, "s390x"), "latest")

    async def use(store: Store, name: str) -> None:
        with pytest.raises(
            NotFound, match="does not match the specified platform: wanted linux/amd64, actual: linux/s390x"
        ):
            await store.pull(name, platform="linux/amd64")
        assert (await store.pull(name)).platform.architecture == "s390x"

    against(registry, tmp_path, use)


def test_twenty_pulls_at_once_fetch_each_layer_once(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    shared = three_layers(size=3_000_000)
    registry.put_image(shared, "one")
    registry.put_image(ImageSpec((*shared.layers, layer([Entry("more")])), {}), "two")

    async def use(store: Store, name: str) -> None:
        images = await asyncio.gather(*(store.pull(f"{name}:{tag}") for tag in ("one", "two") * 10))
        assert {image.id for image in images} == {image.id for image in store.images.list()}
        assert len(store.images.snapshots.layers()) == 4

    against(registry, tmp_path, use)
    blobs = [path for _, path, _ in registry.requests if "/blobs/" in path]
    for digest in registry.blobs:
        config_or_layer = sum(path.endswith(digest) for path in blobs)
        assert config_or_layer == 1 or len(registry.blobs[digest]) < 1000  # configs are small and not shared


@pytest.mark.parametrize("limit", [3, 5])
def test_as_many_layers_are_downloaded_at_once_as_allowed_and_no_more(tmp_path: Path, limit: int) -> None:
    registry = ScriptedRegistry()
    registry.put_image(ImageSpec(tuple(layer([Entry(f"f{n}", bytes(1000))]) for n in range(8)), {}), "latest")
    running, most, arrived = 0, 0, asyncio.Event()

    async def count(request: web.Request) -> web.Response | None:
        nonlocal running, most
        if "/blobs/" in request.path:
            running += 1
            most = max(most, running)
            if most == limit:
                arrived.set()
            if len(registry.requests) > 4:  # not the config, which is fetched alone
                await arrived.wait()
            running -= 1
        return None

    async def use(store: Store, name: str) -> None:
        assert store.puller.slots.limit == 3
        store.puller.slots.limit = limit
        await store.pull(name)

    registry.behave = count
    against(registry, tmp_path, use)
    assert most == limit


def test_who_waits_for_anothers_download_does_it_itself_when_that_is_cancelled(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(), "latest")
    begun, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.Response | None:
        if "/blobs/" in request.path and sum("/blobs/" in path for _, path, _ in registry.requests) > 1:
            begun.set()
            await may_go_on.wait()
        return None

    async def use(store: Store, name: str) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(store.pull(name))
            await begun.wait()
            second = group.create_task(store.pull(name))
            first.cancel()
            may_go_on.set()
        assert (await second).id == image_id(three_layers())

    registry.behave = hold
    against(registry, tmp_path, use)


# --- what goes wrong leaves nothing


def corrupt_layer(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    """The registry gives other bytes, of the same length."""
    digest = next(d for d, data in registry.blobs.items() if data[:2] == b"\x1f\x8b" and len(data) > 100_000)
    registry.blobs[digest] = registry.blobs[digest][:-100] + bytes(100)


def wrong_diff_id(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    """The layer is what the manifest says, but not what the config says."""
    registry.manifests.clear()
    other = ImageSpec((*spec.layers[:2], layer([Entry("other")])), spec.config)
    config = registry.put_blob(image_config(spec)) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    layers = [
        registry.put_blob(gzip.compress(data)) | {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
        for data in other.layers
    ]
    registry.put_manifest({"schemaVersion": 2, "config": config, "layers": layers}, "latest")


def missing_layer(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    del registry.blobs[next(d for d, data in registry.blobs.items() if len(data) > 100_000)]


def hostile_layer(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    registry.manifests.clear()
    registry.put_image(ImageSpec((*spec.layers, layer([Entry("../../escaped", b"x")])), {}), "latest")


def too_few_layers(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    config = registry.put_blob(image_config(spec)) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    registry.put_manifest({"schemaVersion": 2, "config": config, "layers": []}, "latest")


def truncated_gzip(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    registry.manifests.clear()
    registry.put_image(spec, "latest", compress=lambda data: gzip.compress(data)[:-500])


def half_an_image(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    """One of the layers is no file system."""
    config = registry.put_blob(image_config(spec)) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    kinds = ("application/vnd.oci.image.layer.v1.tar", "text/plain")
    layers = [registry.put_blob(data) | {"mediaType": kind} for data, kind in zip(spec.layers, kinds, strict=False)]
    registry.put_manifest({"schemaVersion": 2, "config": config, "layers": layers}, "latest")


def damaged_artifact(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    config = registry.put_blob(b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"}
    layers = [registry.put_blob(data) | {"mediaType": "text/plain"} for data in (b"one", b"two")]
    registry.blobs[layers[1]["digest"]] = b"owt"
    registry.put_manifest({"schemaVersion": 2, "config": config, "layers": layers}, "latest")


def foreign_layer(registry: ScriptedRegistry, spec: ImageSpec) -> None:
    """CVE-2020-15157: a layer that lies elsewhere is not fetched from there; this registry does not have it."""
    config = registry.put_blob(image_config(spec)) | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    absent = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": "sha256:" + "1" * 64,
        "size": 100,
        "urls": [f"http://{registry.host}/elsewhere"],
    }
    registry.put_manifest({"schemaVersion": 2, "config": config, "layers": [absent] * 3}, "latest")


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (corrupt_layer, (DataLoss,)),
        (wrong_diff_id, (DataLoss,)),
        (missing_layer, (WherryError,)),
        (hostile_layer, (InvalidArgument,)),
        (too_few_layers, (InvalidArgument,)),
        (truncated_gzip, (DataLoss,)),
        (half_an_image, (InvalidArgument,)),
        (damaged_artifact, (DataLoss,)),
        (foreign_layer, (WherryError,)),
    ],
)
def test_a_pull_that_fails_leaves_the_store_as_it_was(
    damage: Any, kinds: tuple[type[Exception], ...], tmp_path: Path
) -> None:
    registry = ScriptedRegistry()
    spec = three_layers(size=2_000_000)
    registry.put_image(spec, "latest")

    async def use(store: Store, name: str) -> None:
        damage(registry, spec)
        with pytest.raises(kinds):
            await store.pull(name)
        assert store.images.list() == []
        assert leftovers(tmp_path) == []

    against(registry, tmp_path, use)
    assert not list(tmp_path.rglob("escaped"))
    assert not [path for _, path, _ in registry.requests if path == "/elsewhere"]


def test_a_pull_that_is_cancelled_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(size=5_000_000), "latest")
    begun = asyncio.Event()

    async def stall(request: web.Request) -> web.StreamResponse | None:
        blob = registry.blobs.get(request.path.rpartition("/")[2], b"")
        if len(blob) < 1_000_000:
            return None
        answer = web.StreamResponse()
        answer.content_length = len(blob)
        await answer.prepare(request)
        await answer.write(blob[:3_000_000])
        begun.set()
        await asyncio.Event().wait()
        return answer

    async def use(store: Store, name: str) -> None:
        async with asyncio.TaskGroup() as group:
            pull = group.create_task(store.pull(name))
            await begun.wait()
            pull.cancel()
        assert leftovers(tmp_path) == partials(tmp_path)
        registry.behave = None
        assert (await store.pull(name)).id == image_id(three_layers(size=5_000_000))

    registry.behave = stall
    against(registry, tmp_path, use)


@pytest.mark.parametrize("answer", ["the whole", "no such range", "what is left"])
def test_an_interrupted_pull_goes_on_whatever_the_registry_knows_of_ranges(answer: str, tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    spec = three_layers(size=3_000_000)
    registry.put_image(spec, "latest")
    digest, large = next(item for item in registry.blobs.items() if len(item[1]) > 1_000_000)
    asked: list[str] = []

    async def behave(request: web.Request) -> web.Response | None:
        if not request.path.endswith(digest):
            return None
        asked.append(request.headers.get("Range", ""))
        if not asked[-1] or answer == "what is left":
            return None
        return web.Response(body=large) if answer == "the whole" else web.Response(status=416)

    async def use(store: Store, name: str) -> None:
        with store.images.content.resume(Digest(digest)) as file:
            file.write(large[:2_000_000])
        assert (await store.pull(name)).id == image_id(spec)
        verify(store, spec)
        assert partials(tmp_path) == []

    registry.behave = behave
    against(registry, tmp_path, use)
    assert asked == ["bytes=2000000-", *([""] if answer == "no such range" else [])]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(size=20_000_000), "latest")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)

    async def use(store: Store, name: str) -> None:
        with pytest.raises((OSError, WherryError), match=r"(?i)no space left on device"):
            await store.pull(name)
        assert leftovers(disk) == []

    try:
        against(registry, disk, use)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


KILLED = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = {path!r}
from tests.root.test_pull import store_in
async def run():
    async with store_in(Path({root!r})) as store:
        print("ready", flush=True)
        await store.pull({name!r})
        print("done", flush=True)
        await asyncio.Event().wait()
asyncio.run(run())
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, "done"])
def test_kill_9_of_the_engine_leaves_the_old_or_the_new_state(step: int | str, tmp_path: Path) -> None:
    """The registry holds back its answer to request number `step`; then the engine is killed, and a new one looks at what there is."""
    registry = ScriptedRegistry()
    spec = three_layers(size=2_000_000)
    registry.put_image(spec, "latest")
    reached = asyncio.Event()

    async def hold(request: web.Request) -> web.Response | None:
        blobs = sum("/blobs/" in path or "/manifests/" in path for _, path, _ in registry.requests)
        if blobs == step:
            reached.set()
            await asyncio.Event().wait()
        return None

    async def run() -> None:
        async with registry.serving():
            registry.behave = hold
            code = KILLED.format(root=str(tmp_path), name=f"{registry.host}/x", path=[os.getcwd(), *sys.path])
            engine = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
            assert engine.stdout is not None
            assert await engine.stdout.readline() == b"ready\n"
            if step == "done":
                assert await engine.stdout.readline() == b"done\n"
            else:
                await reached.wait()
            engine.send_signal(signal.SIGKILL)
            await engine.wait()
            registry.behave = None
            async with store_in(tmp_path) as store:
                if step == "done":
                    assert store.images.get(f"{registry.host}/x").id == image_id(spec)
                else:
                    assert store.images.list() == []
                    assert leftovers(tmp_path) == partials(tmp_path)
                image = await store.pull(f"{registry.host}/x")
                assert image.id == image_id(spec)
                verify(store, spec)

    asyncio.run(run())


def verify(store: Store, spec: ImageSpec) -> None:
    """Every blob has the content that its name says, every file of every layer that of its tar."""
    for digest in store.images.content:
        data = Path(store.images.content.path(digest)).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    image = store.images.list()[0]
    big = next(
        Path(lower) / "big" for lower in store.images.snapshots.lower(image.top) if (Path(lower) / "big").is_file()
    )
    assert big.read_bytes() in spec.layers[1]


def test_at_start_what_nothing_refers_to_is_removed(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(), "latest")

    async def use(store: Store, name: str) -> None:
        image = await store.pull(name)
        await store.images.snapshots.prepare("kept", image.top)
        await store.images.snapshots.prepare("gone", image.top)

    against(registry, tmp_path, use)
    (tmp_path / "content/ingest/half").write_bytes(b"x")
    (tmp_path / "content/blobs/sha256" / ("0" * 64)).write_bytes(b"x")
    (tmp_path / "snapshots/layers/new-1/fs").mkdir(parents=True)
    (tmp_path / "snapshots/layers/99/fs").mkdir(parents=True)
    (tmp_path / "snapshots/trash/old/x").mkdir(parents=True)
    (tmp_path / "snapshots/active/half").mkdir()

    async def look() -> None:
        async with store_in(tmp_path) as store:
            assert sorted(os.listdir(tmp_path / "snapshots/layers")) == ["1", "2", "3"]
            assert os.listdir(tmp_path / "content/ingest") == os.listdir(tmp_path / "snapshots/trash") == []
            assert len(list(store.images.content)) == 5
            await store.images.snapshots.keep_only({"kept": None})
            assert os.listdir(tmp_path / "snapshots/active") == ["kept"]

    asyncio.run(look())


def test_a_layer_whose_files_are_gone_is_not_believed(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    registry.put_image(three_layers(), "latest")

    async def use(store: Store, name: str) -> None:
        await store.images.snapshots.prepare("c1", (await store.pull(name)).top)
        await store.images.snapshots.prepare("c2", None)

    async def again(store: Store, name: str) -> None:
        assert [image.damage.partition(" ")[0] for image in store.images.list()] == ["layer"]
        assert store.images.snapshots.mounts("c2").lower == [str(tmp_path / "snapshots/init/0")]
        with pytest.raises(NotFound, match="does not exist"):
            store.images.snapshots.mounts("c1")
        assert (tmp_path / "snapshots/active/c1/fs").exists()
        await store.pull(name)
        assert [image.damage for image in store.images.list()] == [""]

    against(registry, tmp_path, use)
    subprocess.run(["rm", "-r", str(tmp_path / "snapshots/layers/3")], check=True)
    against(registry, tmp_path, again)


def test_an_images_error_in_a_thread_is_no_secret(tmp_path: Path) -> None:
    """A store whose directory has gone says so, instead of waiting for ever."""
    registry = ScriptedRegistry()
    registry.put_image(three_layers(), "latest")

    async def use(store: Store, name: str) -> None:
        subprocess.run(["rm", "-r", str(tmp_path / "content/ingest")], check=True)
        with pytest.raises((OSError, Internal)):
            await store.pull(name)
        (tmp_path / "content/ingest").mkdir()

    with contextlib.suppress(Unavailable):
        against(registry, tmp_path, use)
