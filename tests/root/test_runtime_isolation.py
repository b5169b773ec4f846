"""What a container sees and may do, asked from inside of it."""

from __future__ import annotations

import os
import stat

import pytest
from tests.runtime_lab import DEFAULT_CAPABILITIES, ID_MAP, NAMESPACES, Lab, bind, host_shell, seccomp_program

from wherry.errors import StartError
from wherry.linux import capabilities


def namespace_links(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines() if line)


def test_the_program_is_pid_1_and_sees_only_its_own_processes(lab: Lab) -> None:
    result = lab.shell("echo $$; ls /proc | grep '^[0-9]*$' | wc -l; cat /proc/1/comm; true")
    assert result.lines[0] == "1"
    assert int(result.lines[1]) <= 4  # the shell and the pipeline
    assert result.lines[2] == "sh"


def test_hostname_is_its_own_and_the_hosts_stays(lab: Lab) -> None:
    before = os.uname().nodename
    config = lab.config("sh", "-c", "hostname; cat /proc/sys/kernel/domainname; hostname other 2>&1")
    config["domainname"] = "example.org"
    result = lab.run_config(config)
    assert result.lines[:2] == ["box", "example.org"]
    assert os.uname().nodename == before


def test_every_namespace_is_another_than_the_hosts(lab: Lab) -> None:
    kinds = "mnt pid ipc uts net cgroup"
    inside = lab.shell(f"for n in {kinds}; do echo $n $(readlink /proc/self/ns/$n); done")
    mine = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds.split()}
    theirs = namespace_links(inside.out)
    assert set(theirs) == set(mine)
    assert not set(theirs.values()) & set(mine.values())


def test_ipc_objects_of_the_host_are_not_there(lab: Lab) -> None:
    result = lab.shell(
        "cat /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem | grep -vc key; ls -A /dev/mqueue /dev/shm"
    )
    assert result.lines == ["0", "/dev/mqueue:", "", "/dev/shm:"]


def test_the_mount_table_has_nothing_of_the_hosts(lab: Lab) -> None:
    result = lab.run("cat", "/proc/self/mountinfo")
    points = [line.split()[4] for line in result.lines]
    assert points[0] == "/"
    assert points.count("/") == 1
    allowed = ("/proc", "/dev", "/sys")
    assert all(point == "/" or point.startswith(allowed) for point in points), result.out
    parents = {line.split()[0]: line.split()[1] for line in result.lines}
    roots = [number for number, parent in parents.items() if parent not in parents]
    assert len(roots) == 1, "the mounts are one tree: nothing hangs below a root that was let go"


def test_the_hosts_root_is_out_of_reach(lab: Lab) -> None:
    marker = lab.directory / "host-marker"
    marker.write_text("host")
    result = lab.shell(f"cat {marker}; ls /..; cd /../../..; pwd; ls -d /proc/1/root/work /proc/1/cwd/work 2>&1")
    assert "host" not in result.out.split()
    assert "/" in result.lines


def test_the_network_is_a_loopback_interface_that_is_up(lab: Lab) -> None:
    result = lab.shell("ls /sys/class/net; ip -o addr show lo")
    assert result.lines[0] == "lo"
    assert "127.0.0.1/8" in result.out
    assert len(result.out.split("inet ")) == 2


def test_the_cgroup_view_begins_at_the_containers_own_group(lab: Lab) -> None:
    result = lab.shell("cat /proc/self/cgroup; grep /sys/fs/cgroup /proc/self/mountinfo")
    groups = [line.split(":", 2)[2] for line in result.lines if " " not in line]
    assert set(groups) == {"/"}
    for line in result.lines:
        if " - cgroup" in line:
            assert line.split()[3] == "/", "a hierarchy shows more than the container's group"
            assert "ro" in line.split()[5].split(",")


@pytest.mark.requires("cgroup1")
def test_cgroup_files_cannot_be_written(lab: Lab) -> None:
    result = lab.shell(
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes; mkdir /sys/fs/cgroup/pids/x; ls /sys/fs/cgroup/memory/cgroup.procs"
    )
    assert result.err.count("Read-only file system") == 2
    assert result.status == 0


