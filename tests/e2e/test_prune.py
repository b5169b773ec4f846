"""What prunes take and leave with their filters, and what stands in the way of removing an image: words, codes and what is left are dockerd's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.harness import BUSYBOX, PEER, Engine, differs_on_dockerd
from tests.images import Entry, ImageSpec, docker_archive, image_id, layer

LABELS = {"none": {}, "a1": {"a": "1"}, "a1b2": {"a": "1", "b": "2"}, "a2": {"a": "2"}, "b1": {"b": "1"}}
LATER, EARLIER = "2099-01-01T00:00:00", "2020-01-01T00:00:00"
FILTERS = {
    '{"label":["a"]}': "none b1",
    '{"label":["a=1"]}': "none a2 b1",
    '{"label":["a=1","b"]}': "none a1 a2 b1",
    '{"label!":["a"]}': "a1 a1b2 a2",
    '{"label!":["a=1"]}': "a1 a1b2",
    '{"label!":["a","b"]}': "a1b2",
    '{"label!":["a=1","b=1"]}': "",
    '{"label":["a"],"label!":["b"]}': "none a1b2 b1",
    f'{{"until":["{LATER}"]}}': "",
    f'{{"until":["{EARLIER}"]}}': "none a1 a1b2 a2 b1",
    f'{{"until":["{LATER}"],"label":["b"]}}': "none a1 a2",
    '{"until":["876000h"]}': "none a1 a1b2 a2 b1",
}
"""Filters of a prune, and which of the labelled ones above they leave."""
REFUSED = {
    '{"until":["1h","2h"]}': "more than one until filter specified",
    '{"until":["x"]}': 'failed to parse value as time or duration: "x"',
    '{"nope":["1"]}': "invalid filter 'nope'",
}


def spec(name: str) -> ImageSpec:
    return ImageSpec((layer([Entry("file", name.encode())]),), {"Labels": LABELS.get(name, {}), "Cmd": ["/x"]})


def load(engine: Engine, directory: Path, name: str, *tags: str) -> str:
    """→ the image's id."""
    path = directory / f"{name}.tar"
    path.write_bytes(docker_archive(spec(name), list(tags)))
    engine.docker("load", "-q", "-i", str(path))
    return image_id(spec(name))


def prune(engine: Engine, what: str, filters: str) -> dict[str, Any]:
    status, said = engine.api("POST", f"/{what}/prune?filters={quote(filters)}")
    assert status == 200, said
    answer: dict[str, Any] = said
    return answer


def is_refused(engine: Engine, what: str, filters: str, words: str) -> None:
    """dockerd 20.10 answers 500 where newer ones say that the request is wrong, and begins with a capital."""
    status, said = engine.api("POST", f"/{what}/prune?filters={quote(filters)}")
    assert words in said["message"].replace("Invalid", "invalid"), said
    assert status == 400 or (PEER, status) == ("dockerd", 500)


def images_left(engine: Engine) -> str:
    ids = {image_id(spec(name)): name for name in LABELS}
    found = {ids[item["Id"]] for item in engine.api("GET", "/images/json?all=1")[1] if item["Id"] in ids}
    return " ".join(name for name in LABELS if name in found)


@pytest.fixture
def clean(engine: Engine) -> Iterator[Engine]:
    """Nothing without a name is left of earlier tests, nothing is left for later ones."""
    engine.docker("image", "prune", "-f")
    yield engine
    engine.docker("container", "prune", "-f")
    engine.docker("image", "prune", "-f")


# --- prunes


def test_images(clean: Engine, tmp_path: Path) -> None:
    for filters, left in FILTERS.items():
        for name in LABELS:
            load(clean, tmp_path, name)
        said = prune(clean, "images", filters)
        assert images_left(clean) == left, filters
        gone = [item["Deleted"] for item in said["ImagesDeleted"] or ()]
        assert {image_id(spec(name)) for name in set(LABELS) - set(left.split())} <= set(gone)
        assert (said["SpaceReclaimed"] > 0) == bool(gone)
    for filters, words in {**REFUSED, '{"dangling":["maybe"]}': "invalid filter 'dangling=[maybe]'"}.items():
        is_refused(clean, "images", filters, words)


def test_images_with_names_go_when_all_are_asked_for(clean: Engine, tmp_path: Path) -> None:
    for name in LABELS:
        load(clean, tmp_path, name, f"{name}:1")
    prune(clean, "images", '{"label":["b"]}')
    assert images_left(clean) == " ".join(LABELS)
    clean.docker("create", "--network=none", "--name=user", "a1b2:1")
    prune(clean, "images", '{"dangling":["false"],"label":["b"]}')
    assert images_left(clean) == "none a1 a1b2 a2"
    clean.docker("rm", "user")
    prune(clean, "images", '{"dangling":["false"],"label":["a"]}')
    assert images_left(clean) == "none"
    clean.docker("rmi", "none:1")


