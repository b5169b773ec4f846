"""Each storage driver below a whole engine: what it says of itself, and everything that reads or changes a container's file system."""

from __future__ import annotations

import contextlib
import io
import json
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.e2e.harness import BUSYBOX, Engine, nothing_left, running, wait_until

pytestmark = pytest.mark.requires("btrfs", "erofs", "fuse-overlayfs")

DRIVERS = ("btrfs", "erofs", "fuse-overlayfs", "vfs")


@contextlib.contextmanager
def file_system_for(driver: str, root: Path, scratch: Path) -> Iterator[None]:
    """The directory `root`, on a file system that suits the driver."""
    root.mkdir(mode=0o700)
    if driver != "btrfs":
        yield
        return
    image = scratch / "image"
    with image.open("wb") as created:
        created.truncate(256 << 20)
    subprocess.run(["mkfs.btrfs", "-q", image], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.fixture(params=DRIVERS)
def engine_on(request: pytest.FixtureRequest, tmp_path: Path, archive: str) -> Iterator[Engine]:
    """An engine with that driver."""
    root = Path(leaks.engine_roots() + secrets.token_hex(3))
    with file_system_for(request.param, root, tmp_path), nothing_left():
        engine = Engine(root, kind="wherryd", extra_arguments=[f"--storage-driver={request.param}"])
        with running(engine, archive):
            yield engine
    shutil.rmtree(root)


def test_a_container_lives_on_the_driver(engine_on: Engine) -> None:
    engine = engine_on
    [driver] = [word.partition("=")[2] for word in engine.extra_arguments]
    info = engine.api("GET", "/info")[1]
    assert (info["Driver"], isinstance(info["DriverStatus"], list)) == (driver, True)
    script = "echo hi > /a; ln /a /b; rm /etc/group; chmod 600 /etc/passwd; dd if=/dev/zero of=/big bs=1M count=2 2>/dev/null; cat"
    with engine.popen(
        "run", "-i", "--name=c1", "--network=none", BUSYBOX, "sh", "-c", script, stdin=subprocess.PIPE
    ) as client:
        client.communicate("done", timeout=300)
    shown = engine.inspect("c1")
    assert (shown["Driver"], shown["GraphDriver"]["Name"]) == (driver, driver)
    assert (shown["GraphDriver"]["Data"] is None) == (driver in ("vfs", "btrfs"))
    assert engine.inspect(BUSYBOX)["GraphDriver"]["Name"] == driver
    assert set(engine.output("diff", "c1").splitlines()) == {
        *("A /a", "A /b", "A /big", "C /etc", "D /etc/group", "C /etc/passwd"),
    }  # fmt: skip
    exported = subprocess.run(
        ["docker", "export", "c1"], env=engine.client_environment, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(exported.stdout)) as archive:
        assert {"a", "b", "big"} <= set(archive.getnames()) and "etc/group" not in archive.getnames()
    engine.docker("commit", "c1", "made:1")
    assert engine.shell("cat /b; ls /etc/group 2>&1; stat -c %a /etc/passwd", image="made:1").split("\n")[::2] == [
        "hi",
        "600",
    ]
    size = json.loads(
        engine.output("ps", "-a", "--size", "--format={{json .Size}}", "--filter=name=c1").splitlines()[0]
    )
    assert size.startswith("2.1MB")
    [used] = [item for item in engine.api("GET", "/system/df")[1]["Containers"] if item["Names"] == ["/c1"]]
    du = subprocess.run(
        ["du", "-sB1", engine.data_root / "snapshots/active" / used["Id"]], capture_output=True, check=True
    )
    assert 2 << 20 < used["SizeRw"] == int(du.stdout.split()[0])
    engine.docker("rm", "c1")
    engine.docker("rmi", "made:1")
    refused = engine.docker("run", "--rm", "--read-only", "--network=none", BUSYBOX, "touch", "/x", check=False)
    assert "Read-only file system" in refused.stderr

    refused_and_survived(engine)


def refused_and_survived(engine: Engine) -> None:
    """The engine is killed below a running container; another driver does not get its data root."""
    script = "test -e /a || echo 1 > /a; sleep 1000"  # once only: whoever reads it in a later life finds it whole
    engine.docker("run", "-d", "--name=c1", "--network=none", BUSYBOX, "sh", "-c", script)
    wait_until("it has written", lambda: engine.output("exec", "c1", "cat", "/a") == "1")
    engine.kill9()
    arguments = [
        f"--exec-root={engine.root / 'x'}",
        f"--pidfile={engine.root / 'x.pid'}",
        f"--host=unix://{engine.root}/x.sock",
    ]
    other = [engine._command()[0], f"--data-root={engine.data_root}", *arguments, "--storage-driver=overlay2"]
    done = subprocess.run(other, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done
    assert "graphdriver" in done.stdout + done.stderr
    engine.start()
    assert engine.output("exec", "c1", "cat", "/a") == "1"
    engine.docker("restart", "-t0", "c1")
    assert engine.output("exec", "c1", "cat", "/a") == "1"
    engine.docker("rm", "-f", "c1")
    left = [path.name for path in (engine.data_root / "snapshots/active").iterdir()]
    assert left == []
