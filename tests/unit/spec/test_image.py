"""OCI and Docker image documents: what is taken, what is refused, which platform is chosen."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidArgument, NotFound
from wherry.spec.ids import Digest
from wherry.spec.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    chain_ids,
    diff_ids,
    host_platform,
    is_layer_type,
    matches,
    parse_config,
    parse_document,
    parse_platform,
    select,
)


def digest(text: str) -> Digest:
    return Digest("sha256:" + hashlib.sha256(text.encode()).hexdigest())


def described(text: str, media_type: str = "application/vnd.oci.image.config.v1+json", **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(text), "size": len(text), **more}


def manifest(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": described("config"), "layers": [described("layer", "x")], **more}


def index(*platforms: str | None, **more: Any) -> dict[str, Any]:
    entries = []
    for platform in platforms:
        entry = described(platform or "none", OCI_MANIFEST)
        if platform is not None:
            system, architecture, *variant = platform.split("/")
            entry["platform"] = {
                "os": system,
                "architecture": architecture,
                **({"variant": variant[0]} if variant else {}),
            }
        entries.append(entry)
    return {"schemaVersion": 2, "manifests": entries, **more}


def encode(document: object) -> bytes:
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "media_type", ["", OCI_MANIFEST, DOCKER_MANIFEST, "application/json", f"{OCI_MANIFEST}; charset=utf-8"]
)
def test_a_manifest_is_read_under_any_of_its_names(media_type: str) -> None:
    document = parse_document(encode(manifest()), media_type)
    assert isinstance(document, Manifest)
    assert (document.config.digest, len(document.layers)) == (digest("config"), 1)


@pytest.mark.parametrize("media_type", ["", OCI_INDEX, DOCKER_LIST])
def test_an_index_is_read_under_any_of_its_names(media_type: str) -> None:
    assert isinstance(parse_document(encode(index("linux/amd64")), media_type), Index)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(manifests=[]), OCI_MANIFEST),  # CVE-2021-41190
        (index("linux/amd64", layers=[]), OCI_INDEX),
        (index("linux/amd64", config=described("c")), ""),
        (index("linux/amd64", mediaType=OCI_MANIFEST), ""),
        (index("linux/amd64"), OCI_MANIFEST),
        (manifest(), OCI_INDEX),
        (manifest(mediaType=OCI_INDEX), ""),
        (manifest(mediaType=DOCKER_MANIFEST), OCI_MANIFEST),
        (manifest(schemaVersion=1), ""),
        (manifest(schemaVersion=3), ""),
        ({"schemaVersion": 1, "fsLayers": []}, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (manifest(mediaType="application/vnd.other"), ""),
        (manifest(config=None), ""),
        (manifest(config={**described("c"), "digest": "sha256:12"}), ""),
        (manifest(config={**described("c"), "digest": "md5:" + "0" * 32}), ""),
        (manifest(config={**described("c"), "size": -1}), ""),
        (manifest(config={**described("c"), "size": 1.5}), ""),
        (manifest(config={**described("c"), "size": True}), ""),
        (manifest(config={**described("c"), "size": 1 << 70}), ""),
        (manifest(layers={}), ""),
        (manifest(layers=[described("l")] * 501), ""),
        (manifest(layers=["sha256:" + "0" * 64]), ""),
        (index("linux/amd64", manifests=7), ""),
        (manifest(config={**described("c"), "annotations": {"a": 1}}), ""),
        (manifest(config={**described("c"), "platform": "linux"}), ""),
        ([], ""),
        ("x", ""),
    ],
)
def test_a_document_that_contradicts_itself_is_refused(document: Any, media_type: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_document(encode(document), media_type)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schemaVersion": 2, "schemaVersion": 2}', b"9" * 10_000]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument):
        parse_document(data)


def test_the_chain_id_of_a_stack_depends_on_all_below() -> None:
    first, second = digest("1"), digest("2")
    chain = chain_ids([first, second])
    assert chain[0] == first
    assert chain[1] == "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([]) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"config": []},
        {"config": {"Env": "A=1"}},
        {"config": {"Env": [1]}},
        {"config": {"Cmd": {}}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Volumes": ["/v"]}},
        {"config": {"User": 0}},
        {"architecture": 5},
        {"history": {}},
        {"history": [1]},
        {"history": [{"empty_layer": "yes"}]},
        {"rootfs": []},
        {"rootfs": {"type": "other"}},
        {"rootfs": {"type": "layers", "diff_ids": ["x"]}},
        {"rootfs": {"type": "layers", "diff_ids": [digest("x")] * 501}},
    ],
)
def test_a_config_with_a_field_of_the_wrong_type_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        parse_config(encode({"architecture": "amd64", "os": "linux", **wrong}))


def test_a_config_keeps_what_is_not_known() -> None:
    config = parse_config(encode({"config": {"Cmd": None, "X": 1}, "moby.buildkit": {"a": []}, "rootfs": None}))
    assert config["moby.buildkit"] == {"a": []}
    assert diff_ids(config) == ()


KEYS = st.sampled_from(
    ["schemaVersion", "mediaType", "config", "layers", "manifests", "rootfs", "history", "os", "platform", "digest"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([1.5, "", "x", "sha256:" + "0" * 64, OCI_MANIFEST]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, JSON, max_size=6))
def test_any_json_is_a_document_or_an_error_of_ours(value: Any) -> None:
    for parse in (parse_document, parse_config):
        with contextlib.suppress(InvalidArgument):
            parse(encode(value))


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("linux/x86_64", Platform("linux", "amd64")),
        ("LINUX/AMD64", Platform("linux", "amd64")),
        ("linux/amd64/v1", Platform("linux", "amd64")),
        ("arm64", Platform("linux", "arm64", "v8")),
        ("linux/aarch64/v8", Platform("linux", "arm64", "v8")),
        ("linux/arm", Platform("linux", "arm", "v7")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/arm/6", Platform("linux", "arm", "v6")),
        ("windows/amd64", Platform("windows", "amd64")),
        ("s390x", Platform("linux", "s390x")),
        ("LINUX", host_platform()),
        ("macos", Platform("darwin", host_platform().architecture, host_platform().variant)),
    ],
)
def test_platforms_are_normalised(text: str, platform: Platform) -> None:
    assert parse_platform(text) == platform


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '"" is an invalid component of "": '),
        ("linux/", '"" is an invalid component of "linux/": '),
        ("linux/a b", '"a b" is an invalid component of "linux/a b": '),
        ('a"b', r'"a\"b" is an invalid component of "a\"b": '),
        ("linux/amd64/", '"" is an invalid component of "linux/amd64/": '),
        ("*/*", '"*/*": wildcards not yet supported: '),
        ("foo", '"foo": unknown operating system or architecture: '),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: '),
        ("a" * 4096, f'"{"a" * 200}": unknown operating system or architecture: '),
    ],
)
def test_what_is_no_platform_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse_platform(text)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith(": invalid argument")


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/arm64", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/arm64", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/amd64", ["linux/386"], "linux/386"),
        ("linux/amd64", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64", [None], None),
    ],
)
def test_the_best_manifest_that_a_machine_runs_is_chosen(
    wanted: str, offered: list[str | None], chosen: str | None
) -> None:
    document = parse_document(encode(index(*offered)))
    assert isinstance(document, Index)
    assert select(document, parse_platform(wanted)).digest == digest(chosen or "none")


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/amd64", ["linux/arm64", "windows/amd64"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/amd64", ["linux/amd64/v3"]),
        ("linux/amd64", [None, None]),
        ("linux/amd64", []),
    ],
)
def test_no_manifest_that_fits_is_said_in_dockers_words(wanted: str, offered: list[str | None]) -> None:
    document = parse_document(encode(index(*offered)))
    assert isinstance(document, Index)
    with pytest.raises(NotFound, match=r"^no matching manifest for .* in the manifest list entries$"):
        select(document, parse_platform(wanted))


def test_attestations_are_never_chosen() -> None:
    document = parse_document(encode(index("unknown/unknown", "linux/amd64")))
    assert isinstance(document, Index)
    assert select(document, Platform("linux", "amd64")).digest == digest("linux/amd64")


def test_an_older_variant_runs_and_a_newer_does_not() -> None:
    assert matches(Platform("linux", "arm", "v7"), Platform("linux", "arm", "v6"))
    assert not matches(Platform("linux", "arm", "v6"), Platform("linux", "arm", "v7"))
    assert matches(Platform("linux", "amd64"), Platform("linux", "x86_64", "v1"))


@pytest.mark.parametrize(
    ("media_type", "is_layer"),
    [
        ("application/vnd.oci.image.layer.v1.tar", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip", True),
        ("application/vnd.oci.image.layer.v1.tar+zstd", True),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", True),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.empty.v1+json", False),
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", False),
        ("", False),
    ],
)
def test_only_tars_of_root_file_systems_are_layers(media_type: str, is_layer: bool) -> None:
    assert is_layer_type(media_type) is is_layer


def test_a_descriptor_is_written_as_it_was_read() -> None:
    written = Descriptor(OCI_MANIFEST, digest("a"), 1, Platform("linux", "arm", "v7"), {"k": "v"}).to_json()
    assert written == {
        "mediaType": OCI_MANIFEST,
        "digest": digest("a"),
        "size": 1,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
        "annotations": {"k": "v"},
    }
