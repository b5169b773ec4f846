"""diff, export and commit through the real docker CLI: what a container has changed, as a list, as an archive, as an image."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
import time
from contextlib import ExitStack
from urllib.parse import quote

import pytest

from tests.e2e.harness import BUSYBOX, Engine, UnixConnection, differs_on_dockerd, wait_until
from tests.e2e.parity import DOCKER, WHERRY, ask

CHANGES = """
echo hi > /a; ln /a /b; ln -s /a /l; mkfifo /root/p
rm /etc/group; echo x >> /etc/passwd
rm -r /home; mkdir /home; touch /home/x
chmod 700 /var; touch /usr; mv /usr/sbin /usr/moved
rm -r /root; mkdir /root
mkdir -p /deep/er; rmdir /sys 2>/dev/null; mkdir /tmp/t; rmdir /tmp/t
dd if=/dev/zero of=/sparse bs=1 count=1 seek=8388608 2>/dev/null
"""
DIFF = {
    *("A /a", "A /b", "A /l", "A /deep", "A /deep/er", "A /sparse"),
    *("C /etc", "D /etc/group", "C /etc/passwd"),
    *("C /home", "D /home/app", "A /home/x"),
    *("C /var", "C /usr", "D /usr/sbin", "A /usr/moved"),
}


@pytest.fixture
def changed(engine: Engine) -> str:
    """A container that has changed a few things and ended."""
    engine.docker("run", "--name=changed", "--network=none", "-v", "/tmp:/mnt/here", BUSYBOX, "sh", "-c", CHANGES)
    return "changed"


def exported(engine: Engine, ref: str) -> dict[str, tarfile.TarInfo]:
    done = subprocess.run(
        ["docker", "export", ref], env=engine.client_environment, capture_output=True, check=True, timeout=300
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return {member.name: member for member in archive}


def test_diff_lists_what_was_added_changed_and_deleted(engine: Engine, changed: str) -> None:
    assert set(engine.output("diff", changed).splitlines()) == DIFF | {"A /mnt", "A /mnt/here"}


def test_a_container_that_changes_nothing_has_no_diff(engine: Engine) -> None:
    id = engine.output("run", "-d", BUSYBOX, "sleep", "1000")
    assert engine.output("diff", id) == ""
    engine.docker("exec", id, "touch", "/new")
    assert engine.output("diff", id) == "A /new"


def test_export_is_the_whole_file_system(engine: Engine, changed: str) -> None:
    found = exported(engine, changed)
    assert {"a", "bin/busybox", "home/x", "usr/moved", ".dockerenv", "etc/hosts", "dev/console", "proc"} <= set(found)
    assert not {"etc/group", "home/app", "usr/sbin", "etc/.wh.group"} & set(found)
    assert sorted((found["a"].islnk(), found["b"].islnk())) == [False, True]
    assert (found["l"].linkname, found["var"].mode & 0o7777, found["sparse"].size) == ("/a", 0o700, 8388609)
    assert found["etc/hosts"].size == 0  # the file that is mounted over it is not the container's


@pytest.mark.parametrize("action", ["save", "export"])
def test_a_client_that_goes_with_the_last_byte_has_been_served(engine: Engine, action: str) -> None:
    engine.docker("create", "--name=small", BUSYBOX, "true")
    path = {"save": f"/images/{quote(BUSYBOX, safe='')}/get", "export": "/containers/small/export"}[action]
    since, rounds, size = time.time(), 40, 0
    for _ in range(1 + rounds):
        connection = UnixConnection(engine.socket_path)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        if size:  # the end of the chunks comes behind it, and is not waited for
            assert len(answer.read(size)) == size
        else:
            size = len(answer.read())
        answer.close()
        connection.close()

    def told() -> list[str]:
        flags = (f"--since={since:.9f}", f"--until={time.time():.9f}", f"--filter=event={action}")
        return engine.output("events", *flags).splitlines()

    wait_until("each has been told", lambda: len(told()) == 1 + rounds)


def test_clients_that_stop_in_the_middle_hold_nobody_up(engine: Engine) -> None:
    engine.docker(
        "run", "--name=big", "--network=none", BUSYBOX, "sh", "-c", "head -c 8000000 /dev/zero >/big; echo made"
    )
    load = "POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: 1000000\r\n\r\n"
    export = "GET /containers/big/export HTTP/1.1\r\nHost: d\r\n\r\n"
    with ExitStack() as stack:
        for request in [load] * 40 + [export] * 4:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(engine.socket_path)
            client.sendall(request.encode())
        assert client.recv(1)  # of the last of those who do not read on
        assert engine.output("logs", "big") == "made"
        assert engine.output("diff", "big") == "A /big"


def test_commit_makes_an_image_of_the_changes(engine: Engine, changed: str) -> None:
    words = ["-m", "a message", "-a", "An Author", "-c", 'CMD ["cat", "/a"]', "-c", "ENV A=1"]
    id = engine.output("commit", *words, changed, "made:1")
    shown = engine.inspect("made:1")
    assert (shown["Id"], shown["Author"], shown["Comment"]) == (id, "An Author", "a message")
    assert shown["Parent"] == engine.inspect(BUSYBOX)["Id"]
    assert (shown["Config"]["Cmd"], "A=1" in shown["Config"]["Env"]) == (["cat", "/a"], True)
    assert shown["Config"].get("WorkingDir") in (None, "")
    history = engine.output("history", "--no-trunc", "--format={{json .}}", "made:1").splitlines()
    newest = json.loads(history[0])
    assert (newest["ID"], newest["Comment"]) == (id, "a message")
    assert newest["CreatedBy"].startswith("sh -c echo hi > /a;") or "echo hi" in newest["CreatedBy"]
    assert engine.output("run", "--rm", "--network=none", "made:1") == "hi"


def test_changes_that_leave_nothing_leave_the_containers_own(engine: Engine) -> None:
    container = engine.output("create", BUSYBOX, "echo", "own")
    for changes, entrypoint, command in (
        (["CMD []"], None, ["echo", "own"]),
        (["ENTRYPOINT []"], None, ["echo", "own"]),
        (["CMD x"], None, ["/bin/sh", "-c", "x"]),
        (['ENTRYPOINT ["cat"]'], ["cat"], None),
        (['ENTRYPOINT ["cat"]', "ENTRYPOINT []"], None, ["echo", "own"]),
    ):
        made = engine.output("commit", *(f"--change={change}" for change in changes), container)
        config = engine.inspect(made)["Config"]
        assert (config.get("Entrypoint"), config.get("Cmd")) == (entrypoint, command), changes
    made = engine.output("commit", "--change=EXPOSE 0 8080:80", container, "ports:0")
    assert engine.inspect(made)["Config"]["ExposedPorts"] == {"0/tcp": {}, "80/tcp": {}}
    assert engine.output("run", "--rm", "--network=none", "ports:0") == "own"


def test_what_was_committed_is_what_the_container_saw(engine: Engine, changed: str) -> None:
    engine.docker("commit", changed, "made:1")
    copy = engine.output("create", "-v", "/tmp:/mnt/here", "made:1", "true")
    assert engine.output("diff", copy) == ""
    mine, theirs = exported(engine, changed), exported(engine, copy)

    def form(member: tarfile.TarInfo) -> tuple[object, ...]:
        return member.name, member.type, member.mode, member.uid, member.gid, member.size, member.linkname

    skip = {"mnt", "mnt/here"}
    assert {form(m) for m in mine.values() if m.name not in skip} == {
        form(m) for m in theirs.values() if m.name not in skip
    }
    script = "stat -c %i /a /b | uniq | wc -l; stat -c '%b' /sparse; cat /etc/passwd | tail -1"
    links, blocks, last = engine.shell(script, image="made:1").split()
    assert (links, last) == ("1", "x")
    if engine.kind != "dockerd":  # whose layers hold the zeros
        assert int(blocks) < 100


def test_attributes_and_devices_are_committed(engine: Engine) -> None:
    script = (
        "mknod /null2 c 1 3; mknod /blk b 7 9; chown 5:6 /etc/group; chmod 4755 /bin/busybox; mkdir /o; chmod 1777 /o"
    )
    engine.docker("run", "--name=special", "--network=none", BUSYBOX, "sh", "-c", script)
    engine.docker("commit", "special", "special:1")
    shown = engine.shell("stat -c '%n %F %a %u %g %t %T' /null2 /blk /etc/group /bin/busybox /o", image="special:1")
    assert shown.splitlines() == [
        "/null2 character special file 644 0 0 1 3",
        "/blk block special file 644 0 0 7 9",
        "/etc/group regular file 644 5 6 0 0",
        "/bin/busybox regular file 4755 0 0 0 0",
        "/o directory 1777 0 0 0 0",
    ]


def test_commit_pauses_a_running_container_and_lets_it_go_on(engine: Engine) -> None:
    id = engine.output("run", "-d", BUSYBOX, "sleep", "1000")
    engine.docker("exec", id, "touch", "/new")
    since = f"--since={time.time():.9f}"
    engine.docker("commit", id, "made:2")
    engine.docker("commit", "--pause=false", id, "made:3")
    told = engine.output(
        "events", since, f"--until={time.time():.9f}", f"--filter=container={id}", "--format={{.Action}}"
    )
    seen = [action for action in told.splitlines() if not action.startswith("exec")]
    assert seen == ["pause", "unpause", "commit", "commit"] or seen == ["pause", "commit", "unpause", "commit"]
    assert engine.state(id)["Running"] and not engine.state(id)["Paused"]
    assert engine.shell("ls /new", image="made:3") == "/new"


def test_commit_of_nothing_new_adds_no_layer(engine: Engine) -> None:
    id = engine.output("create", BUSYBOX, "true")
    engine.docker("commit", id, "same:1")
    assert engine.inspect("same:1")["RootFS"] == engine.inspect(BUSYBOX)["RootFS"]
    assert len(engine.output("history", "-q", "same:1").splitlines()) == 2


def test_commits_stack(engine: Engine) -> None:
    engine.docker("run", "--name=one", "--network=none", BUSYBOX, "sh", "-c", "mkdir /d; echo 1 > /d/1; echo 2 > /d/2")
    engine.docker("commit", "one", "step:1")
    engine.docker("run", "--name=two", "--network=none", "step:1", "sh", "-c", "rm /d/1; echo 3 > /d/3")
    engine.docker("commit", "two", "step:2")
    engine.docker("run", "--name=three", "--network=none", "step:2", "sh", "-c", "rm -r /d; mkdir /d; echo 4 > /d/4")
    assert set(engine.output("diff", "three").splitlines()) == {"C /d", "D /d/2", "D /d/3", "A /d/4"}
    engine.docker("commit", "three", "step:3")
    assert [engine.shell("ls /d", image=f"step:{n}").split() for n in (1, 2, 3)] == [["1", "2"], ["2", "3"], ["4"]]
    assert engine.docker("rmi", "step:1", check=False).returncode == 1  # "two" was made from it


def test_errors_are_dockers(engine: Engine) -> None:
    for words in (["diff", "nobody"], ["export", "nobody"], ["commit", "nobody"]):
        done = engine.docker(*words, check=False)
        assert (done.returncode, done.stderr.strip()) == (1, "Error response from daemon: No such container: nobody")
    id = engine.output("create", BUSYBOX, "true")
    refused = engine.docker("commit", "-c", "RUN x", id, check=False)
    assert refused.returncode == 1 and "run is not a valid change command" in refused.stderr.lower()
    refused = engine.docker("commit", id, "Bad:Name:x", check=False)
    assert refused.returncode == 1 and "invalid reference format" in refused.stderr


@differs_on_dockerd("the wherry CLI speaks with wherryd")
def test_the_wherry_cli_does_the_same(engine: Engine, changed: str) -> None:
    answers = [ask(engine, program, ["diff", changed]) for program in (DOCKER, WHERRY)]
    assert sorted(answers[0].out.splitlines()) == sorted(answers[1].out.splitlines())
    made = ask(engine, WHERRY, ["commit", "-m", "m", "-c", "USER app", changed, "cli:1"])
    assert (made.code, engine.inspect("cli:1")["Config"]["User"]) == (0, "app")
    path = engine.root / "exported.tar"
    assert ask(engine, WHERRY, ["export", "-o", str(path), changed]).code == 0
    with tarfile.open(path) as archive:
        assert {member.name for member in archive} == set(exported(engine, changed))
    path.unlink()
    answers = [ask(engine, program, ["export", "-o", "/nowhere/x.tar", changed]) for program in (DOCKER, WHERRY)]
    assert answers[0] == answers[1]
