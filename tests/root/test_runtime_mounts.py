"""Mounts in a container: what they show, what they forbid, and what they leave on the host."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.runtime_lab import ID_MAP, NAMESPACES, Lab, bind, mount

from wherry.errors import StartError, SyscallError
from wherry.linux import mounts as linux_mounts
from wherry.linux import syscalls

USER_NAMESPACE = {
    "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")], "uidMappings": ID_MAP, "gidMappings": ID_MAP,
}  # fmt: skip


def give_to_mapped_root(lab: Lab) -> None:
    for directory, _, names in os.walk(lab.rootfs):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(name, 100000, 100000, follow_symlinks=False)


def test_a_bind_mount_shows_the_hosts_directory_both_ways(lab: Lab, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "in").write_text("from outside\n")
    result = lab.shell("cat /mnt/in; echo from inside > /mnt/out", mounts=[bind(data, "/mnt")])
    assert result.out == "from outside\n"
    assert (data / "out").read_text() == "from inside\n"


def test_a_file_can_be_bind_mounted_where_nothing_is(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 me\n")
    result = lab.shell("cat /etc/deep/hosts", mounts=[bind(tmp_path / "hosts", "/etc/deep/hosts")])
    assert result.out == "10.0.0.1 me\n"


def test_a_read_only_bind_mount_cannot_be_written_nor_made_writable(lab: Lab, tmp_path: Path) -> None:
    result = lab.shell("touch /mnt/x; mount -o remount,rw /mnt", mounts=[bind(tmp_path, "/mnt", "rbind", "ro")])
    assert "Read-only file system" in result.err
    assert result.status != 0


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A directory of the host with a mount below it, in a mount namespace of this test."""
    (tmp_path / "outer/inner").mkdir(parents=True)
    linux_mounts.attach_at(linux_mounts.Filesystem("tmpfs", [("mode", "0777")]).open(), str(tmp_path / "outer/inner"))
    yield tmp_path / "outer"
    linux_mounts.detach(str(tmp_path / "outer/inner"))


def test_read_only_is_for_the_top_mount_and_rro_for_all_below(lab: Lab, nested: Path) -> None:
    script = "touch /mnt/x; touch /mnt/inner/y && echo inner written"
    plain = lab.shell(script, mounts=[bind(nested, "/mnt", "rbind", "ro")])
    assert plain.err.count("Read-only") == 1
    assert plain.out == "inner written\n"
    recursive = lab.shell(script, mounts=[bind(nested, "/mnt", "rbind", "rro")])
    assert recursive.err.count("Read-only") == 2
    assert recursive.out == ""


def test_bind_without_recursion_leaves_out_what_is_mounted_below(lab: Lab, nested: Path) -> None:
    (nested / "inner/file").touch()
    assert lab.run("ls", "/mnt/inner", mounts=[bind(nested, "/mnt", "bind")]).out == ""
    assert lab.run("ls", "/mnt/inner", mounts=[bind(nested, "/mnt", "rbind")]).out == "file\n"


def test_mounts_made_in_a_container_stay_there(lab: Lab, tmp_path: Path) -> None:
    capabilities = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    script = "mkdir -p /mnt/sub && mount -t tmpfs x /mnt/sub && touch /mnt/sub/inside && ls /mnt/sub"
    result = lab.shell(script, mounts=[bind(tmp_path, "/mnt")], capabilities=capabilities)
    assert result.out == "inside\n", result.err
    assert os.listdir(tmp_path / "sub") == []


