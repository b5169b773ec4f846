"""Images: load, save's formats, import, tag, rmi, inspect, history, and pull from a real registry."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, free_port, wait_until
from tests.images import Entry

CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
log: {{level: error}}
{extra}
"""


@contextlib.contextmanager
def registry(root: Path, extra: str = "") -> Iterator[str]:
    """A docker-registry on loopback; → host:port."""
    port = free_port()
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yml").write_text(CONFIG.format(root=root / "data", port=port, extra=extra))
    with (
        open(root / "log", "wb") as log,
        subprocess.Popen(["docker-registry", "serve", root / "config.yml"], stdout=log, stderr=log) as process,
    ):
        try:
            wait_until("the registry listens", lambda: _listens(port))
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


def push(hub: str, spec: images.ImageSpec, name: str, directory: Path, *flags: str) -> str:
    """Push with skopeo; → the manifest's digest in the registry."""
    layout = directory / "layout"
    images.write_oci_layout(str(layout), spec)
    digest = directory / "digest"
    subprocess.run(
        [
            "skopeo",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            f"--digestfile={digest}",
            *flags,
            f"oci:{layout}:latest",
            f"docker://{hub}/{name}",
        ],
        check=True,
    )
    return digest.read_text().strip()


def small(content: str = "hello", **config: object) -> images.ImageSpec:
    """The test image and a layer with one file on it."""
    layers = (images.busybox_layer(), images.layer([Entry("message", content.encode())]))
    return images.ImageSpec(layers=layers, config={"Cmd": ["cat", "/message"], "Env": ["PATH=/bin"], **config})


# -- local --------------------------------------------------------------------------------------------------------------------------------


def test_load_says_what_it_loaded_and_runs(engine: Engine, tmp_path: Path) -> None:
    path = images.write_docker_archive(str(tmp_path / "i.tar"), small(), "loaded:1", "loaded:2")
    printed = engine.output("load", "-i", path)
    assert "Loaded image: loaded:1" in printed
    assert engine.output("run", "--rm", "--network=none", "loaded:2") == "hello"
    assert engine.inspect("loaded:1")["Id"] == images.image_id(small())


def test_load_from_stdin_and_gzip(engine: Engine, tmp_path: Path) -> None:
    images.write_docker_archive(str(tmp_path / "i.tar"), small(), "zipped:1")
    subprocess.run(["gzip", tmp_path / "i.tar"], check=True)
    with open(tmp_path / "i.tar.gz", "rb") as archive:
        done = subprocess.run(
            ["docker", "load"], stdin=archive, env=engine.client_environment, capture_output=True, text=True, check=True
        )
    assert "Loaded image: zipped:1" in done.stdout


@differs_on_dockerd("loads the docker format alone")
def test_load_of_an_oci_layout(engine: Engine, tmp_path: Path) -> None:
    images.write_oci_layout(str(tmp_path / "layout"), small(), "laid:1")
    with tarfile.open(tmp_path / "i.tar", "w") as archive:
        archive.add(tmp_path / "layout", arcname=".")
    printed = engine.output("load", "-i", str(tmp_path / "i.tar"))
    assert "Loaded image" in printed
    assert engine.inspect(images.image_id(small()))["Id"] == images.image_id(small())
    engine.docker("rmi", images.image_id(small()))


def test_import_makes_an_image_of_a_file_system(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(images.busybox_layer())
    ref = engine.output(
        "import",
        "-c",
        "ENV A=b",
        "-c",
        'CMD ["sh", "-c", "echo $A"]',
        "-m",
        "made here",
        str(tmp_path / "root.tar"),
        "imported:1",
    )
    assert engine.inspect("imported:1")["Id"] == ref
    assert engine.inspect("imported:1")["Comment"] == "made here"
    assert engine.output("run", "--rm", "--network=none", "-e", "PATH=/bin", "imported:1") == "b"


def test_tag_and_untag(engine: Engine) -> None:
    engine.docker("tag", BUSYBOX, "other/name:1.0")
    assert engine.inspect("other/name:1.0")["Id"] == engine.inspect(BUSYBOX)["Id"]
    assert engine.output("rmi", "other/name:1.0") == "Untagged: other/name:1.0"
    assert "No such image" in engine.docker("rmi", "other/name:1.0", check=False).stderr


@pytest.mark.parametrize("name", ["UPPER", "a:b:c", "name:" + "t" * 129, "a//b"])
def test_a_malformed_name_is_refused(engine: Engine, name: str) -> None:
    done = engine.docker("tag", BUSYBOX, name, check=False)
    assert done.returncode != 0
    assert "invalid" in done.stderr


def test_rmi_deletes_the_last_reference_s_layers(engine: Engine, tmp_path: Path) -> None:
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), small("unique"), "gone:1"))
    printed = engine.output("rmi", "gone:1")
    assert "Untagged: gone:1" in printed
    assert f"Deleted: {images.image_id(small('unique'))}" in printed


