"""`wherry doctor` on a real kernel: what it reports, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wherry.cli.probes import kernel, limits, machine, network, security, storage, trial
from wherry.cli.probes.finding import DEGRADED, MISSING, OK
from wherry.linux.namespaces import NEWNET, NEWNS

SOURCES = str(Path(__file__).parent.parent.parent / "src")


def doctor(*words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "wherry.cli", "doctor", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        check=False,
    )


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_machine_that_runs_these_tests_is_usable() -> None:
    done = doctor("--json")
    found = report(done)
    assert (done.returncode, found["usable"]) == (0, True), found
    assert {"kernel", "namespaces", "cgroups", "overlayfs", "seccomp", "nftables", "bridge and veth"} <= {
        item["name"] for item in found["findings"] if item["status"] == OK
    }


def test_every_finding_that_is_not_ok_says_what_it_means_and_what_to_do() -> None:
    for item in report(doctor("--json"))["findings"]:
        assert item["found"]
        assert bool(item["meaning"] and item["remedy"]) == (item["status"] != OK)


def test_the_report_for_people_has_the_same_findings() -> None:
    done = doctor()
    for item in report(doctor("--json"))["findings"]:
        if item["name"] != "disk":
            assert f"{item['status']:<8}  {item['name']}: {item['found']}" in done.stdout
    assert "\033" not in done.stdout
    assert "The engine works here" in done.stdout


def test_without_privileges_the_engine_cannot_work_and_no_more_is_tried() -> None:
    done = doctor("--json", prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    found = report(done)
    assert (done.returncode, found["usable"]) == (1, False)
    assert [item["name"] for item in found["findings"] if item["status"] == MISSING] == ["privileges"]
    assert "overlayfs" not in {item["name"] for item in found["findings"]}


def test_a_capability_that_is_not_held_is_named() -> None:
    done = doctor("--json", prefix=("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"))
    [finding] = [item for item in report(done)["findings"] if item["name"] == "privileges"]
    assert (done.returncode, finding["status"]) == (1, MISSING)
    assert "CAP_SYS_ADMIN" in finding["found"]


@pytest.mark.parametrize(
    ("hidden", "name", "status", "remedy"),
    [
        ("while umount -l /sys 2>/dev/null; do :; done", "cgroups", MISSING, "mount -t cgroup2"),
        ("mount --bind /dev/null /usr/bin/ps", "programs", DEGRADED, "install procps"),
    ],
)
def test_what_is_hidden_is_missed(hidden: str, name: str, status: str, remedy: str) -> None:
    done = doctor("--json", prefix=("unshare", "-m", "sh", "-c", f'{hidden}; exec "$@"', "sh"))
    [finding] = [item for item in report(done)["findings"] if item["name"] == name]
    assert (finding["status"], done.returncode) == (status, int(status == MISSING))
    assert remedy in finding["remedy"]


def test_overlayfs_is_tried_where_the_data_is_to_be(tmp_path: Path) -> None:
    assert storage.overlay(str(tmp_path / "not" / "yet" / "there")).status == OK
    assert list(tmp_path.iterdir()) == []
    finding = storage.overlay("/proc/nothing")
    assert finding.status == MISSING
    assert "/proc" in finding.found


def test_free_space_is_that_of_the_data_root(tmp_path: Path) -> None:
    assert f"free for {tmp_path}/data" in storage.free_space(f"{tmp_path}/data").found
    assert storage.free_space("/proc/x").status == DEGRADED


@pytest.mark.parametrize(
    "probe",
    [
        machine.python,
        kernel.system_calls,
        kernel.namespaces,
        limits.cgroups,
        security.seccomp,
        network.links,
        network.firewall,
    ],
)
def test_a_probe_can_be_asked_twice(probe: Any) -> None:
    assert [probe().status, probe().status] == [OK, OK]


def test_a_trial_tells_what_went_wrong_and_where() -> None:
    def fail() -> None:
        raise OSError(5, "input/output error", "/x")

    def crash() -> None:
        raise RuntimeError("unexpected")

    assert trial.attempt(0) == ""
    assert "/x" in trial.attempt(0, fail)
    assert trial.attempt(0, crash) == "RuntimeError: unexpected"
    assert trial.attempt(0, lambda: os._exit(3)) == "the trial ended with status 3"


def test_a_trial_changes_only_namespaces_of_its_own(tmp_path: Path) -> None:
    def mount() -> None:
        from wherry.linux import syscalls

        syscalls.mount("none", str(tmp_path), "tmpfs", 0, "")
        assert os.path.ismount(tmp_path)

    assert trial.attempt(NEWNS | NEWNET, mount) == ""
    assert not os.path.ismount(tmp_path)
