"""Attacks by images, archives and registries: each test is named after the CVE whose way it tries, on wherry's own pull and unpack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import ssl
import stat
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.images import Entry, ImageSpec, image_config, layer
from tests.registry import OCI_INDEX, OCI_MANIFEST, ScriptedRegistry
from tests.root.test_pull import against, leftovers, store_in, three_layers
from tests.root.test_unpack import Tar, listing, unpack

from wherry.core.archive import Archives
from wherry.core.drivers.flat import Vfs
from wherry.core.layers import LayerWork
from wherry.core.unpackers import Unpackers
from wherry.distribution import connection
from wherry.distribution.hosts import RegistryHosts
from wherry.errors import InvalidArgument, Unavailable, WherryError
from wherry.spec.calls import RegistryAuth

pytestmark = pytest.mark.requires("root")


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    """A file of the host that an unpacked layer must not touch."""
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True)
    (outside / "secret").write_text("secret")
    (outside / "secret").chmod(0o600)
    return outside / "secret"


def test_cve_2021_32760_unpacking_does_not_change_the_mode_of_host_files(tmp_path: Path, host_file: Path) -> None:
    """A member with the name of a link that an earlier member made must replace the link, not what it leads to."""
    before = listing(host_file.parent)
    for second in (Tar().add("x", mode=0o4777, uid=1000), Tar().directory("x", mode=0o777), Tar().hard_link("x", "y")):
        first = Tar().symlink("x", str(host_file)).add("y").bytes().rstrip(b"\0")
        first += bytes(-len(first) % 512)
        unpack(first + second.bytes(), tmp_path / "layer")
        assert not (tmp_path / "layer/x").is_symlink()
        assert listing(host_file.parent) == before
        subprocess.run(["rm", "-r", str(tmp_path / "layer")], check=True)


def test_cve_2025_47290_a_directory_that_becomes_a_link_during_unpacking_leads_nowhere(
    tmp_path: Path, host_file: Path
) -> None:
    """Also for what is done at the end: times of directories, attributes of those that were not mentioned."""
    before = listing(host_file.parent)
    tar = (
        Tar()
        .directory("a", mtime=1)
        .directory("a/b", mode=0o777, uid=1000, mtime=1)
        .add("a/b/c")
        .symlink("a", str(host_file.parent))
    )
    unpack(tar.bytes(), tmp_path / "layer")
    assert listing(host_file.parent) == before
    with pytest.raises(InvalidArgument):
        unpack(
            Tar().directory("a").add("a/x").symlink("a", str(host_file.parent)).add("a/secret").bytes(),
            tmp_path / "layer",
        )
    assert listing(host_file.parent) == before


def test_cve_2018_15664_hard_links_do_not_reach_through_links(tmp_path: Path, host_file: Path) -> None:
    with pytest.raises(InvalidArgument):
        unpack(Tar().symlink("a", str(host_file.parent)).hard_link("h", "a/secret").bytes(), tmp_path / "layer")
    unpack(Tar().symlink("a", str(host_file)).hard_link("h", "a").bytes(), tmp_path / "layer2")
    assert (tmp_path / "layer2/h").is_symlink() and host_file.stat().st_nlink == 1


BEHIND: dict[str, Callable[[Tar], Tar]] = {
    "file": lambda tar: tar.add("a/secret", data=b"of the layer", mode=0o4777),
    "directory": lambda tar: tar.directory("a/new", mode=0o777).add("a/new/file"),
    "parent": lambda tar: tar.add("a/b/c/file"),
    "link": lambda tar: tar.symlink("a/new", "/x"),
    "pipe": lambda tar: tar.add("a/new", tarfile.FIFOTYPE),
    "hard link": lambda tar: tar.add("f").hard_link("a/new", "f"),
    "hard link of": lambda tar: tar.hard_link("mine", "a/secret"),
    "whiteout": lambda tar: tar.add("a/.wh.secret").add("a/.wh.new"),
    "opaque": lambda tar: tar.add("a/.wh..wh..opq"),
    "itself": lambda tar: tar.directory("a", mode=0o777, uid=1000, mtime=1),
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_cve_2026_17106_nothing_is_made_or_removed_behind_a_link(
    tmp_path: Path, host_file: Path, behind: Callable[[Tar], Tar]
) -> None:
    """Pulled, in the link's own layer and in one above it: directly, by a way up, and by two links. Unpacked as it is, and laid over (vfs)."""
    outside, root = str(host_file.parent), tmp_path / "store"
    root.mkdir()
    before = listing(host_file.parent)
    up = "../" * 30 + outside.lstrip("/")
    ways = [(("a", outside),), (("a", up),), (("l/up", up), ("a", "l/up")), (("a", f"/proc/self/root{outside}"),)]
    registry = ScriptedRegistry()
    for number, links in enumerate(ways):
        below = Tar()
        for name, target in links:
            below.symlink(name, target)
        registry.put_image(ImageSpec((below.bytes(), behind(Tar()).bytes()), {}), f"two{number}")
        one = Tar()
        for name, target in links:
            one.symlink(name, target)
        registry.put_image(ImageSpec((behind(one).bytes(),), {}), f"one{number}")

    async def use(store: Any, name: str) -> None:
        for number in range(len(ways)):
            with contextlib.suppress(InvalidArgument):  # the layer itself is refused, or all of it is inside
                await store.pull(f"{name}:one{number}")
            with contextlib.suppress(InvalidArgument):
                image = await store.pull(f"{name}:two{number}")
                Vfs().make_base(str(tmp_path / f"base{number}"), store.images.snapshots.lower(image.top))

    against(registry, root, use)
    assert listing(host_file.parent) == before
    assert host_file.stat().st_nlink == 1
    assert not [path for path in tmp_path.rglob("mine") if path.is_file() and path.read_text() == "secret"]