def test_an_image_in_use_is_not_removed(engine: Engine, tmp_path: Path) -> None:
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), small("used"), "used:1"))
    ref = engine.output("create", "--name=user", "used:1")
    done = engine.docker("rmi", "used:1", check=False)
    assert done.returncode == 1
    assert "conflict" in done.stderr
    assert ref[:12] in done.stderr
    engine.docker("rm", "user")
    engine.docker("rmi", "used:1")


def test_images_lists_filters_and_formats(engine: Engine, tmp_path: Path) -> None:
    engine.docker(
        "load",
        "-i",
        images.write_docker_archive(str(tmp_path / "i.tar"), small("x", Labels={"k": "v"}), "listed:1", "listed:2"),
    )

    def shown(*flags: str) -> set[str]:
        return set(engine.output("images", "--format={{.Repository}}:{{.Tag}}", *flags).split())

    assert {"listed:1", "listed:2", BUSYBOX} <= shown()
    assert shown("listed") == {"listed:1", "listed:2"}
    assert shown("--filter=label=k=v") == {"listed:1", "listed:2"}
    assert shown("--filter=reference=list*:2") == {"listed:2"}
    assert engine.output("images", "-q", "listed").split()[0] == images.image_id(small("x", Labels={"k": "v"}))[7:19]


def test_images_made_before_and_since_another(engine: Engine) -> None:
    for number in (1, 2, 3):
        container = engine.output("create", BUSYBOX)
        engine.docker("commit", container, f"made:{number}")

    def shown(*flags: str) -> set[str]:
        return set(engine.output("images", "--format={{.Repository}}:{{.Tag}}", *flags).split())

    made = {"made:1", "made:2", "made:3"}
    assert shown("--filter=before=made:2") & made == {"made:1"}
    assert shown("--filter=since=made:2") & made == {"made:3"}
    assert shown("--filter=since=made:1", "--filter=before=made:3") & made == {"made:2"}
    assert BUSYBOX in shown("--filter=before=made:1")


def test_inspect_and_history_show_the_image(engine: Engine, tmp_path: Path) -> None:
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), small("y"), "shown:1"))
    shown = engine.inspect("shown:1")
    assert shown["RepoTags"] == ["shown:1"]
    assert shown["Config"]["Cmd"] == ["cat", "/message"]
    assert len(shown["RootFS"]["Layers"]) == 2
    assert (shown["Architecture"], shown["Os"]) == (small().architecture, "linux")
    assert shown["Size"] > 1_000_000
    assert len(engine.output("history", "-q", "shown:1").split()) == 2


# -- what layers hold -----------------------------------------------------------------------------------------------------------------------


def loaded(engine: Engine, tmp_path: Path, *layers: Sequence[Entry]) -> None:
    spec = images.ImageSpec(
        layers=(images.busybox_layer(), *(images.layer(entries) for entries in layers)),
        config={"Cmd": ["sh"], "Env": ["PATH=/bin"]},
    )
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), spec, "layered:1"))


def test_whiteouts_and_opaque_directories_hide(engine: Engine, tmp_path: Path) -> None:
    below = [Entry("a/one", b"1"), Entry("a/two", b"2"), Entry("b/old", b"o"), Entry("c/kept", b"k")]
    above = [Entry("a/.wh.one"), Entry("b", mode=0o755, directory=True), Entry("b/.wh..wh..opq"), Entry("b/new", b"n")]
    loaded(engine, tmp_path, below, above)
    assert engine.shell("cd /; ls a b c", image="layered:1") == "a:\ntwo\n\nb:\nnew\n\nc:\nkept"


