from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.mounts import resolve
from wherry.engine.records import MountPoint
from wherry.errors import InvalidArgument
from wherry.wire.engine import BindOptions, HostConfig, Mount, TmpfsOptions


def no_container(ref: str) -> list[MountPoint]:
    raise AssertionError(f"nobody asked for {ref}")


def one(**host: object) -> object:
    (point,) = resolve(HostConfig(**host), [], no_container)
    return point


def test_an_absolute_source_is_a_bind() -> None:
    point = one(binds=["/srv/data:/data:ro"])
    assert (point.type, point.source, point.destination, point.read_only) == ("bind", "/srv/data", "/data", True)


def test_any_other_source_is_a_volume_that_takes_the_images_content() -> None:
    point = one(binds=["data:/data"])
    assert (point.type, point.name, point.copy_up, point.anonymous) == ("volume", "data", True, False)


def test_a_lone_destination_is_an_anonymous_volume() -> None:
    point = one(binds=["/data"])
    assert point.type == "volume" and point.anonymous and len(point.name) == 64


def test_nocopy_leaves_the_volume_empty() -> None:
    assert not one(binds=["data:/data:nocopy"]).copy_up


def test_an_images_volume_gives_way_to_the_users() -> None:
    points = resolve(HostConfig(binds=["/srv:/data"]), ["/data", "/other"], no_container)
    assert [(point.destination, point.type) for point in points] == [("/data", "bind"), ("/other", "volume")]


def test_deeper_mounts_come_later() -> None:
    points = resolve(HostConfig(binds=["/a:/x/y/z", "/b:/x"], tmpfs={"/x/y": ""}), [], no_container)
    assert [point.destination for point in points] == ["/x", "/x/y", "/x/y/z"]


@pytest.mark.parametrize(
    "bind",
    [
        "a:b",
        "/a:b",
        ":/x",
        "/a:/b:/c:/d",
        "/a:/b:wo",
        "/a:/b:ro,rw",
        "/a:/",
        "/a:/../..",
        "name:/x:rshared",
        "",
        "/a:/b\0c",
    ],
)
def test_a_malformed_bind_is_refused(bind: str) -> None:
    with pytest.raises(InvalidArgument):
        resolve(HostConfig(binds=[bind]), [], no_container)


def test_two_mounts_on_one_destination_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /x"):
        resolve(HostConfig(binds=["/a:/x", "/b:/x/"]), [], no_container)


def test_tmpfs_defaults_are_taken_back_by_their_opposites() -> None:
    point = one(tmpfs={"/run": "exec,size=64k"})
    assert set(point.options) == {"nosuid", "nodev", "exec", "size=64k"}


def test_an_unknown_tmpfs_option_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid tmpfs option"):
        resolve(HostConfig(tmpfs={"/run": "colour=red"}), [], no_container)


def test_mount_tmpfs_carries_size_and_mode() -> None:
    point = one(mounts=[Mount(type="tmpfs", target="/t", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o1770))])
    assert "size=4096" in point.options and "mode=1770" in point.options


def test_mount_bind_does_not_make_its_source() -> None:
    with pytest.raises(InvalidArgument, match="bind source path does not exist: /nowhere/at/all"):
        resolve(HostConfig(mounts=[Mount(type="bind", source="/nowhere/at/all", target="/x")]), [], no_container)


def test_mount_bind_keeps_its_propagation() -> None:
    point = one(mounts=[Mount(type="bind", source="/tmp", target="/x", bind_options=BindOptions(propagation="rslave"))])
    assert point.propagation == "rslave"


@given(st.text(max_size=40))
def test_whatever_is_written_is_taken_or_refused(text: str) -> None:
    try:
        points = resolve(HostConfig(binds=[text]), [], no_container)
    except InvalidArgument:
        return
    assert all(point.destination.startswith("/") and "/../" not in point.destination for point in points)


def test_a_nul_in_a_source_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        resolve(HostConfig(binds=["/srv/\0:/data"]), [], no_container)
