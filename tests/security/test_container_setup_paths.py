"""Attacks on the setting-up of a container by paths: symlinks in the image, and races against it, must not lead to the host.

Each test is named after the CVE whose attack it makes, and asserts that the attack has failed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.runtime_lab import MOUNTS, Lab, bind
from tests.security.swapping import swapping

from wherry.errors import FailedPrecondition, StartError, SyscallError
from wherry.linux import mounts, paths, procfs
from wherry.shim import copyup


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that no container was given. Every test ends with it empty."""
    made = tmp_path / "outside"
    made.mkdir()
    return made


def climbing(config: dict[str, Any]) -> dict[str, Any]:
    """With a hook that may look at it, the root is attached where it was: only then ".." could lead out of it."""
    return {**config, "hooks": {"createRuntime": [{"path": "/bin/true"}]}}


def up_to(path: Path) -> str:
    """A relative way to `path` that climbs far above any root first."""
    return "../" * 30 + str(path).lstrip("/")


@pytest.mark.parametrize("absolute", [True, False])
def test_cve_2019_18837_a_symlink_as_mount_target_stays_inside(
    lab: Lab, outside: Path, tmp_path: Path, absolute: bool
) -> None:
    (tmp_path / "volume").mkdir()
    (lab.rootfs / "data").symlink_to(outside if absolute else up_to(outside))
    script = "touch /data/new/file; grep -c /new /proc/self/mountinfo"
    config = lab.config("sh", "-c", script, mounts=[bind(tmp_path / "volume", "/data/new")])
    result = lab.run_config(config if absolute else climbing(config))
    assert result.out == "1\n", result.err
    assert os.listdir(outside) == []
    assert os.listdir(tmp_path / "volume") == ["file"]


def test_cve_2019_18837_a_symlink_to_what_the_host_has_is_a_path_inside(
    lab: Lab, outside: Path, tmp_path: Path
) -> None:
    """The host's directory exists, the container's of that name does not. Also by way of many links and with slashes at the end."""
    (outside / "new").mkdir()
    (tmp_path / "volume").mkdir()
    (lab.rootfs / "first").symlink_to("second/")
    (lab.rootfs / "second").symlink_to("bin/../third")
    (lab.rootfs / "third").symlink_to(f"{outside}//")
    for destination in ("/first/new", "/first/./new///", "/second/../first/new"):
        result = lab.shell(
            f"touch {destination}/file && grep -c /new /proc/self/mountinfo",
            mounts=[bind(tmp_path / "volume", destination)],
        )
        assert result.out == "1\n", (destination, result.err)
        (tmp_path / "volume/file").unlink()
    assert os.listdir(outside / "new") == []
    (outside / "new").rmdir()


@pytest.mark.parametrize("link", ["/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root"])
def test_cve_2019_18837_a_magic_link_on_the_way_is_refused(lab: Lab, tmp_path: Path, link: str) -> None:
    (tmp_path / "volume").mkdir()
    (lab.rootfs / "data").symlink_to(link)
    with pytest.raises(StartError, match=r"mounting .* at .*/data/tmp"):
        lab.run("true", mounts=[bind(tmp_path / "volume", "/data/tmp")])


