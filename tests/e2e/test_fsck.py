"""`wherry system fsck`: each kind of damage is found in the store of a working engine, named, and mended where it can be."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd
from tests.images import Entry, ImageSpec, busybox_spec, layer, write_oci_layout
from tests.registry import skopeo_copy, wherry_registry

pytestmark = [pytest.mark.requires("registry", "skopeo"), differs_on_dockerd("has no such command")]

MakeEngine = Callable[..., Engine]
HTPASSWD = "ann:$2y$04$ZWQc3/1U04dSxqOY9snIKOHjCmh08HNS8GMhvdlRweEvC59F10h4C\n"  # "secret"
WHERRY = str(Path(sys.executable).parent / "wherry")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    data = layer([Entry("data", b"x" * 5000), Entry("more", b"y"), Entry("also", target="more", hard=True)])
    write_oci_layout(str(tmp_path / "layout"), ImageSpec((*busybox_spec().layers, data), {}))
    with wherry_registry(tmp_path / "registry") as served:
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{served.host}/app:1")
        yield served.host


@pytest.fixture
def engine(own_engine: MakeEngine, host: str) -> Engine:
    engine = own_engine()
    engine.docker("pull", "-q", f"{host}/app:1")
    return engine


def fsck(engine: Engine, *words: str, environment: dict[str, str] | None = None) -> tuple[int, list[dict[str, Any]]]:
    """→ exit status, problems."""
    command = [WHERRY, "-H", f"unix://{engine.socket_path}", "system", "fsck", "--format=json", *words]
    variables = {**engine.client_environment, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=variables)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def asked(engine: Engine, *, repair: bool = False) -> list[dict[str, Any]]:
    """Without the command line: → problems."""
    status, told = engine.api("POST", f"/wherry/fsck?repair={int(repair)}")
    assert status == 200, told
    lines = [json.loads(line) for line in told.splitlines()]
    assert "summary" in lines[-1], lines
    return [line["problem"] for line in lines if "problem" in line]


def top(engine: Engine) -> Path:
    """The directory of the layer that was recorded last."""
    return max((engine.data_root / "snapshots/layers").iterdir(), key=lambda path: int(path.name)) / "fs"


def layer_blob(engine: Engine, host: str) -> Path:
    """The small layer of the image `app`."""
    blobs = engine.data_root / "content/blobs/sha256"
    manifests = [json.loads(path.read_bytes()) for path in blobs.iterdir() if path.read_bytes()[:1] == b"{"]
    [digest] = [m["layers"][1]["digest"] for m in manifests if len(m.get("layers", ())) == 2]
    return blobs / digest.removeprefix("sha256:")


def test_each_damage_of_a_layer_is_found_and_mended(engine: Engine, host: str) -> None:
    assert fsck(engine) == (0, [])
    fs = top(engine)
    before = {path.name: path.lstat().st_mtime_ns for path in fs.iterdir()}
    damages: dict[str, Callable[[], object]] = {
        "data: has 0 bytes, not 5000": lambda: os.truncate(fs / "data", 0),
        "more: is missing": (fs / "more").unlink,
        "new: does not belong there": (fs / "new").touch,
        "data: has the mode 0600": lambda: (fs / "data").chmod(0o600),
        "data: belongs to 7:8": lambda: os.chown(fs / "data", 7, 8),
        "data: the attribute user.x is different": lambda: os.setxattr(fs / "data", "user.x", b"1"),
        "data: has another time": lambda: os.utime(fs / "data", (1, 1)),
        "data: has another content": lambda: _scribble(fs / "data"),
        "data: is a link": lambda: ((fs / "data").unlink(), (fs / "data").symlink_to("more")),
        "also: has 1 names, not 2": lambda: ((fs / "also").unlink(), _copy(fs / "more", fs / "also")),
    }
    for text, damage in damages.items():
        damage()
        code, problems = fsck(engine, "--repair")
        assert any(text in problem["Text"] for problem in problems), (text, problems)
        assert code == 0 and all(problem["State"] == "mended" for problem in problems), (text, problems)
    assert fsck(engine) == (0, [])
    assert {path.name: path.lstat().st_mtime_ns for path in top(engine).iterdir()} == before
    assert engine.shell("wc -c </data", image=f"{host}/app:1") == "5000"


def _scribble(path: Path) -> None:
    found = path.stat()
    path.write_bytes(b"z" * found.st_size)
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(source.stat().st_mtime_ns,) * 2)


def test_a_layer_that_a_container_runs_on_is_left_to_it(engine: Engine, host: str) -> None:
    engine.docker("run", "-d", "--name=box", "--network=none", f"{host}/app:1", "sh", "-c", "sleep 600")
    (top(engine) / "new").touch()
    code, problems = fsck(engine, "--repair")
    assert code == 1 and "box stands on it: stop it" in problems[0]["Text"]
    engine.docker("kill", "box")
    assert fsck(engine, "--repair")[0] == 0
    engine.docker("start", "box")
    assert engine.output("exec", "box", "wc", "-c", "/data") == "5000 /data"
    assert engine.docker("exec", "box", "ls", "/new", check=False).returncode == 1


def test_a_private_registry_is_asked_with_the_users_login(own_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    write_oci_layout(str(tmp_path / "layout"), busybox_spec())
    with wherry_registry(tmp_path / "registry", f"--htpasswd={tmp_path}/htpasswd") as served:
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{served.host}/app:1", "--dest-creds=ann:secret")
        engine = own_engine()
        engine.docker("login", "-u=ann", "--password-stdin", served.host, stdin="secret")
        engine.docker("pull", "-q", f"{served.host}/app:1")
        [blob] = [path for path in (tmp_path / "layout/blobs/sha256").iterdir() if path.stat().st_size > 10_000]
        (engine.data_root / "content/blobs/sha256" / blob.name).write_bytes(b"damaged")
        nobody = {"DOCKER_CONFIG": str(tmp_path / "nobody")}
        code, problems = fsck(engine, "--repair", environment=nobody)
        assert code == 1 and "no basic auth credentials" in problems[0]["Text"]
        code, problems = fsck(engine, "--repair")
        assert code == 0, problems
        assert fsck(engine) == (0, [])


def test_blobs_are_fetched_again(engine: Engine, host: str) -> None:
    blob = layer_blob(engine, host)
    right = blob.read_bytes()
    for damage in (lambda: blob.write_bytes(right[:-1]), blob.unlink):
        damage()
        code, problems = fsck(engine)
        assert code == 1 and problems[0]["Object"] == f"sha256:{blob.name}"
        (top(engine) / "new").touch()  # what was unpacked from it is broken too
        code, problems = fsck(engine, "--repair")
        assert (code, {problem["Kind"] for problem in problems}) == (0, {"blob", "layer"})
        assert blob.read_bytes() == right and fsck(engine) == (0, [])


def test_what_was_lost_while_no_engine_ran_is_mended(engine: Engine, host: str) -> None:
    name = f"{host}/app:1"
    engine.docker("create", "--name=box", "--network=none", name, "wc", "-c", "/data")
    blobs = engine.data_root / "content/blobs/sha256"
    shown = engine.inspect(name)
    config, manifest = (
        blobs / digest.removeprefix("sha256:") for digest in (shown["Id"], shown["Descriptor"]["digest"])
    )
    layer, blob = top(engine).parent, layer_blob(engine, host)
    losses: list[tuple[Callable[[], object], ...]] = [
        (lambda: config.write_bytes(b"{}"), lambda: blob.write_bytes(b"damaged")),
        (lambda: shutil.rmtree(layer),),
        (config.unlink, manifest.unlink, blob.unlink, lambda: shutil.rmtree(layer)),
    ]
    before = sorted(path.name for path in blobs.iterdir())
    for loss in losses:
        engine.kill9()
        for lose in loss:
            lose()
        engine.start()
        assert name in engine.output("images", "--format={{.Repository}}:{{.Tag}}").splitlines()
        found = asked(engine, repair=True)
        assert found and all(problem["Mended"] for problem in found), found
        assert asked(engine) == []
        assert engine.inspect(name) == shown and sorted(path.name for path in blobs.iterdir()) == before
        assert engine.output("start", "-a", "box") == "5000 /data"


def test_what_the_database_has_forgotten_is_mended(engine: Engine, host: str) -> None:
    name = f"{host}/app:1"
    engine.docker("create", "--name=box", "--network=none", name, "wc", "-c", "/data")
    engine.docker("tag", name, "mine:1")
    shown, own = engine.inspect(name), engine.inspect(BUSYBOX)
    assert asked(engine) == []
    for statement in (
        "delete from layers where parent is not null",  # the upper one, which a container stands on
        "delete from layers where parent is null",  # the lower one, which an image stands on that came from no registry
        "delete from layers",
        f"delete from images where id = '{shown['Id']}'",
    ):
        engine.kill9()
        with contextlib.closing(sqlite3.connect(engine.data_root / "wherry.db")) as database:
            database.execute("pragma foreign_keys = on")
            assert database.execute(statement).rowcount
            database.commit()
        engine.start()
        found = asked(engine, repair=True)
        assert found and all(problem["Mended"] for problem in found), found
        assert asked(engine) == []
        for image, before in ((name, shown), (BUSYBOX, own)):
            after = engine.inspect(image)
            assert [after[key] for key in ("Id", "RepoTags", "RepoDigests", "RootFS", "Size")] == [
                before[key] for key in ("Id", "RepoTags", "RepoDigests", "RootFS", "Size")
            ]
        assert engine.output("start", "-a", "box") == "5000 /data"


def test_a_name_of_what_its_registry_has_no_more_is_told(engine: Engine, host: str) -> None:
    engine.kill9()
    with contextlib.closing(sqlite3.connect(engine.data_root / "wherry.db")) as database:
        database.execute("insert into image_names values (?, ?)", (f"{host}/app:2", "sha256:" + "0" * 64))
        database.commit()
    engine.start()
    [problem] = asked(engine, repair=True)
    assert (problem["Object"], problem["Mended"]) == (f"{host}/app:2", False)
    assert problem["Text"].startswith("stands for nothing (")


@pytest.mark.requires("erofs")
def test_layers_that_are_erofs_images_are_compared_and_mended(own_engine: MakeEngine, host: str) -> None:
    name = f"{host}/app:1"
    engine = own_engine("--storage-driver=erofs")
    engine.docker("pull", "-q", name)
    engine.docker("create", "--name=box", "--network=none", name, "wc", "-c", "/data")
    assert asked(engine) == []
    fs = top(engine)
    before = sorted(path.name for path in fs.iterdir())
    right = (fs / "tar").read_bytes()
    damages: list[tuple[str, Callable[[], object]]] = [
        (
            "data: has another content",
            lambda: (fs / "tar").write_bytes(right.replace(b"x" * 5000, b"x" * 4999 + b"z")),
        ),
        ("cannot be read: ", lambda: os.truncate(fs / "image", 0)),
        ("cannot be read: ", (fs / "tar").unlink),
        ("cannot be read: ", lambda: shutil.rmtree(fs.parent)),
    ]
    for text, damage in damages:
        damage()
        found = asked(engine, repair=True)
        assert all(problem["Mended"] for problem in found), found
        assert any(text in problem["Text"] for problem in found), (text, found)
        assert asked(engine) == [] and sorted(path.name for path in fs.iterdir()) == before
        assert engine.output("start", "-a", "box") == "5000 /data"
    engine.kill9()
    shutil.rmtree(fs.parent)
    engine.start()
    assert all(problem["Mended"] for problem in asked(engine, repair=True)) and asked(engine) == []
    assert engine.output("start", "-a", "box") == "5000 /data"
    assert engine.shell("wc -c </data", image=name) == "5000"


def test_what_a_driver_made_of_a_broken_layer_is_made_anew(own_engine: MakeEngine, host: str) -> None:
    """vfs has copied the lowest layer into the tree that containers of the image begin with."""
    name = f"{host}/app:1"
    engine = own_engine("--storage-driver=vfs")
    engine.docker("pull", "-q", name)
    lowest = min((engine.data_root / "snapshots/layers").iterdir(), key=lambda path: int(path.name)) / "fs"
    (lowest / "etc/passwd").write_text("evil:x:0:0::/:/bin/sh\n")
    assert engine.shell("head -c4 /etc/passwd", image=name) == "evil"
    found = asked(engine, repair=True)
    assert found and all(problem["Mended"] for problem in found), found
    assert engine.shell("head -c4 /etc/passwd", image=name) == "root"


def test_a_damaged_image_is_pulled_again_by_who_runs_it(engine: Engine, host: str) -> None:
    name = f"{host}/app:1"
    config = engine.data_root / "content/blobs/sha256" / engine.inspect(name)["Id"].removeprefix("sha256:")
    engine.kill9()
    config.write_bytes(b"{}")
    engine.start()
    status, said = engine.api("POST", "/containers/create", {"Image": name})
    assert status == 404 and "is damaged: " in said["message"] and "wherry system fsck --repair" in said["message"]
    assert engine.shell("wc -c </data", image=name) == "5000"
    assert fsck(engine) == (0, [])


def test_what_cannot_be_fetched_is_named_and_kept(engine: Engine, host: str) -> None:
    config = Path(engine.data_root / "content/blobs/sha256" / engine.inspect(BUSYBOX)["Id"].removeprefix("sha256:"))
    right = config.read_bytes()
    config.write_bytes(b"{}")
    code, problems = fsck(engine, "--repair")
    assert code == 1 and any("came from no registry" in problem["Text"] for problem in problems)
    config.write_bytes(right)
    assert fsck(engine) == (0, [])


def test_what_nothing_refers_to_is_removed(engine: Engine) -> None:
    data = engine.data_root
    strays = [
        data / "content/blobs/sha256" / ("0" * 64),
        *(data / path for path in ("snapshots/layers/999", "snapshots/active/x")),
    ]
    strays[0].write_bytes(b"stray")
    for directory in strays[1:]:
        directory.mkdir()
    code, problems = fsck(engine)
    assert (code, len(problems)) == (1, 3) and all(stray.exists() for stray in strays)
    assert fsck(engine, "--repair")[0] == 0
    assert not any(stray.exists() for stray in strays) and fsck(engine) == (0, [])