def test_capabilities_are_exactly_the_ones_asked_for(lab: Lab) -> None:
    result = lab.shell("grep Cap /proc/self/status")
    expected = 0
    for name in DEFAULT_CAPABILITIES:
        expected |= 1 << capabilities.NUMBER[name]
    sets = {line.split()[0]: int(line.split()[1], 16) for line in result.lines}
    assert sets == {"CapInh:": 0, "CapPrm:": expected, "CapEff:": expected, "CapBnd:": expected, "CapAmb:": 0}


def test_ambient_capabilities_reach_an_unprivileged_program(lab: Lab) -> None:
    names = ["CAP_NET_BIND_SERVICE"]
    sets = dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), names)
    result = lab.shell("grep Cap /proc/self/status", capabilities=sets, user={"uid": 1000, "gid": 1000})
    bit = 1 << capabilities.NUMBER["CAP_NET_BIND_SERVICE"]
    assert {int(line.split()[1], 16) for line in result.lines} == {bit}


def test_no_capabilities_at_all_when_none_are_given(lab: Lab) -> None:
    config = lab.config("grep", "Cap", "/proc/self/status")
    del config["process"]["capabilities"]
    result = lab.run_config(config)
    assert {int(line.split()[1], 16) for line in result.lines} == {0}


def test_a_capability_that_cannot_be_granted_is_a_warning(lab: Lab) -> None:
    config = lab.config("true", capabilities={"bounding": ["CAP_CHOWN", "CAP_OF_TOMORROW"], "permitted": ["CAP_CHOWN"]})
    box = lab.create(config)
    assert box.process.warnings == ["capability CAP_OF_TOMORROW cannot be granted on this machine"]
    assert box.wait().status == 0
    lab.remove(box)


def test_masked_files_are_empty_and_masked_directories_too(lab: Lab) -> None:
    result = lab.shell(
        "wc -c < /proc/timer_list; wc -c < /proc/keys; ls -A /sys/firmware /proc/acpi; cat /proc/kcore; touch /sys/firmware/x"
    )
    assert result.lines[:2] == ["0", "0"]
    assert [line for line in result.lines[2:] if line and not line.endswith(":")] == []
    assert "Read-only file system" in result.err


def test_read_only_paths_cannot_be_written(lab: Lab) -> None:
    result = lab.shell(
        "echo 1 > /proc/sys/kernel/msgmax; echo 1 > /proc/sys/vm/swappiness; echo x > /proc/sys/kernel/core_pattern"
    )
    assert result.err.count("Read-only file system") == 3


def test_only_the_three_standard_descriptors_are_open(lab: Lab) -> None:
    host_file = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(host_file, True)
    try:
        result = lab.shell("for f in /proc/self/fd/*; do echo ${f##*/} $(readlink $f); done; ls /proc/1/fd; true")
    finally:
        os.close(host_file)
    assert "/etc/passwd" not in result.out
    assert result.lines[-3:] == ["0", "1", "2"]


def test_dev_null_at_standard_input_is_the_containers_own(lab: Lab) -> None:
    result = lab.shell("stat -L -c %d /proc/self/fd/0; stat -c %d /dev/null; stat -L -c '%t %T' /proc/self/fd/0")
    assert result.lines[0] == result.lines[1]
    assert result.lines[2] == "1 3"


def test_a_descriptor_is_preserved_when_asked_for(lab: Lab) -> None:
    read, write = os.pipe()
    os.write(write, b"handed over\n")
    os.close(write)
    saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else None
    os.dup2(read, 3)
    try:
        result = lab.run_config(lab.config("sh", "-c", "cat <&3; ls /proc/1/fd; true"), preserve_fds=1)
    finally:
        if saved is None:
            os.close(3)
        else:
            os.dup2(saved, 3, inheritable=False)
            os.close(saved)
        os.close(read)
    assert result.lines == ["handed over", "0", "1", "2", "3"]


def test_rlimits_are_set(lab: Lab) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    result = lab.shell("ulimit -n; ulimit -H -n; ulimit -c", rlimits=limits)
    assert result.lines == ["100", "200", "0"]