def test_containers(clean: Engine) -> None:
    clean.docker("run", "-d", "--network=none", "--name=running", "-l", "a=1", BUSYBOX, "sleep", "1000")
    ids: dict[str, str] = {}
    for filters, left in FILTERS.items():
        for name, labels in LABELS.items():
            if name not in ids:
                body = {"Image": BUSYBOX, "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
                ids[name] = clean.api("POST", f"/containers/create?name={name}", body)[1]["Id"]
        said = prune(clean, "containers", filters)
        found = {item["Names"][0][1:] for item in clean.api("GET", "/containers/json?all=1")[1]}
        assert found == {*left.split(), "running"}, filters
        gone = {ids.pop(name) for name in LABELS if name not in left.split()}
        assert set(said["ContainersDeleted"] or ()) == gone
    for filters, words in REFUSED.items():
        is_refused(clean, "containers", filters, words)
    clean.docker("rm", "-f", "running")


def test_volumes(engine: Engine) -> None:
    everything = {} if PEER == "dockerd" else {"all": ["true"]}  # 20.10 knows no other prune
    for text, left in FILTERS.items():
        filters = json.loads(text)
        if "until" in filters:
            continue
        for name, labels in LABELS.items():
            engine.api("POST", "/volumes/create", {"Name": f"p{name}", "Labels": labels})
        engine.docker("create", "--network=none", "--name=holder", "-v", "pnone:/v", BUSYBOX)
        prune(engine, "volumes", json.dumps({**filters, **everything}))
        found = {item["Name"][1:] for item in engine.api("GET", "/volumes")[1]["Volumes"]}
        assert found & set(LABELS) == {*left.split(), "none"}, filters
        engine.docker("rm", "holder")
    for filters, words in {
        '{"nope":["1"]}': "invalid filter 'nope'",
        '{"until":["1h"]}': "invalid filter 'until'",
    }.items():
        is_refused(engine, "volumes", filters, words)


def test_networks(engine: Engine) -> None:
    for filters in FILTERS:
        assert not prune(engine, "networks", filters)["NetworksDeleted"]
    for filters, words in REFUSED.items():
        is_refused(engine, "networks", filters, words)


def test_each_prune_is_an_event(engine: Engine) -> None:
    since = time.time()
    for what in ("images", "containers", "volumes", "networks"):
        prune(engine, what, "{}")
    words = (
        "events",
        f"--since={since}",
        f"--until={time.time() + 0.1}",
        "--filter=event=prune",
        "--format={{json .}}",
    )
    told = [json.loads(line) for line in engine.output(*words).splitlines()]
    assert [event["Type"] for event in told] == ["image", "container", "volume", "network"]
    assert all("reclaimed" in event["Actor"]["Attributes"] for event in told)


def test_the_cli_says_what_went(clean: Engine, tmp_path: Path) -> None:
    load(clean, tmp_path, "a1")
    load(clean, tmp_path, "b1")
    said = clean.output("image", "prune", "-f", "--filter", "label!=a").splitlines()
    assert said[:2] == ["Deleted Images:", f"deleted: {image_id(spec('b1'))}"]
    assert said[-1].startswith("Total reclaimed space: ")
    container = clean.output("create", "--network=none", "-l", "a=1", BUSYBOX)
    assert clean.output("container", "prune", "-f", "--filter", "label=a=2") == "Total reclaimed space: 0B"
    said = clean.output("container", "prune", "-f", "--filter", "label=a=1").splitlines()
    assert said[:2] == ["Deleted Containers:", container]
    done = clean.docker("image", "prune", "-f", "--filter", "nope=1", check=False)
    assert (done.returncode, done.stderr.lower()) == (1, "error response from daemon: invalid filter 'nope'\n")


# --- what stands in the way of rmi


def short(id: str) -> str:
    return id.removeprefix("sha256:")[:12]


def refused(engine: Engine, *words: str) -> str:
    done = engine.docker("rmi", *words, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.strip().removeprefix("Error response from daemon: ")


def family(engine: Engine, directory: Path) -> tuple[str, str]:
    """An image `parent:1` and one that was made on it, `child:1`. → their ids."""
    parent = load(engine, directory, "parent", "parent:1")
    engine.docker("create", "--network=none", "--name=maker", "parent:1")
    child = engine.output("commit", "maker", "child:1")
    engine.docker("rm", "maker")
    return parent, child


def ids(engine: Engine) -> set[str]:
    return set(engine.output("images", "-aq", "--no-trunc").splitlines())


def test_an_image_with_children_keeps_its_place_and_loses_its_name(clean: Engine, tmp_path: Path) -> None:
    parent, child = family(clean, tmp_path)
    words = f"conflict: unable to delete {short(parent)} (cannot be forced) - image has dependent child images"
    assert refused(clean, parent) == refused(clean, "-f", parent) == words
    assert clean.api("DELETE", f"/images/{parent}?force=1") == (409, {"message": words})
    assert clean.output("rmi", "parent:1") == "Untagged: parent:1"
    assert refused(clean, parent) == refused(clean, "-f", parent) == words
    assert {parent, child} <= ids(clean)
    assert clean.output("rmi", "child:1").splitlines()[:3] == [
        "Untagged: child:1",
        f"Deleted: {child}",
        f"Deleted: {parent}",
    ]


def test_parents_without_a_name_go_with_their_last_child_unless_they_are_to_stay(clean: Engine, tmp_path: Path) -> None:
    parent, child = family(clean, tmp_path)
    clean.docker("rmi", "parent:1")
    assert clean.output("rmi", "--no-prune", "child:1").splitlines() == ["Untagged: child:1", f"Deleted: {child}"]
    assert parent in ids(clean) and child not in ids(clean)
    assert clean.output("rmi", parent).splitlines()[0] == f"Deleted: {parent}"
    parent, child = family(clean, tmp_path)
    assert clean.output("rmi", "child:1").splitlines() == ["Untagged: child:1", f"Deleted: {child}"]
    assert parent in ids(clean)  # it has a name
    clean.docker("create", "--network=none", "--name=maker", "parent:1")
    clean.docker("commit", "maker", "child:1")
    assert clean.output("rmi", "-f", "parent:1") == "Untagged: parent:1"
    clean.docker("rmi", "child:1")
    assert parent in ids(clean)  # a container was made from it
    clean.docker("rm", "maker")
    clean.docker("rmi", parent)


def test_the_image_of_a_running_container_loses_its_name_by_force_and_stays(engine: Engine) -> None:
    image = engine.inspect(BUSYBOX)["Id"]
    engine.docker("tag", BUSYBOX, "second:1")
    container = engine.output("run", "-d", "--network=none", "--name=runs", BUSYBOX, "sleep", "1000")
    hard = f"conflict: unable to delete {short(image)} (cannot be forced) - image is being used by running container {short(container)}"
    try:
        assert refused(engine, "-f", image) == hard
        assert engine.output("rmi", BUSYBOX) == f"Untagged: {BUSYBOX}"  # it has another
        assert refused(engine, "second:1") == (
            f'conflict: unable to remove repository reference "second:1" (must force) - container {short(container)} is using its '
            f"referenced image {short(image)}"
        )
        assert engine.output("rmi", "-f", "second:1") == "Untagged: second:1"
        assert image in ids(engine) and refused(engine, "-f", image) == hard
        assert engine.output("ps", "--format={{.Image}}", "--no-trunc", "--filter=name=runs") == image
        prune(engine, "images", '{"dangling":["false"]}')
        assert image in ids(engine)
    finally:
        engine.docker("tag", image, BUSYBOX)
    engine.docker("kill", "runs")
    stopped = f"conflict: unable to delete {short(image)} (must be forced) - image is being used by stopped container {short(container)}"
    assert refused(engine, image) == stopped


def test_what_is_not_there_is_said_and_no_failure_when_forced(engine: Engine) -> None:
    done = engine.docker("rmi", "nothing", "another:2", check=False)
    expected = [f"Error response from daemon: No such image: {name}" for name in ("nothing:latest", "another:2")]
    assert (done.returncode, done.stderr.splitlines()) == (1, expected)
    done = engine.docker("rmi", "-f", "nothing", check=False)
    assert (done.returncode, done.stderr.splitlines()) == (0, expected[:1])


@differs_on_dockerd("speaks with wherryd")
def test_the_wherry_cli_does_the_same(clean: Engine, tmp_path: Path) -> None:
    from tests.e2e.parity import DOCKER, WHERRY, ask

    parent, _ = family(clean, tmp_path)
    for words in (
        ["rmi", "-f", parent],
        ["rmi", "nothing"],
        ["rmi", "-f", "nothing"],
        ["image", "prune", "-f", "--filter", "nope=1"],
        ["image", "prune", "-f", "--filter", "until=x"],
        ["container", "prune", "-f", "--filter", "until=1h"],
        ["volume", "prune", "-f", "--filter", "label!=a"],
    ):
        assert ask(clean, WHERRY, words) == ask(clean, DOCKER, words)
    for program in (DOCKER, WHERRY):
        load(clean, tmp_path, "a1")
        load(clean, tmp_path, "b1")
        assert "reclaimed space" in ask(clean, program, ["image", "prune", "-f", "--filter", "label=a"]).out
        assert images_left(clean) == "b1"
    assert ask(clean, WHERRY, ["rmi", "--no-prune", "child:1"]).code == 0
    assert parent in ids(clean)
    clean.docker("rmi", "parent:1")


@pytest.mark.parametrize("what", ["containers", "images", "volumes", "networks"])
def test_prunes_that_come_together_are_done_or_refused(what: str, clean: Engine) -> None:
    for _ in range(3):
        clean.docker("create", "--network=none", "-v", "/data", BUSYBOX, "true")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(clean.api, "POST", f"/{what}/prune") for _ in range(8)]
    said = [answer.result() for answer in answers]
    assert any(status == 200 for status, _ in said)
    assert all(
        status == 200 or (status, body["message"]) == (409, "a prune operation is already running")
        for status, body in said
    )
    prune(clean, what, "{}")