def test_cve_2019_18837_a_dangling_symlink_is_made_inside(lab: Lab, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    (lab.rootfs / "etc/resolv.conf").symlink_to(f"{outside}/resolv.conf")
    assert lab.run("cat", "/etc/resolv.conf", mounts=[bind(tmp_path / "file", "/etc/resolv.conf")]).out == "content\n"
    assert os.listdir(outside) == []


@pytest.mark.parametrize("absolute", [True, False])
def test_cve_2026_55686_a_working_directory_below_a_symlink_is_made_inside(
    lab: Lab, outside: Path, absolute: bool
) -> None:
    (lab.rootfs / "work").symlink_to(outside if absolute else up_to(outside))
    config = lab.config("pwd", cwd="/work/new")
    assert lab.run_config(config if absolute else climbing(config)).out.endswith("/new\n")
    assert os.listdir(outside) == []


def test_cve_2026_55686_a_working_directory_that_only_the_host_has_is_made_inside(lab: Lab, outside: Path) -> None:
    (outside / "new").mkdir()
    (lab.rootfs / "work").symlink_to(outside)
    assert lab.shell("touch file; pwd", cwd="/work/new").out.endswith("/new\n")
    assert os.listdir(outside / "new") == []
    (outside / "new").rmdir()


@pytest.mark.parametrize("where", ["/proc", "/proc/self/attr", "/proc/sys/kernel", "/proc/../proc/self"])
def test_cve_2019_19921_and_2019_16884_nothing_of_the_images_choice_lies_on_proc(
    lab: Lab, tmp_path: Path, where: str
) -> None:
    """A volume over /proc would catch the label that is written there."""
    (tmp_path / "fake").mkdir()
    with pytest.raises(StartError, match="cannot be mounted because it is inside /proc"):
        lab.run("true", mounts=[bind(tmp_path / "fake", where)])


def test_cve_2019_16884_a_volume_at_proc_before_proc_does_not_shadow_it(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    config = lab.config("sh", "-c", "ls /proc | head -1; readlink /proc/self")
    config["mounts"] = [bind(tmp_path / "fake", "/proc"), *MOUNTS]
    assert lab.run_config(config).lines[0] == "1"


@pytest.mark.parametrize(("name", "kind"), [("proc", "proc"), ("sys", "sysfs")])
def test_cve_2023_27561_and_2023_28642_proc_or_sys_as_a_symlink_is_refused(lab: Lab, name: str, kind: str) -> None:
    (lab.rootfs / "elsewhere").mkdir()
    (lab.rootfs / name).symlink_to("/elsewhere")
    with pytest.raises(StartError, match=f'filesystem "{kind}" must be mounted on ordinary directory'):
        lab.run("true")
    assert os.listdir(lab.rootfs / "elsewhere") == []


def test_cve_2023_28642_a_symlink_above_proc_is_refused_too(lab: Lab) -> None:
    (lab.rootfs / "real").mkdir()
    (lab.rootfs / "chroot").symlink_to("real")
    with pytest.raises(StartError, match="ordinary directory"):
        lab.run("true", mounts=[{"destination": "/chroot/proc", "type": "proc", "source": "proc"}])


def test_cve_2021_30465_a_mount_target_swapped_for_a_symlink_meanwhile(lab: Lab, outside: Path, tmp_path: Path) -> None:
    """One volume holds the mount points of others; somebody exchanges directory and symlink while containers start.

    A mount that came to lie on the host's directory is not in the container's mount table.
    """
    shared, volume = tmp_path / "shared", tmp_path / "attached"
    volume.mkdir()
    names = [f"sub{number}" for number in range(40)]
    for place in (shared / "target", outside, lab.rootfs / str(outside).lstrip("/")):
        for name in names:
            (place / name).mkdir(parents=True)
    (shared / "link").symlink_to(outside)
    attached = [bind(volume, f"/shared/target/{name}") for name in names]
    with swapping(shared / "target", shared / "link"):
        for _ in range(6):
            found = lab.run(
                "grep", "-c", "/attached /", "/proc/self/mountinfo", mounts=[bind(shared, "/shared"), *attached]
            )
            assert found.out == f"{len(names)}\n"


def test_cve_2024_45310_a_race_in_a_shared_volume_makes_no_file_on_the_host(
    lab: Lab, outside: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    (shared / "a").mkdir(parents=True)
    (shared / "link").symlink_to(outside)
    (tmp_path / "file").touch()
    with swapping(shared / "a", shared / "link"):
        for number in range(25):
            try:
                lab.run(
                    "true", mounts=[bind(shared, "/shared"), bind(tmp_path / "file", f"/shared/a/dir{number}/file")]
                )
            except StartError:
                continue
    assert os.listdir(outside) == []


def test_cve_2024_45310_what_was_looked_at_is_what_is_used(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares the volume puts a symlink in the place of a directory right after it was seen to be one: the race, won."""
    shared, read_link = tmp_path / "shared", paths._read_link
    (shared / "a").mkdir(parents=True)

    def look(fd: int) -> bytes | None:
        found = read_link(fd)
        if not (shared / "a").is_symlink():
            (shared / "a").rename(shared / "b")
            (shared / "a").symlink_to(outside)
        return found

    monkeypatch.setattr(paths, "_read_link", look)
    root = os.open(shared, os.O_PATH)
    try:
        os.close(paths.make_directory(root, "a/new"))
    finally:
        os.close(root)
    assert os.listdir(outside) == [] and os.listdir(shared / "b") == ["new"]


def hostile_dev(tmp_path: Path, **links: str) -> Path:
    """A /dev of the image's own, with links where devices should be."""
    dev = tmp_path / "dev"
    (dev / "pts").mkdir(parents=True)
    for name, target in links.items():
        (dev / name).symlink_to(target)
    return dev


def test_cve_2025_31133_dev_null_as_a_symlink_does_not_unmask(lab: Lab, tmp_path: Path) -> None:
    dev = hostile_dev(tmp_path, null="/proc/sys/kernel/core_pattern")
    config = lab.config("sh", "-c", "stat -c '%F %t,%T' /proc/keys /proc/timer_list; wc -c < /proc/keys")
    config["mounts"] = [entry for entry in MOUNTS if entry["destination"] in ("/proc", "/sys")] + [bind(dev, "/dev")]
    result = lab.run_config(config)
    assert result.lines == ["character special file 1,3", "character special file 1,3", "0"]


@pytest.mark.parametrize("target", ["/proc/sysrq-trigger", "/etc/passwd", "/missing"])
def test_cve_2025_52565_dev_console_as_a_symlink_is_refused(lab: Lab, tmp_path: Path, target: str) -> None:
    dev = hostile_dev(tmp_path, console=target)
    config = lab.config("true", terminal=True)
    config["mounts"] = [entry for entry in MOUNTS if entry["destination"] in ("/proc", "/sys")] + [
        bind(dev, "/dev"),
        MOUNTS[2],
    ]
    with pytest.raises(StartError, match="/dev/console"):
        lab.run_config(config)


@pytest.mark.parametrize("number", [(1, 5), (5, 2)])
def test_cve_2025_52565_the_terminal_comes_from_a_devpts_only(
    lab: Lab, tmp_path: Path, number: tuple[int, int]
) -> None:
    """A multiplexer's node outside of a devpts takes its terminals from the devpts at "pts" beside it: whosever that may be."""
    dev = hostile_dev(tmp_path)
    (dev / "pts/pts").mkdir()
    os.mknod(dev / "pts/ptmx", 0o20666, os.makedev(*number))
    config = lab.config("true", terminal=True)
    config["mounts"] = [entry for entry in MOUNTS if entry["destination"] in ("/proc", "/sys")] + [
        bind(dev, "/dev"),
        {**MOUNTS[2], "destination": "/dev/pts/pts"},
    ]
    with pytest.raises(StartError, match="not the multiplexer"):
        lab.run_config(config)


def test_cve_2025_52565_the_terminal_comes_from_no_other_devpts(lab: Lab, tmp_path: Path) -> None:
    """/dev/pts leads to a devpts elsewhere, which could be another container's."""
    dev = hostile_dev(tmp_path)
    (dev / "pts").rmdir()
    (dev / "pts").symlink_to("/elsewhere")
    config = lab.config("true", terminal=True)
    config["mounts"] = [entry for entry in MOUNTS if entry["destination"] in ("/proc", "/sys")] + [
        bind(dev, "/dev"),
        {**MOUNTS[2], "destination": "/elsewhere"},
    ]
    with pytest.raises(StartError, match="/dev/pts"):
        lab.run_config(config)


def test_cve_2025_52565_an_exec_takes_no_terminal_from_a_replaced_ptmx(lab: Lab) -> None:
    capabilities = {kind: ["CAP_SYS_ADMIN", "CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}
    with lab.start("sleep", "100", capabilities=capabilities) as box:
        assert box.exec("sh", "-c", "mount --bind /dev/zero /dev/pts/ptmx").status == 0
        with pytest.raises(StartError, match="not the multiplexer"):
            box.exec("true", terminal=True)


def racing(lab: Lab, config: dict[str, Any], script: str) -> None:
    """Has `script` run by the container's own shell, in its mount namespace, when everything is mounted and nothing final: the race, won.

    Its root is not the process's yet. Without the chroot the script would work on the host's files.
    """
    inside = f"chroot {lab.rootfs} /bin/sh -c '{script}'"
    enter = f"pid=$(grep -o '\"pid\": *[0-9]*' | grep -o '[0-9]*$'); exec nsenter -t $pid -m {inside}"
    config["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", enter], "env": [f"PATH={os.environ['PATH']}"]}]
    }


@pytest.mark.parametrize("over", ["/proc/sys/kernel/shm_rmid_forced", "/fake"])
def test_cve_2025_52881_a_sysctl_is_not_redirected(lab: Lab, over: str) -> None:
    """Somebody who shares the mounts covers the sysctl's file: with another file of procfs, or with one that takes any text."""
    (lab.rootfs / "fake").touch()
    config = lab.config("true", linux={"sysctl": {"kernel.domainname": "1"}})
    racing(lab, config, f"mount --bind {over} /proc/sys/kernel/domainname")
    with pytest.raises(StartError, match="cross-device link"):
        lab.run_config(config)
    assert (lab.rootfs / "fake").read_text() == ""


def test_cve_2025_52881_the_oom_score_is_not_redirected(lab: Lab) -> None:
    (lab.rootfs / "fake").touch()
    config = lab.config("true", oomScoreAdj=100)
    racing(lab, config, "for p in /proc/[0-9]*; do mount --bind /fake $p/oom_score_adj; done")
    with pytest.raises(StartError, match="cross-device link"):
        lab.run_config(config)
    assert (lab.rootfs / "fake").read_text() == ""


def test_cve_2025_31133_dev_null_swapped_after_it_was_made_does_not_unmask(lab: Lab) -> None:
    config = lab.config("sh", "-c", "stat -c '%F %t,%T' /proc/keys /proc/timer_list")
    racing(lab, config, "rm /dev/null; ln -s /proc/sys/kernel/core_pattern /dev/null")
    assert lab.run_config(config).lines == ["character special file 1,3"] * 2


def test_cve_2025_52881_writes_go_to_no_other_file_that_lies_over_a_procfs_entry(tmp_path: Path) -> None:
    """A label or a sysctl is written only on the very mount that was verified."""
    (tmp_path / "fake").write_text("")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            from wherry.linux import namespaces, syscalls

            syscalls.unshare(namespaces.NEWNS, "test")
            mounts.set_propagation("/", mounts.PRIVATE)
            verified = procfs.Procfs.of_this_machine()
            mounts.attach_at(mounts.clone_tree(str(tmp_path / "fake")), "/proc/sys/kernel/domainname")
            try:
                verified.write("sys/kernel/domainname", "x")
            except SyscallError as error:
                status = 0 if error.errno == 18 else 2  # EXDEV
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "fake").read_text() == ""


def test_cve_2025_52881_a_directory_that_looks_like_proc_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "self/attr").mkdir(parents=True)
    for directory in (str(tmp_path), "/proc/self", "/sys"):
        with pytest.raises(FailedPrecondition, match="not the root of a proc file system"):
            procfs.Procfs(os.open(directory, os.O_PATH))


def test_cve_2025_52881_a_magic_link_is_not_followed() -> None:
    verified = procfs.Procfs.of_this_machine()
    with pytest.raises(SyscallError):
        verified.write("self/cwd/x", "x")
    with pytest.raises(SyscallError):
        verified.open("self/root/etc/passwd", os.O_RDONLY)
    with pytest.raises(SyscallError):
        verified.open("../etc/passwd", os.O_RDONLY)
    verified.close()


@pytest.mark.parametrize("absolute", [True, False])
def test_cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host(
    lab: Lab, outside: Path, absolute: bool
) -> None:
    (lab.rootfs / "dev").symlink_to(outside if absolute else up_to(outside))
    config = lab.config("true")
    config["mounts"] = [entry for entry in MOUNTS if not entry["destination"].startswith("/dev")]
    config["linux"]["devices"] = [{"path": "/dev/deep/node", "type": "c", "major": 1, "minor": 3}]
    assert lab.run_config(config if absolute else climbing(config)).status == 0
    assert os.listdir(outside) == []


def test_cve_2026_41579_a_device_path_with_dots_stays_inside(lab: Lab, outside: Path) -> None:
    """By themselves, where the root is not on the process's own "/", and to a symlink."""
    (lab.rootfs / "link").symlink_to(outside)
    for path in (f"/dev/{up_to(outside)}/node", "/dev/../../link/deep/node"):
        config = lab.config("true", linux={"devices": [{"path": path, "type": "c", "major": 1, "minor": 3}]})
        assert lab.run_config(config).status == lab.run_config(climbing(config)).status == 0
    assert os.listdir(outside) == []


def test_masked_and_read_only_paths_through_symlinks_are_paths_inside(lab: Lab, outside: Path) -> None:
    """Resolved by the host's rules a link would take the mask elsewhere, and leave bare what it is to cover."""
    inside = lab.rootfs / str(outside).lstrip("/")
    inside.mkdir(parents=True)
    for place in (inside, outside):
        (place / "secret").write_text("secret")
    (lab.rootfs / "link").symlink_to(outside)
    (lab.rootfs / "up").symlink_to(up_to(outside))
    for link in ("link", "up"):
        found = lab.shell(
            f"wc -c < {outside}/secret; touch {outside}/new || echo read-only",
            linux={"maskedPaths": [f"/{link}/secret"], "readonlyPaths": [f"/{link}"]},
        )
        assert found.out == "0\nread-only\n"
    (outside / "secret").unlink()


@pytest.mark.parametrize(
    ("step", "name"),
    [("mkdir", "directory"), ("mknod", "pipe"), ("chown", "pipe"), ("chown", "link"), ("open", "file")],
)
def test_cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, name: str
) -> None:
    """A container that has the volume puts a link in the place of what was made in it, right after a step: the race, won."""
    data, volume, host = tmp_path / "image/data", tmp_path / "volume", tmp_path / "host"
    (data / "directory").mkdir(parents=True)
    (data / "directory/inner").write_text("of the image")
    (data / "file").write_text("of the image")
    (data / "link").symlink_to("file")
    os.mkfifo(data / "pipe")
    (data / "pipe").chmod(0o6777)
    volume.mkdir()
    host.write_text("of the host")
    host.chmod(0o600)
    original = getattr(os, step)

    def and_then(what: Any, *rest: Any, **named: Any) -> Any:
        made = original(what, *rest, **named)
        if what == name and os.path.lexists(volume / name):
            (volume / name).rename(tmp_path / "taken")
            (volume / name).symlink_to(outside if name == "directory" else host)
            monkeypatch.undo()
        return made

    before = host.stat()
    monkeypatch.setattr(os, step, and_then)
    root = os.open(tmp_path / "image", os.O_PATH | os.O_DIRECTORY)
    try:
        copyup.fill_volumes(root, [{"source": str(volume), "destination": "/data"}], [])
    except StartError:
        pass
    finally:
        os.close(root)
    assert (volume / name).is_symlink()
    after = host.stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert os.listdir(outside) == [] and host.read_text() == "of the host"
