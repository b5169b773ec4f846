"""Bind mounts, volumes, tmpfs: -v, --mount, --volumes-from, docker volume."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd

SLEEP = (BUSYBOX, "sleep", "1000")


def test_a_bind_mount_goes_both_ways(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "from-host").write_text("hello")
    assert engine.shell("cat /data/from-host; echo back > /data/from-inside", f"-v={tmp_path}:/data") == "hello"
    assert (tmp_path / "from-inside").read_text() == "back\n"


@pytest.mark.parametrize("flag", ["-v={}:/data:ro", "--mount=type=bind,source={},target=/data,readonly"])
def test_a_read_only_bind_mount_cannot_be_written(engine: Engine, tmp_path: Path, flag: str) -> None:
    assert (
        engine.shell("touch /data/file 2>&1; true", flag.format(tmp_path)) == "touch: /data/file: Read-only file system"
    )


def test_a_file_can_be_bound(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    assert engine.shell("cat /etc/motd", f"-v={tmp_path / 'file'}:/etc/motd") == "content"


def test_v_makes_a_missing_source_and_mount_refuses_it(engine: Engine, tmp_path: Path) -> None:
    engine.shell("touch /data/file", f"-v={tmp_path / 'new'}:/data")
    assert (tmp_path / "new" / "file").exists()
    done = engine.docker(
        "run", "--rm", f"--mount=type=bind,source={tmp_path / 'missing'},target=/data", BUSYBOX, "true", check=False
    )
    assert done.returncode == 125
    assert "bind source path does not exist" in done.stderr


def test_a_relative_target_is_refused(engine: Engine, tmp_path: Path) -> None:
    done = engine.docker("run", "--rm", f"-v={tmp_path}:data", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "mount path must be absolute" in done.stderr or "must be absolute" in done.stderr


def test_mounts_below_a_bind_come_along(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "sub"], check=True)
    try:
        (tmp_path / "sub" / "deep").touch()
        assert engine.shell("ls /data/sub", f"-v={tmp_path}:/data") == "deep"
        assert engine.shell("ls /data/sub", f"--mount=type=bind,source={tmp_path},target=/data,bind-nonrecursive") == ""
    finally:
        subprocess.run(["umount", tmp_path / "sub"], check=True)


def test_propagation_is_a_choice(engine: Engine, tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    subprocess.run(["mount", "--make-shared", tmp_path], check=True)
    try:
        assert "master:" in engine.shell("grep ' /data ' /proc/self/mountinfo", f"-v={tmp_path}:/data:rslave")
        assert "shared:" in engine.shell("grep ' /data ' /proc/self/mountinfo", f"-v={tmp_path}:/data:rshared")
        private = engine.shell("grep ' /data ' /proc/self/mountinfo", f"-v={tmp_path}:/data")
        assert "master:" not in private
        assert "shared:" not in private
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_named_volume_keeps_its_content(engine: Engine) -> None:
    engine.shell("echo kept > /data/file", "-v=named:/data")
    assert engine.shell("cat /data/file", "-v=named:/data") == "kept"
    assert engine.shell("cat /data/file", "--mount=type=volume,source=named,target=/data") == "kept"


def test_a_new_volume_gets_the_image_s_content_with_owner_and_mode(engine: Engine) -> None:
    script = "stat -c '%n %u:%g %a' /home /home/app; ls /home"
    assert engine.shell(script, "-v=homes:/home") == "/home 0:0 755\n/home/app 1000:1000 755\napp"
    assert engine.shell("ls /home", "-v=homes:/home", "--entrypoint=") == "app"
    assert engine.shell("ls /home", "--mount=type=volume,source=empty,target=/home,volume-nocopy") == ""


def test_a_volume_with_content_is_not_overwritten(engine: Engine) -> None:
    engine.shell("touch /data/mine", "-v=used:/data")
    assert engine.shell("ls /home", "-v=used:/home") == "mine"


def test_an_anonymous_volume_goes_with_its_container(engine: Engine) -> None:
    before = engine.objects()["volumes"]
    engine.docker("run", "--rm", "--network=none", "-v=/data", BUSYBOX, "touch", "/data/file")
    engine.docker("create", "--name=holder", "-v=/data", BUSYBOX, "true")
    held = engine.objects()["volumes"] - before
    assert len(held) == 1
    engine.docker("rm", "-v", "holder")
    assert engine.objects()["volumes"] == before


def test_rm_without_v_keeps_volumes(engine: Engine) -> None:
    before = engine.objects()["volumes"]
    engine.docker("create", "--name=holder", "-v=/data", BUSYBOX, "true")
    engine.docker("rm", "holder")
    assert len(engine.objects()["volumes"] - before) == 1


def test_the_image_s_volumes_are_made(engine: Engine, tmp_path: Path) -> None:
    spec = images.busybox_spec(Volumes={"/made": {}})
    engine.docker("load", "-i", images.write_docker_archive(str(tmp_path / "i.tar"), spec, "with-volume:1"))
    engine.docker("create", "--name=holder", "with-volume:1")
    mounts = engine.inspect("holder")["Mounts"]
    assert [(mount["Type"], mount["Destination"], mount["Driver"]) for mount in mounts] == [
        ("volume", "/made", "local")
    ]


def test_a_volume_in_use_is_not_removed(engine: Engine) -> None:
    engine.docker("create", "--name=holder", "-v=busy:/data", BUSYBOX, "true")
    done = engine.docker("volume", "rm", "busy", check=False)
    assert done.returncode == 1
    assert "volume is in use" in done.stderr
    engine.docker("rm", "holder")
    assert engine.output("volume", "rm", "busy") == "busy"


def test_volumes_are_listed_and_inspected(engine: Engine) -> None:
    engine.docker("volume", "create", "--label=a=b", "mine")
    engine.docker("volume", "create", "other")
    assert engine.output("volume", "ls", "-q", "--filter=label=a=b") == "mine"
    assert engine.output("volume", "ls", "-q", "--filter=name=oth") == "other"
    assert set(engine.output("volume", "ls", "-q", "--filter=dangling=true").split()) >= {"mine", "other"}
    shown = json.loads(engine.output("volume", "inspect", "mine"))[0]
    assert (shown["Driver"], shown["Labels"], shown["Scope"]) == ("local", {"a": "b"}, "local")
    assert os.path.isdir(shown["Mountpoint"])
    assert "no such volume" in engine.docker("volume", "inspect", "nothing", check=False).stderr.lower()


@differs_on_dockerd("its API has no way to prune named volumes alone")
def test_volume_prune_removes_the_unused(engine: Engine) -> None:
    engine.docker("volume", "create", "--label=mine", "loose")
    engine.docker("create", "--name=holder", "-v=held:/data", BUSYBOX, "true")
    engine.docker("volume", "prune", "-f", "-a", "--filter=label=mine")
    names = engine.objects()["volumes"]
    assert "held" in names
    assert "loose" not in names


def test_inspect_shows_the_mounts(engine: Engine, tmp_path: Path) -> None:
    engine.docker("create", "--name=shown", f"-v={tmp_path}:/bound:ro", "-v=vol:/data", "--tmpfs=/t", BUSYBOX, "true")
    mounts = {mount["Destination"]: mount for mount in engine.inspect("shown")["Mounts"]}
    assert (mounts["/bound"]["Type"], mounts["/bound"]["Source"], mounts["/bound"]["RW"]) == (
        "bind",
        str(tmp_path),
        False,
    )
    assert (mounts["/data"]["Type"], mounts["/data"]["Name"], mounts["/data"]["RW"]) == ("volume", "vol", True)


def test_the_same_target_twice_is_refused(engine: Engine, tmp_path: Path) -> None:
    done = engine.docker("create", f"-v={tmp_path}:/data", "-v=vol:/data", BUSYBOX, check=False)
    assert done.returncode == 1 or done.returncode == 125
    assert "Duplicate mount point: /data" in done.stderr


@pytest.fixture
def shared_directory(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs whose mounts propagate between peers."""
    directory = tmp_path / "shared"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", directory], check=True)
    subprocess.run(["mount", "--make-shared", directory], check=True)
    (directory / "sub").mkdir()
    yield directory
    subprocess.run(["umount", "-R", directory], check=True)


