"""Flags, daemon.json, and what they make together."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.daemon.config import Config, build, load, tcp_address
from wherry.daemon.main import main
from wherry.daemon.options import BY_FLAG, BY_KEY, DOCKERD_ONLY, OPTIONS, UsageError, parse_arguments, usage
from wherry.errors import InvalidArgument
from wherry.wire.engine import Ulimit

SOMEWHERE = "unix:///x.sock"


def configured(tmp_path: Path, content: Any, *arguments: str) -> Config:
    file = tmp_path / "daemon.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load(["--config-file", str(file), *arguments]).config


# -- the command line


def test_flags_are_read_as_docker_reads_them() -> None:
    assert parse_arguments(["--debug", "-H", "a", "--host=b", "-Hc", "--tls=false", "-Dl", "warn", "-p=x"]) == {
        "debug": True,
        "host": ["a", "b", "c"],
        "tls": False,
        "log-level": "warn",
        "pidfile": "x",
    }
    assert parse_arguments(["--add-runtime", "runc=/usr/bin/runc", "--add-runtime", "crun=/c"]) == {
        "add-runtime": {"runc": "/usr/bin/runc", "crun": "/c"}
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frob"], "unknown flag: --frob"),
        (["--frob=1"], "unknown flag: --frob"),
        (["-x"], "unknown shorthand flag: 'x' in -x"),
        (["--host"], "flag needs an argument: --host"),
        (["-H"], "flag needs an argument: -H"),
        (["--debug=maybe"], 'invalid argument "maybe" for "--debug" flag'),
        (["--mtu", "x"], 'invalid argument "x" for "--mtu" flag: must be a whole number'),
        (["--mtu", "1_000"], 'invalid argument "1_000" for "--mtu" flag: must be a whole number'),
        (["--add-runtime", "runc"], "must be name=value"),
        (["serve"], "takes no arguments, but got 'serve'"),
        (["--"], "takes no arguments"),
        (["--icc=false"], "wherryd does not support the flag --icc yet"),
        (["--bridge", "none"], "wherryd does not support the flag --bridge yet"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as failure:
        parse_arguments(arguments)
    assert message in str(failure.value)


def test_no_flag_is_both_done_and_refused() -> None:
    assert not DOCKERD_ONLY & (set(BY_FLAG) | set(BY_KEY))


def test_the_usage_names_every_flag() -> None:
    text = usage()
    assert all(f"--{option.flag} " in text or f"--{option.flag}\n" in text for option in OPTIONS)
    assert "Examples:" in text


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--host", "-H", "--debug", "-D", "--tls=", "--mtu", "1", "-"])))
def test_any_command_line_is_read_or_refused(arguments: list[str]) -> None:
    try:
        parse_arguments(arguments)
    except UsageError:
        pass


# -- the file


def test_keys_of_the_file_configure(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        {
            "hosts": [SOMEWHERE],
            "data-root": "/d/",
            "debug": True,
            "log-format": "json",
            "insecure-registries": ["localhost:5000"],
            "bip": "172.30.0.1/16",
            "ip": "127.0.0.1",
            "runtimes": {"runc": {"path": "/usr/bin/runc"}},
            "default-runtime": "runc",
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
            "live-restore": True,
            "shutdown-timeout": 3,
            "group": "wheel",
        },
    )
    assert config.hosts == (SOMEWHERE,)
    assert config.data_root == "/d"
    assert (config.debug, config.log_level, config.log_format) == (True, "debug", "json")
    assert config.insecure_registries == ("localhost:5000",)
    assert (config.bip, config.ip) == (IPv4Interface("172.30.0.1/16"), IPv4Address("127.0.0.1"))
    assert (dict(config.runtimes), config.default_runtime) == ({"runc": "/usr/bin/runc"}, "runc")
    assert config.default_ulimits == (Ulimit(name="nofile", soft=1, hard=2),)
    assert (config.live_restore, config.shutdown_timeout, config.group) == (True, 3, "wheel")


def test_proxies_are_variables_of_the_environment(tmp_path: Path) -> None:
    config = configured(tmp_path, '{"proxies": {"http-proxy": "p:1"}}', "--no-proxy=a,b")
    assert config.proxies == {"HTTP_PROXY": "p:1", "NO_PROXY": "a,b"}
    with pytest.raises(InvalidArgument, match=r"both as a flag .* proxies\.http-proxy"):
        configured(tmp_path, '{"proxies": {"http-proxy": "p:1"}}', "--http-proxy=q:1")


def test_limits_of_transfers_are_dockers_unless_said_otherwise(tmp_path: Path) -> None:
    defaults = Config()
    assert (defaults.max_concurrent_downloads, defaults.max_concurrent_uploads) == (3, 5)
    config = configured(
        tmp_path, '{"max-concurrent-downloads": 7}', "--max-concurrent-uploads=0", "--max-download-attempts=1"
    )
    assert (config.max_concurrent_downloads, config.max_concurrent_uploads, config.max_download_attempts) == (7, 0, 1)


def test_the_default_policy_counts_when_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.daemon.config.DEFAULT_POLICY", str(tmp_path / "policy.json"))
    assert configured(tmp_path, "").trust is None
    (tmp_path / "policy.json").write_text('{"default": [{"type": "reject"}]}')
    found = configured(tmp_path, "").trust
    assert found is not None and found.path == str(tmp_path / "policy.json")
    (tmp_path / "policy.json").write_text("{")
    with pytest.raises(InvalidArgument, match=r"policy\.json"):
        configured(tmp_path, "")
    (tmp_path / "policy.json").unlink()
    (tmp_path / "policy.json").symlink_to("nowhere")  # what is there and cannot be read is not passed over
    with pytest.raises(InvalidArgument, match="no such file"):
        configured(tmp_path, "")


def test_flags_configure_likewise(tmp_path: Path) -> None:
    config = configured(
        tmp_path,
        "",
        *[
            "--add-runtime",
            "runc=/r",
            "--default-runtime",
            "runc",
            "--default-ulimit",
            "nofile=5:6",
            "--default-ulimit",
            "nproc=7",
        ],
    )
    assert (dict(config.runtimes), config.default_runtime) == ({"runc": "/r"}, "runc")
    assert config.default_ulimits == (Ulimit(name="nofile", soft=5, hard=6), Ulimit(name="nproc", soft=7, hard=7))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frob": 1, "nicate": 2}, "the following directives don't match any configuration option: frob, nicate"),
        ({"icc": False}, "wherryd does not support the following directives yet: icc"),
        ({"debug": "yes"}, "debug must be true or false"),
        ({"debug": 1}, "debug must be true or false"),
        ({"hosts": "unix:///x"}, "hosts must be a list of strings"),
        ({"hosts": [1]}, "hosts must be a list of strings"),
        ({"mtu": True}, "mtu must be a number"),
        ({"mtu": 1}, "invalid mtu: 1"),
        ({"proxies": "x"}, "proxies must be an object"),
        ({"proxies": {"ftp-proxy": "x"}}, "match any configuration option: proxies.ftp-proxy"),
        ({"proxies.http-proxy": "x:1"}, "match any configuration option: proxies.http-proxy"),
        ({"proxies": {"http-proxy": 1}}, "proxies.http-proxy must be a string"),
        ({"proxies": {"https-proxy": "socks5://x:1"}}, "invalid proxy"),
        ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
        ({"max-concurrent-uploads": -1}, "invalid max concurrent uploads: -1"),
        ({"max-download-attempts": 0}, "invalid max download attempts: 0"),
        ({"trust-policy": "/nonexistent/policy.json"}, "/nonexistent/policy.json: no such file or directory"),
        ({"log-level": "loud"}, "invalid logging level: loud"),
        ({"log-format": "xml"}, "invalid log format: xml"),
        ({"data-root": "here"}, "data-root must be an absolute path"),
        ({"data-root": "/x/", "exec-root": "/x"}, "data-root and exec-root must be different directories: /x"),
        ({"default-runtime": "runc"}, "specified default runtime 'runc' does not exist"),
        ({"runtimes": {"runc": {}}}, "runtimes.runc: a path must be given"),
        ({"runtimes": {"wherry": {"path": "/x"}}}, "runtime name 'wherry' is reserved"),
        ({"runtimes": {"k": {"runtimeType": "io.containerd.kata.v2"}}}, "runtimes.k: only path is supported"),
        ({"default-ulimits": {"nofile": {"Soft": 2, "Hard": 1}}}, "soft limit exceeds the hard limit"),
        ({"default-ulimits": {"nofile": 3}}, "default-ulimits.nofile: invalid limits"),
        ({"bip": "172.30.0.0/16"}, "must be the address of a host"),
        ({"insecure-registries": ["http://r"]}, "should not contain '://'"),
        ({"bip": "x"}, "invalid bip"),
        ({"init-path": "/nonesuch"}, "init-path is not an executable file"),
        ({"hosts": ["ftp://x"]}, "invalid host 'ftp://x'"),
        ({"hosts": ["unix://x"]}, "the socket's path must be absolute"),
        ({"hosts": ["tcp://0.0.0.0:2375"]}, "--tls=false"),
        ({"hosts": ["tcp://0.0.0.0:99999"], "tls": False}, "it must be tcp://ADDRESS:PORT"),
        ({"tls": True}, "wherryd does not support TLS yet"),
        ("[]", "it is not a JSON object"),
        ("{", "daemon.json"),
        ('{"debug": true, "debug": false}', "a directive is given twice: debug"),
        ("[" * 100_000, "daemon.json"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as failure:
        configured(tmp_path, content)
    assert message in str(failure.value)
    assert "daemon.json" in str(failure.value)


def test_a_setting_in_both_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as failure:
        configured(tmp_path, {"debug": False, "hosts": [SOMEWHERE]}, "--debug", "-H", "unix:///y")
    assert (
        "the following directives are specified both as a flag and in the configuration file:"
        " debug: (from flag: true, from file: false),"
        ' hosts: (from flag: ["unix:///y"], from file: ["unix:///x.sock"])' in str(failure.value)
    )


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no such file or directory"):
        load(["--config-file", str(tmp_path / "none.json")])


def test_tcp_without_tls_needs_consent_by_name() -> None:
    with pytest.raises(InvalidArgument, match="whoever connects is root on this machine"):
        build({"host": ["tcp://127.0.0.1:2375"]}, {}, "")
    assert build({"host": ["tcp://127.0.0.1:2375"], "tls": False}, {}, "").allow_plain_tcp


def test_addresses_have_docker_defaults() -> None:
    assert tcp_address("tcp://") == ("127.0.0.1", 2375)
    assert tcp_address("tcp://0.0.0.0") == ("0.0.0.0", 2375)
    assert tcp_address("tcp://:80") == ("127.0.0.1", 80)
    assert tcp_address("tcp://[::1]:80") == ("::1", 80)
    for host in ("tcp://a:b", "tcp://a:1/x", "tcp://a:1:2"):
        with pytest.raises(InvalidArgument):
            tcp_address(host)


def test_no_file_and_no_flags_are_the_defaults() -> None:
    assert build({}, {}, "") == Config()


# -- main


def test_validate_says_ok_or_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "daemon.json"
    file.write_text('{"debug": true}')
    assert main(["--validate", "--config-file", str(file)]) == 0
    assert capsys.readouterr().err == "configuration OK\n"
    file.write_text('{"frob": true}')
    assert main(["--validate", "--config-file", str(file)]) == 1
    assert "don't match any configuration option: frob" in capsys.readouterr().err


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main(["-v"]) == 0
    printed = capsys.readouterr().out
    assert "Usage:  wherryd" in printed
    assert "wherry version " in printed
    assert main(["--frob"]) == 1
    assert "See 'wherryd --help'" in capsys.readouterr().err


def test_a_storage_driver_is_one_of_those_there_are() -> None:
    assert build({"storage-driver": "vfs"}, {}, "").storage_driver == "vfs"
    assert build({}, {"storage-driver": "btrfs"}, "").storage_driver == "btrfs"
    with pytest.raises(
        InvalidArgument, match="unsupported storage driver 'zfs': there are overlay2, fuse-overlayfs, btrfs, vfs"
    ):
        build({"storage-driver": "zfs"}, {}, "")
    with pytest.raises(InvalidArgument, match="storage-opts"):
        build({}, {"storage-opts": ["overlay2.size=1G"]}, "")
