"""Attacks on and out of containers as the engine makes them: its defaults, and what an image may choose.

Each test is named after the CVE whose attack it makes, and asserts that the attack has failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import images
from tests.e2e.harness import Engine
from tests.images import Entry, ImageSpec

pytestmark = pytest.mark.requires("root", "overlay", "docker", "busybox")


HOSTS_PROGRAMS = tuple(f"--volume={path}:{path}:ro" for path in ("/usr", "/lib", "/lib64"))
"""Attackers bring better tools than busybox's."""


def load(engine: Engine, tmp_path: Path, *entries: Entry, **config: object) -> str:
    """An image of busybox with more files, or another configuration; its name."""
    base = images.busybox_spec(**config)
    layers = [*base.layers, images.layer(entries)] if entries else base.layers
    name = f"attack{os.urandom(4).hex()}:latest"
    path = images.write_docker_archive(str(tmp_path / "attack.tar"), ImageSpec(layers, base.config), name)
    engine.docker("load", "-i", path)
    return name


def test_cve_2020_15257_no_abstract_socket_of_ours_is_there_for_a_container_in_the_hosts_network(
    engine: Engine,
) -> None:
    engine.docker("run", "-d", "busybox", "sleep", "100")
    found = engine.output("run", "--rm", "--network=host", "busybox", "cat", "/proc/net/unix")
    names = [fields[7] for line in found.splitlines()[1:] if len(fields := line.split()) > 7]
    assert any(name == engine.socket_path for name in names)
    assert not [name for name in names if name.startswith("@") and ("wherry" in name or "containerd" in name)]


@pytest.mark.parametrize("flags", [(), ("--user=1000",), ("--cap-add=NET_ADMIN", "--cgroupns=host")])
def test_cve_2022_0492_release_agent_cannot_be_set(engine: Engine, flags: tuple[str, ...]) -> None:
    """Neither in the groups that the container sees, nor in a mount of its own, also by way of a user namespace."""
    mount = "mkdir -p /tmp/g; mount -t cgroup -o memory x /tmp/g || mount -t cgroup2 x /tmp/g"
    script = (
        "cd /sys/fs/cgroup; for f in $(find . -name release_agent -o -name notify_on_release -o -name cgroup.procs); do"
        " echo looked; echo 1 > $f && echo written to $f; done;"
        f"({mount}) && echo mounted; /usr/bin/unshare -UrmC sh -c '{mount}' && echo mounted in a user namespace; true"
    )
    assert set(engine.shell(script, *flags, *HOSTS_PROGRAMS, "--tmpfs=/tmp").splitlines()) == {"looked"}


CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.fixture
def core_pattern() -> Iterator[str]:
    """The machine's; it is put back when an attack succeeds."""
    before = CORE_PATTERN.read_text()
    yield before
    if CORE_PATTERN.read_text() != before:
        CORE_PATTERN.write_text(before)