def test_sysctls_of_its_namespaces_are_set_and_the_hosts_stay(lab: Lab) -> None:
    before = host_shell("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl")
    values = {"kernel.msgmax": "12345", "net.ipv4.ip_default_ttl": "33", "net/ipv4/ip_forward": "1"}
    result = lab.shell(
        "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/ip_forward",
        linux={"sysctl": values},
    )
    assert result.lines == ["12345", "33", "1"]
    assert host_shell("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl") == before


@pytest.mark.requires("userns")
def test_limits_of_its_user_namespace_are_sysctls_too(lab: Lab) -> None:
    for directory, _, names in os.walk(lab.rootfs):
        for name in (directory, *(os.path.join(directory, name) for name in names)):
            os.chown(name, 100000, 100000, follow_symlinks=False)
    space = {
        "namespaces": [{"type": kind} for kind in (*NAMESPACES, "user")],
        "uidMappings": ID_MAP,
        "gidMappings": ID_MAP,
    }
    result = lab.run(
        "cat", "/proc/sys/user/max_net_namespaces", linux={**space, "sysctl": {"user.max_net_namespaces": "7"}}
    )
    assert result.out == "7\n", result.err
    with pytest.raises(StartError, match="not allowed in the hosts user namespace"):
        lab.run("true", linux={"sysctl": {"user.max_net_namespaces": "7"}})


def test_a_directory_that_only_root_can_reach_is_the_users_working_directory(lab: Lab) -> None:
    (lab.rootfs / "root").chmod(0o700)
    result = lab.shell("pwd; ls /root", user={"uid": 1000, "gid": 1000}, cwd="/root", capabilities={})
    assert result.out == "/root\n"
    assert "Permission denied" in result.err


def test_oom_score_is_set(lab: Lab) -> None:
    assert lab.run("cat", "/proc/self/oom_score_adj", oomScoreAdj=321).out == "321\n"


def test_user_group_supplementary_groups_and_umask(lab: Lab) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [10, 2000], "umask": 0o027}
    result = lab.shell("id; umask; grep -E '^(Uid|Gid|Groups)' /proc/self/status", user=user)
    assert result.lines[0] == "uid=1000(app) gid=1000(app) groups=10(wheel),2000(extra)"
    assert result.lines[1] == "0027"
    assert result.lines[2].split()[1:] == ["1000"] * 4
    assert result.lines[3].split()[1:] == ["1000"] * 4


def test_an_unprivileged_user_has_no_capabilities(lab: Lab) -> None:
    result = lab.shell(
        "grep -E 'Cap(Prm|Eff)' /proc/self/status",
        user={"uid": 1000, "gid": 1000},
        capabilities={"bounding": DEFAULT_CAPABILITIES},
    )
    assert {int(line.split()[1], 16) for line in result.lines} == {0}