def test_devices_and_set_user_id_stay_in_a_directory_that_only_root_enters(tmp_path: Path) -> None:
    """CVE-2021-41091: what an image brings must not be reachable by other users of the host."""
    registry = ScriptedRegistry()
    registry.put_image(ImageSpec((layer([Entry("su", b"x", 0o4755)]),), {}), "latest")

    async def use(store: Any, name: str) -> None:
        await store.pull(name)

    against(registry, tmp_path, use)
    for place in ("snapshots", "snapshots/layers", "snapshots/layers/1", "snapshots/active", "content/blobs/sha256"):
        assert stat.S_IMODE((tmp_path / place).stat().st_mode) == 0o700


def test_cve_2021_41190_a_document_that_is_manifest_and_index_at_once_is_refused(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    image = registry.put_image(three_layers(), "good")
    document = json.loads(registry.manifests["good"][0])
    both = {**document, "manifests": [image | {"platform": {"os": "linux", "architecture": "amd64"}}]}
    for tag, media_type in (("m", OCI_MANIFEST), ("i", OCI_INDEX), ("n", "")):
        registry.put_manifest(both, tag, media_type=media_type or "application/json")
    registry.put_manifest(document, "lie", media_type=OCI_INDEX)

    async def use(store: Any, name: str) -> None:
        for tag in ("m", "i", "n", "lie"):
            with pytest.raises(InvalidArgument):
                await store.pull(f"{name}:{tag}")
        assert leftovers(tmp_path) == []

    against(registry, tmp_path, use)


def test_cve_2020_15157_credentials_are_not_sent_to_where_a_manifest_points(tmp_path: Path) -> None:
    registry, elsewhere = ScriptedRegistry(), ScriptedRegistry()
    auth = RegistryAuth(username="ann", password="secret")

    async def use(store: Any, name: str) -> None:
        async with elsewhere.serving():
            foreign = {
                "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "digest": "sha256:" + "1" * 64,
                "size": 10,
                "urls": [f"http://{elsewhere.host}/layer"],
            }
            config = registry.put_blob(image_config(three_layers())) | {
                "mediaType": "application/vnd.oci.image.config.v1+json"
            }
            registry.put_manifest({"schemaVersion": 2, "config": config, "layers": [foreign] * 3}, "latest")

            async def redirect(request: web.Request) -> web.Response | None:
                if request.path.endswith("1" * 64):
                    return web.Response(status=307, headers={"Location": f"http://{elsewhere.host}/v2/x/blobs/y"})
                if "Authorization" not in request.headers:
                    return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
                return None

            registry.behave = redirect
            with pytest.raises(WherryError):
                await store.pull(name, auth)
            assert elsewhere.requests and not any(header for _, _, header in elsewhere.requests)
            assert not any(path == "/layer" for _, path, _ in elsewhere.requests)

    against(registry, tmp_path, use)


@pytest.mark.parametrize(
    "digest", ["sha256:../../../other/blobs/x", "sha256:" + "0" * 63 + "/", "../../x", "sha256:", "x" * 71, None, 5]
)
def test_cve_2024_3727_a_digest_that_is_none_asks_the_registry_for_nothing(tmp_path: Path, digest: object) -> None:
    registry = ScriptedRegistry()
    described = {
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": 5,
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    registry.put_manifest({"schemaVersion": 2, "manifests": [described]}, "index", media_type=OCI_INDEX)
    registry.put_manifest({"schemaVersion": 2, "config": described, "layers": []}, "manifest")

    async def use(store: Any, name: str) -> None:
        for tag in ("index", "manifest"):
            with pytest.raises(InvalidArgument, match="digest is malformed"):
                await store.pull(f"{name}:{tag}")

    against(registry, tmp_path, use)
    assert {path.rpartition("/")[2] for _, path, _ in registry.requests} == {"", "index", "manifest"}


def peak_memory(code: str, data: bytes) -> int:
    """Bytes that a fresh interpreter needs at most to run `code` with that standard input."""
    # Not ru_maxrss, which remembers what the process was before it was this interpreter.
    script = f"import sys\n{code}\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=data,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return int(done.stdout) * 1024


READ_ALL = """
from wherry.core.tar import Reader
from wherry.core.compression import decompressed
from wherry.errors import WherryError
try:
    for entry in Reader(decompressed(sys.stdin.buffer)):
        pass
except WherryError:
    pass
"""


def old_gnu_header(continued: bool) -> bytes:
    """A sparse file in GNU tar's old format, with the flag that a block of further pieces follows."""
    info = tarfile.TarInfo("f")
    info.type = b"S"
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[482] = continued
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_cve_2026_32288_a_sparse_map_without_end_does_not_fill_the_memory() -> None:
    piece = (b"%011o\0" % 1) * 2
    more = (piece * 21).ljust(504, b"\0") + b"\1" + bytes(7)
    endless = old_gnu_header(True) + more * 200_000
    assert peak_memory(READ_ALL, endless) < 80 << 20


def test_cve_2026_32288_extension_headers_without_end_do_not_fill_the_memory() -> None:
    import gzip

    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = b"L", 8 << 30
    assert peak_memory(READ_ALL, gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(300 << 20), 1)) < 80 << 20


def test_cve_2023_25153_a_document_of_an_archive_is_not_read_whole_when_it_is_huge(tmp_path: Path) -> None:
    """The archive's index is bounded before it is read."""

    async def archive() -> AsyncIterator[bytes]:
        info = tarfile.TarInfo("index.json")
        info.size = 400 << 20
        yield info.tobuf()
        for _ in range(400):
            yield b" " * (1 << 20)
        yield bytes(1024)

    async def run() -> None:
        async with store_in(tmp_path) as store:
            unpackers = Unpackers()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            with pytest.raises(InvalidArgument, match="a document of"):
                await Archives(store.images, unpackers, LayerWork(store.images.snapshots)).load(
                    archive(), lambda _: None
                )
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
            assert leftovers(tmp_path) == []

    asyncio.run(run())


MALFORMED: dict[str, Any] = {
    "no config": {"schemaVersion": 2, "layers": []},
    "a config without a digest": {"schemaVersion": 2, "config": {}, "layers": []},
    "layers that are null": {"schemaVersion": 2, "config": None, "layers": None},
    "schema 1": {
        "schemaVersion": 1,
        "fsLayers": [{"blobSum": "sha256:" + "0" * 64}],
        "history": [{"v1Compatibility": "{}"}],
    },
    "a list": [],
    "deep nesting": b"[" * 200_000,
    "a huge number": b'{"schemaVersion": 2, "config": {"size": ' + b"9" * 100_000 + b"}}",
    "nothing": b"",
}


def test_cve_2021_21285_a_malformed_manifest_is_an_error_and_the_next_pull_works(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    for n, document in enumerate(MALFORMED.values()):
        registry.put_manifest(document, f"bad{n}")
    registry.put_image(three_layers(), "good")

    async def use(store: Any, name: str) -> None:
        for n in range(len(MALFORMED)):
            with pytest.raises(InvalidArgument):
                await store.pull(f"{name}:bad{n}")
        await store.pull(f"{name}:good")

    against(registry, tmp_path, use)


def test_cve_2021_20291_a_layer_that_is_no_archive_does_not_lock_the_next_pull_out(tmp_path: Path) -> None:
    """It is refused at its first bytes; the rest of it never comes, and nobody waits for that."""
    registry, end = ScriptedRegistry(), asyncio.Event()
    spec = ImageSpec(three_layers().layers[:1], {})
    registry.put_image(spec, "good")
    good = set(registry.blobs)
    registry.put_image(spec, "bad", compress=lambda data: b"\xfd7zXZ\0" + data + bytes(3 * connection.PIECE))

    async def trickle(request: web.Request) -> web.StreamResponse | None:
        digest = request.path.rpartition("/")[2]
        if digest not in registry.blobs or digest in good:
            return None
        answer = web.StreamResponse(headers={"Content-Length": str(len(registry.blobs[digest]))})
        await answer.prepare(request)
        await answer.write(registry.blobs[digest][: 2 * connection.PIECE])
        await end.wait()
        return answer

    registry.behave = trickle

    async def use(store: Any, name: str) -> None:
        try:
            for _ in range(3):
                with pytest.raises(WherryError):
                    await store.pull(f"{name}:bad")
            both = (store.pull(f"{name}:bad"), store.pull(f"{name}:good"))
            results = await asyncio.gather(*both, return_exceptions=True)
            assert isinstance(results[0], WherryError) and not isinstance(results[1], BaseException)
        finally:
            end.set()

    against(registry, tmp_path, use)


def test_cve_2026_53493_an_index_that_contains_itself_or_never_ends_is_given_up(tmp_path: Path) -> None:
    registry = ScriptedRegistry()
    platform = {"platform": {"os": "linux", "architecture": "amd64"}}
    entry = registry.put_image(three_layers()) | platform
    for depth in range(20):
        index = {"schemaVersion": 2, "manifests": [entry], "annotations": {"depth": str(depth)}}
        entry = registry.put_manifest(index, "deep", media_type=OCI_INDEX) | platform
    wide = {"schemaVersion": 2, "manifests": [{**entry, "platform": {"os": "linux", "architecture": "other"}}] * 5000}
    registry.put_manifest(wide, "wide", media_type=OCI_INDEX)

    async def use(store: Any, name: str) -> None:
        with pytest.raises(InvalidArgument, match="nested too deep"):
            await store.pull(f"{name}:deep", platform="linux/amd64")
        with pytest.raises(WherryError, match="no matching manifest"):
            await store.pull(f"{name}:wide", platform="linux/amd64")

    against(registry, tmp_path, use)
    assert len(registry.requests) < 12


def test_cve_2026_92542_what_a_name_resolves_to_does_not_switch_tls_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers 127.0.0.1 must not make a registry "local"."""

    def resolve(*_: object, **__: object) -> list[Any]:
        raise AssertionError("the decision asked a name server")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostbyname", resolve)
    for domain in ("localtest.me", "registry.example:5000", "127.0.0.1.nip.io", "localhost.example"):
        [endpoint] = RegistryHosts().endpoints(domain)
        assert endpoint.base == f"https://{domain}" and endpoint.tls is True


def test_cve_2024_40635_users_and_groups_beyond_32_bits_are_refused(tmp_path: Path) -> None:
    for field in ("uid", "gid"):
        for value in (2**32, 2**32 - 1, 2**63, -1):
            with pytest.raises(InvalidArgument):
                unpack(Tar().add("f", pax_headers={field: str(value)}).bytes(), tmp_path / f"layer-{field}-{value}")


def test_a_layer_of_very_many_members_costs_the_reader_no_memory_that_lasts() -> None:
    member = tarfile.TarInfo("f").tobuf()
    assert peak_memory(READ_ALL, member * 100_000) < peak_memory(READ_ALL, member * 10_000) + (8 << 20)


def test_cve_2026_92543_a_registry_that_fails_at_tls_is_not_asked_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not listed as insecure and leads here: to a certificate that nobody signed, and to a server without TLS at all."""
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=registry.example"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "certificate")]
    subprocess.run([*words, *files], check=True, capture_output=True)
    unsigned = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    unsigned.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    resolve = socket.getaddrinfo

    def answer(host: str | bytes | None, *rest: Any, **named: Any) -> list[Any]:
        return resolve("127.0.0.1" if host in ("registry.example", b"registry.example") else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr(connection, "FIRST_BACKOFF", 0.0)
    for number, tls in enumerate((unsigned, None)):
        registry = ScriptedRegistry(tls)
        registry.put_image(three_layers(), "latest")

        async def use(store: Any, _: str, registry: ScriptedRegistry = registry) -> None:
            with pytest.raises(Unavailable):
                await store.pull(f"registry.example:{registry.port}/x", RegistryAuth(username="ann", password="secret"))

        (tmp_path / f"store{number}").mkdir()
        against(registry, tmp_path / f"store{number}", use)
        assert registry.requests == []
        assert leftovers(tmp_path / f"store{number}") == []
        answers_by_address(registry, tmp_path / f"store{number}-insecure")


def answers_by_address(registry: ScriptedRegistry, root: Path) -> None:
    """By its address, which is insecure, the same registry answers: it was there to be asked."""
    root.mkdir()

    async def use(store: Any, name: str) -> None:
        await store.pull(name)

    against(registry, root, use)
    assert registry.requests