def test_shared_propagation_reaches_the_host_when_asked_for(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    base = str(tmp_path / "shared")
    linux_mounts.attach_at(linux_mounts.Filesystem("tmpfs", []).open(), base)
    try:
        linux_mounts.set_propagation(base, linux_mounts.SHARED, recursive=False)
        capabilities = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
        script = "mkdir /mnt/sub && mount -t tmpfs x /mnt/sub && touch /mnt/sub/seen"
        assert lab.shell(script, mounts=[bind(base, "/mnt", "rbind", "rshared")], capabilities=capabilities).status == 0
        assert os.listdir(f"{base}/sub") == ["seen"]
        linux_mounts.detach(f"{base}/sub")
    finally:
        linux_mounts.detach(base)


def test_a_tmpfs_has_its_options_and_size(lab: Lab) -> None:
    script = (
        "dd if=/dev/zero of=/t/big bs=1k count=2000 2>&1 | tail -1; stat -c %a /t; grep ' /t ' /proc/self/mountinfo"
    )
    result = lab.shell(script, mounts=[mount("/t", "tmpfs", "size=1m", "mode=700", "noexec", "nosuid", "nodev")])
    assert "700" in result.lines
    assert "nosuid,nodev,noexec" in result.out
    assert "size=1024k" in result.out


def test_a_tmpfs_takes_the_mode_of_the_directory_it_covers(lab: Lab) -> None:
    (lab.rootfs / "covered").mkdir()
    (lab.rootfs / "covered").chmod(0o1750)
    assert lab.run("stat", "-c", "%a", "/covered", mounts=[mount("/covered", "tmpfs")]).out == "1750\n"


def test_tmpcopyup_starts_with_the_images_content(lab: Lab) -> None:
    there = lab.rootfs / "srv"
    (there / "sub").mkdir(parents=True)
    (there / "sub/file").write_text("from the image\n")
    (there / "sub/file").chmod(0o640)
    os.chown(there / "sub/file", 12, 34)
    (there / "link").symlink_to("sub/file")
    os.link(there / "sub/file", there / "twin")
    script = "cat /srv/link; stat -c '%a %u %g %h' /srv/sub/file; touch /srv/new && ls /srv"
    result = lab.shell(script, mounts=[mount("/srv", "tmpfs", "tmpcopyup")])
    assert result.lines == ["from the image", "640 12 34 2", "link", "new", "sub", "twin"]
    assert not (there / "new").exists()


def test_an_unknown_option_is_refused_by_name(lab: Lab) -> None:
    with pytest.raises(
        StartError, match=r'error mounting "tmpfs" to rootfs at "/t".*Unknown parameter .nonsense'
    ) as caught:
        lab.run("true", mounts=[mount("/t", "tmpfs", "nonsense=1")])
    assert caught.value.step == "mounts"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["bind", "size=1m"], "bind mounts cannot have any filesystem-specific options applied: size"),
        (["bind", "sync"], "bind mounts cannot have any filesystem-specific options applied: sync"),
        (["bind", "tmpcopyup"], "tmpcopyup is for a tmpfs"),
        (["bind", "idmap"], "must have both uid and gid mappings"),
    ],
)
def test_an_option_that_a_bind_mount_could_not_have_is_refused(
    lab: Lab, tmp_path: Path, options: list[str], words: str
) -> None:
    with pytest.raises(StartError, match=words):
        lab.run("true", mounts=[bind(tmp_path, "/mnt", *options)])