@pytest.mark.parametrize(
    ("env", "uid", "home"), [([], 0, "/root"), ([], 1000, "/home/app"), ([], 4242, "/"), (["HOME=/x"], 0, "/x")]
)
def test_home_comes_from_the_environment_or_the_containers_passwd(
    lab: Lab, env: list[str], uid: int, home: str
) -> None:
    (lab.rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
    assert lab.run("sh", "-c", "echo $HOME", env=["PATH=/bin", *env], user={"uid": uid, "gid": 0}).out == f"{home}\n"


def test_the_environment_is_passed_as_it_is(lab: Lab) -> None:
    result = lab.run("env", env=["PATH=/bin", "A=1", "B=two words", "C=ü=ß", "HOME=/"])
    assert result.lines == ["PATH=/bin", "A=1", "B=two words", "C=ü=ß", "HOME=/"]


def test_the_working_directory_is_made_when_the_image_lacks_it(lab: Lab) -> None:
    assert lab.run("pwd", cwd="/srv/new/place").out == "/srv/new/place\n"


def test_no_new_privileges_is_as_asked(lab: Lab) -> None:
    question = "grep NoNewPrivs /proc/self/status"
    assert lab.shell(question, noNewPrivileges=True).out.split()[1] == "1"
    assert lab.shell(question, noNewPrivileges=False).out.split()[1] == "0"


@pytest.mark.requires("libseccomp")
@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_seccomp_filter_is_on_and_capabilities_are_still_exact(lab: Lab, no_new_privileges: bool) -> None:
    config = lab.config(
        "sh", "-c", "mkdir /x; grep -E 'Seccomp:|CapPrm' /proc/self/status", noNewPrivileges=no_new_privileges
    )
    result = lab.run_config(config, seccomp_bpf=seccomp_program("mkdir", "mkdirat"))
    assert "Operation not permitted" in result.err
    values = {line.split()[0]: line.split()[1] for line in result.lines}
    assert values["Seccomp:"] == "2"
    assert not int(values["CapPrm:"], 16) & capabilities.SYS_ADMIN


def test_signals_are_at_their_defaults(lab: Lab) -> None:
    result = lab.run("grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status")
    masks = {line.split()[0]: int(line.split()[1], 16) for line in result.lines}
    assert masks["SigBlk:"] == 0
    assert masks["SigIgn:"] == 0


def test_a_session_keyring_of_its_own(lab: Lab) -> None:
    config = lab.config("grep", "-c", "_ses.lab", "/proc/keys")
    config["linux"]["maskedPaths"] = []
    assert int(lab.run_config(config).out) >= 1


def test_the_devices_are_the_default_ones(lab: Lab) -> None:
    result = lab.shell(
        "cd /dev; stat -c '%n %F %t,%T %a' full null random tty urandom zero; "
        "readlink fd; readlink stdin; readlink ptmx; head -c 3 zero | wc -c; echo x > full"
    )
    assert result.lines[:6] == [
        "full character special file 1,7 666", "null character special file 1,3 666", "random character special file 1,8 666",
        "tty character special file 5,0 666", "urandom character special file 1,9 666", "zero character special file 1,5 666",
    ]  # fmt: skip
    assert result.lines[6:] == ["/proc/self/fd", "/proc/self/fd/0", "pts/ptmx", "3"]
    assert "No space left" in result.err


def test_more_devices_are_made_as_described(lab: Lab) -> None:
    devices = [
        {"path": "/dev/sub/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]
    result = lab.run("stat", "-c", "%F %t,%T %a %u %g", "/dev/sub/mine", "/dev/pipe", linux={"devices": devices})
    assert result.lines == ["character special file 1,5 640 7 8", "fifo 0,0 600 0 0"]


def test_device_rules_bite(lab: Lab) -> None:
    (lab.rootfs / "nodes").mkdir()
    os.mknod(lab.rootfs / "nodes/kmsg", stat.S_IFCHR | 0o666, os.makedev(1, 11))
    rules = {"resources": {"devices": [{"allow": False, "access": "rwm"}]}}
    result = lab.shell("head -c 1 /nodes/kmsg; head -c 1 /dev/zero | wc -c", linux=rules)
    assert "Operation not permitted" in result.err
    assert result.out == "1\n"


def test_a_limit_on_processes_bites(lab: Lab) -> None:
    result = lab.shell("sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo made", linux={"resources": {"pids": {"limit": 3}}})
    assert "fork" in result.err
    assert "made" not in result.out


def test_the_root_can_be_read_only_while_mounts_are_not(lab: Lab, tmp_path: os.PathLike[str]) -> None:
    config = lab.config(
        "sh",
        "-c",
        "touch /x; touch /data/y && echo written; touch /dev/shm/z && echo shm",
        mounts=[bind(tmp_path, "/data")],
    )
    config["root"]["readonly"] = True
    result = lab.run_config(config)
    assert "/x: Read-only file system" in result.err
    assert result.lines == ["written", "shm"]


def test_the_program_ends_when_its_parent_does(lab: Lab) -> None:
    """A shim that is killed takes its container with it: nobody would own it."""
    config = lab.config("sleep", "100")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            box = lab.create(config)
            os.write(write, b"%d" % box.pid)
        finally:
            os._exit(0)
    os.close(write)
    pid = int(os.read(read, 20))
    os.close(read)
    os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9  # it has become ours: we adopt orphans
    from wherry.linux import cgroups

    cgroups.open_group(config["linux"]["cgroupsPath"]).delete()