def test_mounts_travel_between_host_and_container_as_asked(engine: Engine, shared_directory: Path) -> None:
    for mode, name in (("rslave", "slave"), ("rprivate", "private")):
        engine.docker("run", "-d", f"--name={name}", "--network=none", f"-v={shared_directory}:/x:{mode}", *SLEEP)
    subprocess.run(["mount", "-t", "tmpfs", "none", shared_directory / "sub"], check=True)
    (shared_directory / "sub" / "later").touch()
    assert engine.output("exec", "slave", "ls", "/x/sub") == "later"
    assert engine.output("exec", "private", "ls", "/x/sub") == ""
    subprocess.run(["umount", shared_directory / "sub"], check=True)
    mount = "mount -t tmpfs none /x/sub && touch /x/sub/inside"
    engine.shell(mount, "--cap-add=SYS_ADMIN", f"-v={shared_directory}:/x:rslave")
    assert not (shared_directory / "sub" / "inside").exists()
    engine.shell(mount, "--cap-add=SYS_ADMIN", f"-v={shared_directory}:/x:rshared")
    assert (shared_directory / "sub" / "inside").exists()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("rshared", "a shared mount"), ("shared", "a shared mount"), ("slave", "a shared or slave mount")],
)
def test_a_mount_that_does_not_propagate_is_not_said_to(engine: Engine, tmp_path: Path, mode: str, kind: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        subprocess.run(["mount", "--make-private", tmp_path], check=True)
        done = engine.docker("run", "--rm", f"-v={tmp_path}:/x:{mode}", BUSYBOX, "true", check=False)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert done.returncode == 125
    assert f"path {tmp_path} is mounted on {tmp_path} but it is not {kind}" in done.stderr


@differs_on_dockerd("knows no subpath")
@pytest.mark.parametrize("runtime", ["", pytest.param("runc", marks=pytest.mark.requires("runc"))])
def test_a_part_of_a_volume_is_mounted_and_nothing_outside_of_it(engine: Engine, runtime: str) -> None:
    flags = [f"--runtime={runtime}"] if runtime else []
    script = "mkdir -p /v/a/b; echo deep > /v/a/b/file; ln -s / /v/root; ln -s ../../../../../../etc /v/out"
    engine.shell(script, "-v=parts:/v")
    mount = "--mount=type=volume,source=parts,target=/x,volume-subpath="
    assert engine.shell("ls /x; cat /x/file", mount + "a/b", *flags) == "file\ndeep"
    assert engine.shell("cat /x", mount + "a/b/file", *flags) == "deep"
    assert engine.shell("ls /x", mount + "root", *flags) == "a\nout\nroot"  # a link leads no further than the volume
    for bad, words in (
        ("../x", "subpath must be a relative path within the volume"),
        ("/a", "subpath must be a relative path within the volume"),
        ("out", "no such file or directory"),
        ("absent", "no such file or directory"),
    ):
        done = engine.docker("run", "--rm", *flags, mount + bad, BUSYBOX, "true", check=False)
        assert done.returncode in (125, 127)
        assert words in done.stderr


def test_a_volume_gets_what_its_first_mount_says(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flag = (
        "--mount=type=volume,source=said,target=/x,volume-label=a=b,volume-label=c,volume-driver=local,"
        f"volume-opt=type=none,volume-opt=o=bind,volume-opt=device={tmp_path}"
    )
    assert engine.shell("ls /x", flag) == "file"
    volume = json.loads(engine.output("volume", "inspect", "said"))[0]
    assert volume["Labels"] == {"a": "b", "c": ""}
    assert volume["Options"]["device"] == str(tmp_path)


def test_a_new_volume_over_etc_may_be_read_only(engine: Engine) -> None:
    script = "touch /etc/x 2>/dev/null || echo refused; grep -c localhost /etc/hosts; cat /etc/hostname"
    assert engine.shell(script, "--hostname=box", "-v=settings:/etc:ro") == "refused\n2\nbox"


@differs_on_dockerd("knows no bind-recursive")
def test_read_only_binds_are_so_as_deep_as_asked(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path / "sub"], check=True)
    script = "for d in /data /data/sub; do touch $d/x 2>/dev/null && echo writable || echo refused; done"
    try:
        for recursive, below in (("enabled", "refused"), ("writable", "writable"), ("readonly", "refused")):
            more = ",bind-propagation=rprivate" if recursive == "readonly" else ""
            flag = f"--mount=type=bind,source={tmp_path},target=/data,readonly,bind-recursive={recursive}{more}"
            assert engine.shell(script, flag).split() == ["refused", below], recursive
    finally:
        subprocess.run(["umount", tmp_path / "sub"], check=True)


def test_volumes_of_another_container_are_taken_over(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    flags = ["-v=/data", f"-v={tmp_path}:/host:ro", "--tmpfs=/scratch"]
    engine.docker("run", "--name=giver", "--network=none", *flags, BUSYBOX, "touch", "/data/given")
    (name,) = (mount["Name"] for mount in engine.inspect("giver")["Mounts"] if mount["Type"] == "volume")
    script = "ls /data /host; touch /data/more && echo written; touch /host/x 2>/dev/null || echo refused"
    script += "; test -e /scratch || echo none"
    printed = engine.shell(script, "--volumes-from=giver").split()
    assert printed == ["/data:", "given", "/host:", "file", "written", "refused", "none"]
    assert engine.shell("touch /data/x 2>/dev/null || echo refused", "--volumes-from=giver:ro") == "refused"
    assert engine.shell("ls /data", "--volumes-from=giver", f"-v={tmp_path}:/data") == "file"
    engine.docker("create", "--name=taker", "--volumes-from=giver", BUSYBOX, "true")
    assert engine.inspect("taker")["HostConfig"]["VolumesFrom"] == ["giver"]
    engine.docker("rm", "-v", "giver")
    assert engine.docker("volume", "inspect", name).returncode == 0  # the other container has it
    engine.docker("rm", "-v", "taker")
    assert engine.docker("volume", "inspect", name, check=False).returncode != 0
    done = engine.docker("create", "--volumes-from=nobody", BUSYBOX, "true", check=False)
    assert (done.returncode, "No such container: nobody" in done.stderr) == (1, True)