def id_mapping(outside: int) -> list[dict[str, int]]:
    return [{"containerID": 0, "hostID": outside, "size": 1000}]


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with another one below it; a file of user 5, group 6 in each."""
    (tmp_path / "top").mkdir()
    with contextlib.ExitStack() as stack:
        for point in (tmp_path / "top", tmp_path / "top/sub"):
            point.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", point], check=True)
            stack.callback(subprocess.run, ["umount", point], check=True)
            (point / "file").touch()
            os.chown(point / "file", 5, 6)
            if point.name == "top":
                (point / "sub").mkdir()
        yield tmp_path / "top"


SHOW_OWNERS = "stat -c '%u %g' /mnt/file /mnt/sub/file; touch /mnt/new"


@pytest.mark.requires("idmap")
@pytest.mark.parametrize(
    ("options", "below"), [(["rbind"], "5 6"), (["rbind", "idmap"], "5 6"), (["rbind", "ridmap"], "105 206")]
)
def test_ids_are_mapped(lab: Lab, owned: Path, options: list[str], below: str) -> None:
    entry = {**bind(owned, "/mnt", *options), "uidMappings": id_mapping(100), "gidMappings": id_mapping(200)}
    result = lab.shell(SHOW_OWNERS, mounts=[entry], user={"uid": 107, "gid": 208}, capabilities={})
    assert result.lines == ["105 206", below]
    assert "Permission denied" in result.err  # the root directory is 100's
    os.chown(owned, 7, 8)
    assert lab.shell(SHOW_OWNERS, mounts=[entry], user={"uid": 107, "gid": 208}, capabilities={}).err == ""
    assert ((owned / "new").stat().st_uid, (owned / "new").stat().st_gid) == (7, 8)


@pytest.mark.requires("idmap", "userns")
@pytest.mark.parametrize("by_path", [False, True])
def test_an_id_map_without_mappings_is_the_containers(lab: Lab, owned: Path, by_path: bool) -> None:
    give_to_mapped_root(lab)
    linux = USER_NAMESPACE
    entry = bind(owned, "/mnt", "bind", "idmap")
    if not by_path:
        assert lab.shell("stat -c '%u %g' /mnt/file", mounts=[entry], linux=linux).out == "5 6\n"
        return
    with lab.start("sleep", "100", linux=linux) as box:
        user = {"type": "user", "path": f"/proc/{box.pid}/ns/user"}
        joined = {"namespaces": [*({"type": kind} for kind in NAMESPACES), user]}
        assert lab.shell("stat -c '%u %g' /mnt/file", mounts=[entry], linux=joined).out == "5 6\n"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("ro", "ro"), ("nosuid", "nosuid"), ("nodev", "nodev"), ("noexec", "noexec"), ("noatime", "noatime"),
        ("nodiratime", "nodiratime"), ("nosymfollow", "nosymfollow"), ("relatime", "relatime"),
    ],
)  # fmt: skip
def test_every_attribute_is_for_one_mount_or_for_all_below(lab: Lab, nested: Path, word: str, shown: str) -> None:
    script = "awk '$5 ~ /^.(mnt|rec|new)/ {print $5, $6}' /proc/self/mountinfo"
    result = lab.shell(
        script, mounts=[bind(nested, "/mnt", "rbind", word), bind(nested, "/rec", "rbind", f"r{word}"), mount("/new", "tmpfs", f"r{word}")]
    )  # fmt: skip
    has = {line.split()[0]: shown in line.split()[1].split(",") for line in result.lines}
    tops = {path: given for path, given in has.items() if path.count("/") == 1}
    assert tops == {"/mnt": True, "/rec": True, "/new": True}, result
    assert {given for path, given in has.items() if path.startswith("/rec/")} == {True}
    if shown != "relatime":  # which is the default
        assert {given for path, given in has.items() if path.startswith("/mnt/")} == {False}


def test_a_remount_changes_options_of_the_file_system(lab: Lab) -> None:
    result = lab.shell(
        "grep ' /t ' /proc/self/mountinfo",
        mounts=[mount("/t", "tmpfs", "size=64k"), mount("/t", "tmpfs", "remount", "size=128k", "noexec")],
    )
    assert "size=128k" in result.out
    assert "noexec" in result.out


def test_an_overlay_with_long_directories_is_mounted(lab: Lab, tmp_path: Path) -> None:
    layers = [tmp_path / f"{'layer' * 8}{number}" for number in range(6)]
    for layer in layers:
        layer.mkdir()
        (layer / layer.name[-1]).touch()
    (tmp_path / "upper").mkdir()
    (tmp_path / "work").mkdir()
    lower = ":".join(map(str, layers))
    assert len(lower) > 256
    options = [f"lowerdir={lower}", f"upperdir={tmp_path}/upper", f"workdir={tmp_path}/work", "nosuid"]
    script = "ls /mnt; touch /mnt/written; grep -c ' /mnt .*nosuid.* overlay' /proc/self/mountinfo"
    result = lab.shell(script, mounts=[mount("/mnt", "overlay", *options)])
    assert result.lines == ["0", "1", "2", "3", "4", "5", "1"], result.err
    assert (tmp_path / "upper/written").exists()


def test_a_label_for_mounts_needs_selinux(lab: Lab) -> None:
    with pytest.raises(StartError, match=r"linux\.mountLabel: selinux is disabled or not supported"):
        lab.run("true", linux={"mountLabel": "system_u:object_r:container_file_t:s0"})


@pytest.mark.parametrize("in_user_namespace", [False, True])
def test_without_pivot_root_a_container_sees_the_same(lab: Lab, in_user_namespace: bool) -> None:
    if in_user_namespace:
        give_to_mapped_root(lab)
    script = "ls /; ls /..; ls /proc/1/root/; readlink /proc/self/root; cut -d' ' -f5,6 /proc/self/mountinfo; ls /proc/kcore/.."
    config = lab.config("sh", "-c", script, linux=USER_NAMESPACE if in_user_namespace else None)
    with_pivot = lab.run_config(config)
    assert lab.run_config(config, pivot=False) == with_pivot
    assert "/" in with_pivot.lines
    with pytest.raises(StartError, match="not safe without pivot_root"):
        lab.run_config(lab.config("true", linux={"rootfsPropagation": "rprivate"}), pivot=False)


def test_a_missing_source_names_itself(lab: Lab) -> None:
    with pytest.raises(StartError, match=r'error mounting "/no/such" to rootfs at "/mnt".*no such file or directory'):
        lab.run("true", mounts=[bind("/no/such", "/mnt")])


def test_a_mount_on_a_file_where_a_directory_is_needed_fails(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="not a directory"):
        lab.run("true", mounts=[bind(tmp_path, "/etc/passwd")])


def test_an_existing_mount_can_be_made_read_only(lab: Lab) -> None:
    entry = {"destination": "/dev/shm", "options": ["remount", "ro"]}
    assert "Read-only" in lab.shell("touch /dev/shm/x", mounts=[entry]).err


def test_later_mounts_lie_on_earlier_ones(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("deep\n")
    result = lab.run("cat", "/a/b/x", mounts=[mount("/a", "tmpfs"), bind(tmp_path, "/a/b")])
    assert result.out == "deep\n"


def test_what_is_mounted_at_a_devices_place_is_there_instead(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")
    entries = [
        bind("/dev/urandom", "/dev/random"), bind(tmp_path / "file", "/dev/zero"), bind(tmp_path / "file", "/dev/stdout")
    ]  # fmt: skip
    result = lab.shell("stat -c '%F %t %T' /dev/random /dev/urandom; cat /dev/zero /dev/stdout", mounts=entries)
    assert result.out == "character special file 1 9\n" * 2 + "mine\n" * 2


def test_a_mount_that_a_later_one_hides_takes_no_devices_place(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = lab.shell("stat -c %t,%T /dev/zero", mounts=[bind(tmp_path / "file", "/dev/zero"), mount("/dev", "tmpfs")])
    assert result.out == "1,5\n"


def test_a_source_that_is_relative_counts_from_the_bundle(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/here").touch()
    result = lab.run_config(lab.config("ls", "/mnt", mounts=[bind("files", "/mnt")]), bundle=str(tmp_path))
    assert result.out == "here\n"


def test_prepare_rootfs_sees_the_bare_root(lab: Lab) -> None:
    def put(root: int) -> None:
        fd = os.open("put", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=root)
        os.write(fd, b"before the mounts\n")
        os.close(fd)

    assert lab.run_config(lab.config("cat", "/put"), prepare_rootfs=put).out == "before the mounts\n"


@pytest.mark.requires("overlay")
def test_an_overlay_of_128_layers_with_long_names(lab: Lab, tmp_path: Path) -> None:
    layers = []
    for number in range(128):
        layer = tmp_path / ("layers-with-quite-a-long-name-" + "x" * 60) / f"{number:064x}" / "fs"
        layer.mkdir(parents=True)
        (layer / f"file-{number}").touch()
        (layer / "top").write_text(f"{number}\n")
        layers.append(str(layer))
    for name in ("upper", "work", "target"):
        (tmp_path / name).mkdir()
    target = str(tmp_path / "target")
    linux_mounts.mount_overlay([*layers, str(lab.rootfs)], str(tmp_path / "upper"), str(tmp_path / "work"), target)
    try:
        config = lab.config("sh", "-c", "ls / | grep -c file-; cat /top; echo new > /written")
        from wherry.runtime import container

        made = lab.create(config)
        made.outputs.collect(made.process)
        lab.remove(made)
        outputs = type(made.outputs)()
        process = container.create(config, rootfs=target, stdio=outputs.stdio(), hold=False)  # type: ignore[arg-type]
        result = outputs.collect(process)
        process.cgroup.delete()
    finally:
        linux_mounts.detach(target)
    assert result.lines == ["128", "0"]
    assert (tmp_path / "upper/written").read_text() == "new\n"


@pytest.mark.requires("overlay")
def test_the_fallback_for_older_kernels_takes_128_layers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux_mounts, "_HAS_LOWERDIR_PLUS", False)
    layers = []
    for number in range(128):
        layer = tmp_path / f"layers/{number:064x}/fs"
        layer.mkdir(parents=True)
        (layer / f"file-{number}").touch()
        (layer / "top").write_text(str(number))
        layers.append(str(layer))
    for name in ("upper:odd,name", "work", "target"):
        (tmp_path / name).mkdir()
    here = os.getcwd()
    fd = linux_mounts.open_overlay(layers, str(tmp_path / "upper:odd,name"), str(tmp_path / "work"))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "the mount is in nobody's table"
    linux_mounts.attach_at(fd, str(tmp_path / "target"))
    os.close(fd)
    try:
        assert len(os.listdir(tmp_path / "target")) == 129
        assert (tmp_path / "target/top").read_text() == "0"
        (tmp_path / "target/new").touch()
    finally:
        linux_mounts.detach(str(tmp_path / "target"))
    assert os.listdir(tmp_path / "upper:odd,name") == ["new"]
    assert os.getcwd() == here
    with pytest.raises(SyscallError, match="lowerdir=/no/such"):
        linux_mounts.open_overlay([*layers, "/no/such"])


@pytest.mark.requires("overlay")
def test_the_kernels_own_words_are_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"overlay of 1 layers.*(no such file|No such file)"):
        linux_mounts.mount_overlay([str(tmp_path / "missing")], "", "", str(tmp_path))


def test_attributes_are_there_before_the_mount_can_be_reached(tmp_path: Path) -> None:
    fd = linux_mounts.clone_tree(str(tmp_path))
    linux_mounts.set_attributes(fd, linux_mounts.Attributes(linux_mounts.RDONLY))
    with pytest.raises(OSError, match="Read-only"):
        os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    os.close(fd)
    assert syscalls.filesystem_type(os.open(tmp_path, os.O_PATH)) > 0
