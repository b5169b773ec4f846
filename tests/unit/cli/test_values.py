"""The values of container flags: read as Docker's client reads them, refused in its words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wherry.cli import endpoints, mounts, ports, values


def test_an_environment_variable_without_a_value_takes_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert [values.env(text) for text in ("A=b=c", "A=", "HERE", "NOT_HERE")] == ["A=b=c", "A=", "HERE=yes", "NOT_HERE"]


READS: list[tuple[Callable[[str], Any], str, Any]] = [
    (values.ulimit, "nofile=5", {"Name": "nofile", "Soft": 5, "Hard": 5}),
    (values.ulimit, "nofile=5:10", {"Name": "nofile", "Soft": 5, "Hard": 10}),
    (values.ulimit, "core=-1", {"Name": "core", "Soft": -1, "Hard": -1}),
    (values.ulimit, "core=5:-1", {"Name": "core", "Soft": 5, "Hard": -1}),
    (
        values.device,
        "/dev/fuse",
        {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
    ),
    (values.device, "/dev/a:/dev/b", {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "rwm"}),
    (values.device, "/dev/a:/dev/b:r", {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}),
    (values.device, "/dev/a:rw", {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rw"}),
    (values.device, "/dev/../dev/a", {"PathOnHost": "/dev/a", "PathInContainer": "/dev/a", "CgroupPermissions": "rwm"}),
    (values.device_rule, "c 1:3 rwm", "c 1:3 rwm"),
    (values.device_rule, "a *:* r", "a *:* r"),
    (values.rate_bytes, "/dev/sda:1mb", {"Path": "/dev/sda", "Rate": 1 << 20}),
    (values.rate_operations, "/dev/sda:10", {"Path": "/dev/sda", "Rate": 10}),
    (values.weight, "/dev/sda:0", {"Path": "/dev/sda", "Weight": 0}),
    (values.extra_host, "a:1.2.3.4", "a:1.2.3.4"),
    (values.extra_host, "a=::1", "a:::1"),
    (values.extra_host, "a:[::1]", "a:::1"),
    (values.extra_host, "a:host-gateway", "a:host-gateway"),
    (values.ip_address, " 8.8.8.8 ", "8.8.8.8"),
    (values.dns_search, ".", "."),
    (values.dns_search, "a_b.example-1.com", "a_b.example-1.com"),
    (values.stream, "STDIN", "stdin"),
    (values.mac_address, "92-D0-C6-0A-29-33", "92:d0:c6:0a:29:33"),
    (values.restart_policy, "on-failure:3", {"Name": "on-failure", "MaximumRetryCount": 3}),
    (values.restart_policy, "always", {"Name": "always", "MaximumRetryCount": 0}),
    (values.capability, "net_admin", "CAP_NET_ADMIN"),
    (values.capability, "CAP_CHOWN", "CAP_CHOWN"),
    (values.capability, "all", "ALL"),
    (values.security_option, "seccomp=unconfined", "seccomp=unconfined"),
    (values.security_option, "label:disable", "label:disable"),
    (values.security_option, "no-new-privileges", "no-new-privileges"),
    (values.detach_keys, "ctrl-p,ctrl-q", b"\x10\x11"),
    (values.detach_keys, "a,ctrl-@,ctrl-[,ctrl-_,DEL", b"a\x00\x1b\x1f\x7f"),
    (endpoints.attachment, "bridge", {"name": "bridge"}),
    (endpoints.attachment, "container:a=", {"name": "container:a="}),
    (endpoints.attachment, "name=x,alias=a,alias=b,ip=1.2.3.4", {"name": "x", "alias": ["a", "b"], "ip": "1.2.3.4"}),
    (
        endpoints.attachment,
        "name=x,driver-opt=a=b,gw-priority=-5",
        {"name": "x", "driver-opt": {"a": "b"}, "gw-priority": -5},
    ),
    (mounts.split_csv, 'a,"b,c",d', ["a", "b,c", "d"]),
    (mounts.split_csv, '"a""b",', ['a"b', ""]),
    (mounts.mount, "target=/t", {"Type": "volume", "Target": "/t"}),
    (mounts.mount, "type=BIND,src=/a,dst=/b,ro", {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True}),
    (
        mounts.mount,
        "type=bind,src=/a,dst=/b,readonly=0",
        {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": False},
    ),
    (
        mounts.mount,
        "type=bind,src=/a,dst=/b,bind-recursive=disabled,bind-propagation=rslave",
        {
            "Type": "bind",
            "Source": "/a",
            "Target": "/b",
            "BindOptions": {"NonRecursive": True, "Propagation": "rslave"},
        },
    ),
    (
        mounts.mount,
        "type=volume,src=v,dst=/b,volume-subpath=x,volume-nocopy,volume-label=a=b,volume-opt=c=d,volume-driver=e",
        {
            "Type": "volume",
            "Source": "v",
            "Target": "/b",
            "VolumeOptions": {
                "Subpath": "x",
                "NoCopy": True,
                "Labels": {"a": "b"},
                "DriverConfig": {"Options": {"c": "d"}, "Name": "e"},
            },
        },
    ),
    (
        mounts.mount,
        "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}},
    ),
]


@pytest.mark.parametrize(("read", "text", "expected"), READS)
def test_a_value_becomes_what_the_api_wants(read: Callable[[str], Any], text: str, expected: Any) -> None:
    assert read(text) == expected


REFUSES: list[tuple[Callable[[str], Any], str, str]] = [
    (values.env, "=x", "invalid environment variable: =x"),
    (values.label, "=x", "invalid label '=x': empty name"),
    (values.label, "a b=x", "label 'a b' contains whitespaces"),
    (values.ulimit, "x", "invalid ulimit argument: x"),
    (values.ulimit, "x=1", "invalid ulimit type: x"),
    (values.ulimit, "core=1:2:3", "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`"),
    (values.ulimit, "core=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
    (values.ulimit, "core=5:3", "ulimit soft limit must be less than or equal to hard limit: 5 > 3"),
    (
        values.ulimit,
        "core=-1:3",
        "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 3",
    ),
    (values.device, "x", "x is not an absolute path"),
    (values.device, "/a:/b:x", "bad mode specified: x"),
    (values.device, "/a:/b:r:w", "bad format for path: /a:/b:r:w"),
    (values.device, ":/b", "bad format for path: :/b"),
    (values.device_rule, "x 1:2 r", "invalid device cgroup format 'x 1:2 r'"),
    (values.rate_bytes, "x", "bad format: x"),
    (values.rate_bytes, "sda:1", "bad format for device path: sda:1"),
    (values.weight, "/dev/a:5", "invalid weight for device: /dev/a:5"),
    (values.extra_host, "x", 'bad format for add-host: "x"'),
    (values.extra_host, "a:x", 'invalid IP address in add-host: "x"'),
    (values.ip_address, "1.2.3", "IP address is not correctly formatted: 1.2.3"),
    (values.dns_search, "-x", "-x is not a valid domain"),
    (values.stream, "x", "valid streams are STDIN, STDOUT and STDERR"),
    (values.link, "a:b:c", "bad format for links: a:b:c"),
    (values.mac_address, "zz", "zz is not a valid mac address"),
    (values.restart_policy, ":3", "invalid restart policy format: no policy provided before colon"),
    (values.restart_policy, "a:b", "invalid restart policy format: maximum retry count must be an integer"),
    (values.security_option, "x", 'Invalid --security-opt: "x"'),
    (values.detach_keys, "ctrl-1", "invalid detach keys (ctrl-1): Unknown character: 'ctrl-1'"),
    (endpoints.attachment, "a=b", "invalid field key a"),
    (endpoints.attachment, "alias=b", "network name/id is not specified"),
    (mounts.mount, "", "value is empty"),
    (mounts.mount, "type=bind,source=/x", "target is required"),
    (mounts.mount, "target=/x,foo=y", "unexpected key 'foo' in 'foo=y'"),
    (mounts.mount, "target=/x,foo", "invalid field 'foo' must be a key=value pair"),
    (mounts.mount, "target=", "invalid value for 'target': value is empty"),
    (mounts.mount, " target=/x, ro", "invalid option 'ro' in ' ro': option should not have whitespace"),
    (mounts.mount, "target=/x,tmpfs-size=1m", "cannot mix 'tmpfs-*' options with mount type 'volume'"),
    (mounts.mount, "type=tmpfs,target=/x,tmpfs-size=x", "invalid value for tmpfs-size: x"),
    (mounts.mount, "type=tmpfs,target=/x,tmpfs-mode=9", "invalid value for tmpfs-mode: 9"),
    (
        mounts.mount,
        "target=/x,ro=maybe",
        'invalid value for \'ro\': invalid boolean value ("maybe"): must be one of "true", "1", "false", or "0" (default "true")',
    ),
    (mounts.split_csv, 'a,"b', 'parse error on line 1, column 5: extraneous or missing " in quoted-field'),
]


@pytest.mark.parametrize(("read", "text", "message"), REFUSES)
def test_a_wrong_value_is_refused_in_dockers_words(read: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(text)
    assert str(caught.value) == message


def test_volumes_are_binds_or_anonymous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    specs = ["v:/a", "/h:/b:ro", "./x:/c", "..:/d", "/e", "v:/a"]
    binds, anonymous = mounts.volumes(specs)
    assert binds == ["v:/a", "/h:/b:ro", f"{tmp_path}/x:/c", f"{tmp_path.parent}:/d"]
    assert anonymous == ["/e"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "invalid empty volume spec"),
        ("/a::/b", "invalid spec: /a::/b: empty section between colons"),
        ("/a:/b:ro:x", "invalid spec: /a:/b:ro:x: too many colons"),
    ],
)
def test_a_volume_that_is_none_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        mounts.volumes([spec])
    assert str(caught.value) == message


def bound(host: str = "", address: str = "") -> dict[str, str]:
    return {"HostIp": address, "HostPort": host}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("80", {"80/tcp": [bound()]}),
        ("80/udp", {"80/udp": [bound()]}),
        ("8080:80", {"80/tcp": [bound("8080")]}),
        ("127.0.0.1:8080:80", {"80/tcp": [bound("8080", "127.0.0.1")]}),
        ("127.0.0.1::80", {"80/tcp": [bound("", "127.0.0.1")]}),
        ("[::1]:8080:80", {"80/tcp": [bound("8080", "::1")]}),
        ("::1:8080:80", {"80/tcp": [bound("8080", "::1")]}),
        ("90-91:80-81", {"80/tcp": [bound("90")], "81/tcp": [bound("91")]}),
        ("90-95:80", {"80/tcp": [bound("90-95")]}),
        ("80-81", {"80/tcp": [bound()], "81/tcp": [bound()]}),
        ("published=5,target=6,protocol=udp", {"6/udp": [bound("5")]}),
    ],
)
def test_ports_are_published_as_docker_publishes_them(spec: str, expected: ports.Bindings) -> None:
    assert ports.publish([spec]) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no port specified: <empty>"),
        ("x", "invalid containerPort: x"),
        ("x:80", "invalid hostPort: x"),
        ("80/x", "invalid proto: x"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("1-3:1-2", "invalid ranges specified for container and host Ports: 1-2 and 1-3"),
        ("65536", "invalid containerPort: 65536"),
        ("2-1", "invalid containerPort: 2-1"),
        ("=5", "invalid publish opts format (should be name=value but got '=5')"),
    ],
)
def test_a_port_that_is_none_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ports.publish([spec])
    assert str(caught.value) == message


def test_exposed_ports_may_be_ranges() -> None:
    assert ports.expose(["80", "90-92/udp"]) == ["80/tcp", "90/udp", "91/udp", "92/udp"]


def test_a_file_of_pairs_has_comments_and_looks_up_bare_keys(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(b"\xef\xbb\xbfA=1\n# comment\n\n  B= two words \nHERE\nNOWHERE\nC==\r\n")
    assert values.read_file(str(path), {"HERE": "x"}.get) == ["A=1", "B= two words ", "HERE=x", "C=="]
    assert values.read_file(str(path), None) == ["A=1", "B= two words ", "C=="]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"=x", "no variable name on line '=x'"),
        (b"a b=x", "variable 'a b' contains whitespaces"),
        (b"A=\xff", "invalid utf8 bytes at line 1: [65 61 255]"),
    ],
)
def test_a_file_that_is_no_file_of_pairs_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        values.read_file(str(path), None)
    assert str(caught.value) == f"invalid env file ({path}): {message}"


def test_a_seccomp_profile_is_sent_as_its_content(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW"\n}\n')
    assert values.security_option(f"seccomp={path}") == 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    path.write_text("{")
    with pytest.raises(ValueError, match="compacting json for seccomp profile"):
        values.security_option(f"seccomp={path}")