def test_hard_links_modes_and_owners_are_kept(engine: Engine, tmp_path: Path) -> None:
    entries = [
        Entry("bin/su2", b"#!/bin/sh\n", 0o4755),
        Entry("file", b"x", 0o640, 12, 34),
        Entry("link", mode=0o640, uid=12, gid=34, target="file", hard=True),
        Entry("soft", target="file"),
        Entry("long/" + "d" * 100 + "/" + "f" * 200, b"name"),
    ]
    loaded(engine, tmp_path, entries)
    script = (
        "stat -c '%a %u:%g %h' /bin/su2 /file /link; readlink /soft; cat /long/*/*; test /file -ef /link && echo same"
    )
    assert engine.shell(script, image="layered:1") == "4755 0:0 1\n640 12:34 2\n640 12:34 2\nfile\nnamesame"


def test_128_layers(engine: Engine, tmp_path: Path) -> None:
    loaded(
        engine, tmp_path, *([Entry(f"layer/{n}", str(n).encode()), Entry("top", str(n).encode())] for n in range(124))
    )
    assert engine.shell("ls /layer | wc -l; cat /top", image="layered:1") == "124\n123"


def test_a_layer_that_escapes_is_refused_and_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    before = engine.objects()["images"]
    for entries in (
        [Entry("../" * 20 + str(outside)[1:], b"x")],
        [Entry("door", target=str(tmp_path)), Entry("door/outside", b"x")],
        [Entry("stolen", target="../../../../../../etc/passwd", hard=True)],
    ):
        spec = images.ImageSpec(layers=(images.layer(entries),), config={})
        path = images.write_docker_archive(str(tmp_path / "i.tar"), spec, "evil:1")
        engine.docker("load", "-i", path, check=False)
        engine.docker("rmi", "-f", "evil:1", check=False)
        assert not outside.exists()
    assert engine.objects()["images"] == before


# -- from a registry ----------------------------------------------------------------------------------------------------------------------

needs_registry = pytest.mark.requires("registry", "skopeo")


@needs_registry
def test_pull_by_tag_and_by_digest(engine: Engine, hub: str, tmp_path: Path) -> None:
    digest = push(hub, small("pulled"), "pulled:1", tmp_path)
    printed = engine.output("pull", f"{hub}/pulled:1")
    assert f"Digest: {digest}" in printed
    assert f"Status: Downloaded newer image for {hub}/pulled:1" in printed
    assert engine.inspect(f"{hub}/pulled:1")["RepoDigests"] == [f"{hub}/pulled@{digest}"]
    assert engine.output("run", "--rm", "--network=none", f"{hub}/pulled:1") == "pulled"
    assert f"Status: Image is up to date for {hub}/pulled:1" in engine.output("pull", f"{hub}/pulled:1")
    engine.docker("rmi", f"{hub}/pulled:1")
    engine.docker("pull", f"{hub}/pulled@{digest}")
    assert engine.output("run", "--rm", "--network=none", f"{hub}/pulled@{digest}") == "pulled"
    engine.docker("rmi", f"{hub}/pulled@{digest}")


@needs_registry
def test_run_pulls_what_is_missing(engine: Engine, hub: str, tmp_path: Path) -> None:
    push(hub, small("on demand"), "demand:1", tmp_path)
    done = engine.docker("run", "--rm", "--network=none", f"{hub}/demand:1")
    assert done.stdout == "on demand"
    assert f"Unable to find image '{hub}/demand:1' locally" in done.stderr