@pytest.mark.parametrize("separator", ["+", "\n", " ", "\0"])
def test_cve_2022_0811_a_value_of_a_sysctl_is_a_value_only(engine: Engine, core_pattern: str, separator: str) -> None:
    """CRI-O handed all of them to a program, joined by "+": so one allowed name could bring others."""
    body = {
        "Image": "busybox",
        "Cmd": ["cat", "/proc/sys/kernel/shm_rmid_forced"],
        "HostConfig": {"Sysctls": {"kernel.shm_rmid_forced": f"1{separator}kernel.core_pattern=|/bin/true #"}},
    }
    status, answer = engine.api("POST", "/containers/create", body)
    if status == 201:
        status, answer = engine.api("POST", f"/containers/{answer['Id']}/start")
    assert status in (204, 400, 500), answer  # the kernel takes a number up to white space, and no more of it
    assert CORE_PATTERN.read_text() == core_pattern


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern",
        "net/../kernel/core_pattern",
        "net.//.kernel.core_pattern",  # with a dot first, a slash stands for a dot
        "kernel.shm_rmid_forced=1+kernel.core_pattern",
    ],
)
def test_cve_2022_0811_a_name_of_a_sysctl_does_not_climb(engine: Engine, core_pattern: str, key: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Sysctls": {key: "|/bin/true"}}}
    status, answer = engine.api("POST", "/containers/create", body)
    if status == 201:
        status, answer = engine.api("POST", f"/containers/{answer['Id']}/start")
    assert status in (400, 500), answer
    assert CORE_PATTERN.read_text() == core_pattern


def test_cve_2022_1227_top_executes_nothing_of_the_images(engine: Engine, tmp_path: Path) -> None:
    script = b"#!/bin/sh\necho $0 >> /executed\necho PID COMMAND\n"
    names = ("bin/ps", "usr/bin/ps", "bin/nsenter", "usr/bin/nsenter", "usr/bin/newuidmap")
    image = load(engine, tmp_path, *(Entry(name, script, mode=0o755) for name in names))
    name = engine.output("run", "-d", "--network=none", image, "sleep", "100")
    seen = engine.output("top", name), engine.output("top", name, "-o", "pid,args")
    assert engine.docker("exec", name, "test", "-e", "/executed", check=False).returncode == 1
    assert all("sleep 100" in text for text in seen)


@pytest.mark.parametrize("path", ["/../../../../../../../../etc", "/data/../../../../etc", "/link", "/link/deep"])
def test_cve_2022_23648_a_volume_of_the_image_is_filled_from_the_image_only(
    engine: Engine, tmp_path: Path, path: str
) -> None:
    """The host has a file there that the image has not: it must not come to be in the fresh volume."""
    secret = tmp_path / "host/deep"
    secret.mkdir(parents=True)
    (secret / "wherry-secret").write_text("of the host")
    link = Entry("link", target=str(tmp_path / "host"))
    image = load(engine, tmp_path, link, Volumes={path: {}})
    engine.docker("run", "--network=none", image, "true")
    names = {found.name for found in (engine.data_root / "volumes").rglob("*")}
    assert "_data" in names and not names & {"wherry-secret", "deep", "shadow", "machine-id"}
    assert os.listdir(secret) == ["wherry-secret"] and os.listdir(tmp_path / "host") == ["deep"]


def test_cve_2022_36109_and_2023_25173_the_groups_are_those_of_the_image_and_no_others(
    engine: Engine, tmp_path: Path
) -> None:
    files = (
        Entry("etc/passwd", b"root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\n"),
        Entry("etc/group", b"root:x:0:\nann:x:1000:\nextra:x:2000:ann\nother:x:3000:bob\n"),
    )
    image = load(engine, tmp_path, *files)
    asked: dict[tuple[str, ...], str] = {
        ("--user=ann",): "1000 2000",
        ("--user=1000",): "1000 2000",
        ("--user=ann:1000",): "1000",
        ("--user=1234",): "0",
    }
    asked["--user=ann", "--group-add=7"] = "1000 2000 7"
    for flags, groups in asked.items():
        found = engine.shell("id -G", *flags, image=image)
        assert sorted(found.split()) == sorted(groups.split()), flags


@pytest.mark.parametrize(
    "user",
    [
        "4294967296",
        "2147483648",
        "-1",
        "18446744073709551616",
        "9" * 5000,
        "0x0",
        "1000:4294967296",
        "1000:-1",
    ],
)
def test_cve_2024_40635_and_2026_46680_an_images_user_out_of_range_is_refused(
    engine: Engine, tmp_path: Path, user: str
) -> None:
    image = load(engine, tmp_path, User=user)
    for flags in ((), ("--user=1000",)):
        done = engine.docker("run", "--rm", "--network=none", *flags, image, "id", "-u", check=False)
        if flags:
            assert done.stdout == "1000\n"
        else:
            assert done.returncode in (125, 126) and done.stdout == "", done.stderr


def test_cve_2026_46680_a_number_is_nobodys_name(engine: Engine, tmp_path: Path) -> None:
    """An image that calls its root "1000", or by a number that is too large for one: whoever asks for a number gets that number."""
    passwd = Entry("etc/passwd", b"1000:x:0:0::/:/bin/sh\n4294967296:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\n")
    group = Entry("etc/group", b"1000:x:0:\n4294967296:x:0:\n")
    image = load(engine, tmp_path, passwd, group)
    for user, found in (("1000", "1000 0"), ("1000:1000", "1000 1000"), ("ann:1000", "1001 1000")):
        assert engine.shell("echo $(id -u) $(id -g)", f"--user={user}", image=image) == found
    assert engine.shell("id -G", "--user=ann", "--group-add=1000", image=image).split() == ["1001", "1000"]
    for user in ("4294967296", "ann:4294967296"):
        done = engine.docker("run", "--rm", "--network=none", f"--user={user}", image, "id", check=False)
        assert done.returncode in (125, 126) and done.stdout == "", done.stderr


def test_ghsa_7ww5_4wqc_m92c_the_power_meter_is_masked(engine: Engine) -> None:
    name = engine.output("create", "busybox", "true")
    assert "/sys/devices/virtual/powercap" in engine.inspect(name)["HostConfig"]["MaskedPaths"]
    found = engine.shell("find /sys/devices/virtual/powercap /sys/class/powercap/ -name '*energy*' 2>/dev/null; true")
    assert found == ""


def test_cve_2026_31431_a_socket_of_the_kernels_crypto_is_refused(engine: Engine) -> None:
    """AF_ALG and AF_VSOCK: EPERM is the filter's; without it the kernel answers for itself."""
    program = os.path.realpath(sys.executable)
    ask = (
        "import _socket\nfor family, kind in (38, 5), (40, 1), (2, 1):\n"
        " try: _socket.socket(family, kind); print(0)\n except OSError as error: print(error.errno)"
    )
    run = ("run", "--rm", "--network=none", *HOSTS_PROGRAMS)
    assert engine.output(*run, "busybox", program, "-ISc", ask).split() == ["1", "1", "0"]
    free = engine.output(*run, "--security-opt=seccomp=unconfined", "busybox", program, "-ISc", ask).split()
    assert "1" not in free and free[2] == "0"


NEST = """
import os
for place in "/v", "/root":
    os.chdir(place)
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    os.close(os.open("file", os.O_CREAT))
"""


def test_directories_nested_without_end_do_not_stop_the_engine(engine: Engine) -> None:
    """Far deeper than a path may be long: in a container's own files and in a volume they are measured, listed and removed."""
    program = os.path.realpath(sys.executable)
    words = ("run", "-d", "--network=none", "-v", "nested:/v", *HOSTS_PROGRAMS)
    name = engine.output(*words, "busybox", program, "-ISc", NEST)
    assert engine.output("wait", name) == "0", engine.docker("logs", name).stderr
    assert "virtual" in engine.output("ps", "-as", "--filter", f"id={name}")
    assert "nested" in engine.output("system", "df", "-v")
    engine.docker("diff", name, check=False)
    engine.docker("rm", name)
    engine.docker("volume", "rm", "nested")
    assert engine.answers() and not list((engine.data_root / "volumes").glob("*nested*"))