@needs_registry
@pytest.mark.parametrize(
    "flags", [("--dest-compress-format=zstd",), ("--dest-compress-format=gzip",), ("--format=v2s2",)]
)
def test_pull_of_every_compression_and_format(engine: Engine, hub: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    if "zstd" in flags[0] and os.environ.get("WHERRY_E2E_PEER") == "dockerd":
        pytest.skip("peer: dockerd 20.10: knows no zstd layers")
    name = "formats:" + flags[0].rpartition("=")[2]
    push(hub, small(name), name, tmp_path, *flags)
    assert engine.docker("run", "--rm", "--network=none", f"{hub}/{name}").stdout == name


@needs_registry
def test_layers_that_are_there_are_not_pulled_again(engine: Engine, hub: str, tmp_path: Path) -> None:
    push(hub, small("one"), "sharing:1", tmp_path / "1")
    push(hub, small("two"), "sharing:2", tmp_path / "2")
    engine.docker("pull", f"{hub}/sharing:1")
    assert "Already exists" in engine.output("pull", f"{hub}/sharing:2")


@needs_registry
@pytest.mark.parametrize("name", ["pulled:no-such-tag", "no-such-repository:1"])
def test_pull_of_what_is_not_there(engine: Engine, hub: str, tmp_path: Path, name: str) -> None:
    push(hub, small("pulled"), "pulled:1", tmp_path)
    done = engine.docker("pull", f"{hub}/{name}", check=False)
    assert done.returncode == 1
    assert "not found" in done.stderr or "manifest unknown" in done.stderr


@needs_registry
def test_pull_with_a_name_and_password(engine: Engine, tmp_path: Path) -> None:
    pytest.importorskip("crypt")
    import crypt

    (tmp_path / "users").write_text(f"me:{crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH))}\n")
    extra = f"auth: {{htpasswd: {{realm: test, path: {tmp_path / 'users'}}}}}"
    with registry(tmp_path / "registry", extra) as hub:
        push(hub, small("private"), "private:1", tmp_path, "--dest-creds=me:secret")
        done = engine.docker("pull", f"{hub}/private:1", check=False)
        assert done.returncode == 1
        assert "no basic auth credentials" in done.stderr or "unauthorized" in done.stderr
        token = base64.b64encode(b"me:secret").decode()
        (tmp_path / "client").mkdir()
        (tmp_path / "client" / "config.json").write_text(json.dumps({"auths": {hub: {"auth": token}}}))
        engine.docker("--config", str(tmp_path / "client"), "pull", f"{hub}/private:1")


class Damaged(BaseHTTPRequestHandler):
    """A registry whose one image is damaged in the way that the test asks for; it serves an OCI layout."""

    layout: Path
    damage: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._send(200, b"{}", "application/json")
            return
        kind, _, ref = self.path.rpartition("/")
        index = json.loads((self.layout / "index.json").read_text())
        wanted = ref if ref.startswith("sha256:") else index["manifests"][0]["digest"]
        path = self.layout / "blobs" / "sha256" / wanted[7:]
        if not path.exists():
            self._send(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}', "application/json")
            return
        data = path.read_bytes()
        manifest = kind.endswith("/manifests")
        if manifest and self.damage == "manifest":
            data = data.replace(b'"schemaVersion": 2', b'"schemaVersion":  2')
        if not manifest and len(data) > 100_000:
            if self.damage == "layer":
                data = data[:50_000] + bytes(1000) + data[51_000:]
            if self.damage == "short":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:50_000])
                self.close_connection = True
                return
        self._send(
            200, data, "application/vnd.oci.image.manifest.v1+json" if manifest else "application/octet-stream", wanted
        )

    def _send(self, status: int, data: bytes, kind: str, digest: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.mark.parametrize("damage", ["manifest", "layer", "short"])
def test_a_damaged_image_is_refused_and_leaves_nothing(engine: Engine, tmp_path: Path, damage: str) -> None:
    noise = images.layer([Entry("noise", random.Random(damage).randbytes(300_000))])  # a layer that nobody has yet
    images.write_oci_layout(str(tmp_path), images.ImageSpec(layers=(noise,), config={}))
    handler = type("Handler", (Damaged,), {"layout": tmp_path, "damage": damage})
    before = engine.objects()["images"]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_port}/damaged"
        digest = json.loads((tmp_path / "index.json").read_text())["manifests"][0]["digest"]
        done = engine.docker("pull", f"{name}@{digest}", check=False)
        server.shutdown()
    assert done.returncode == 1
    assert engine.objects()["images"] == before

    assert engine.shell("echo fine") == "fine"
