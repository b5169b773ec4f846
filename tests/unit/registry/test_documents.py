import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.registry.lab import EMPTY, OCI_INDEX, OCI_MANIFEST, descriptor, image, index, sha

from wherry.registry.documents import parse
from wherry.registry.errors import Code, Refused


def parsed(document: dict[str, Any], media_type: str = OCI_MANIFEST) -> Any:
    return parse(json.dumps(document).encode(), media_type)


def test_a_manifest_needs_its_config_and_layers() -> None:
    document = parsed(image(b"one", b"two"))
    assert document.blobs == (sha(EMPTY), sha(b"one"), sha(b"two"))
    assert document.manifests == () and document.subject is None


def test_layers_that_are_fetched_elsewhere_need_not_be_here() -> None:
    foreign = descriptor(b"x", "application/vnd.oci.image.layer.nondistributable.v1.tar")
    document = parsed(image() | {"layers": [foreign]})
    assert document.blobs == (sha(EMPTY),)
    assert document.elsewhere == (sha(b"x"),)


def test_the_artifact_type_is_the_configs_unless_it_is_said() -> None:
    assert parsed(image()).artifact_type == "application/vnd.oci.image.config.v1+json"
    assert parsed(image(artifactType="a/b")).artifact_type == "a/b"
    assert parsed(index(), OCI_INDEX).artifact_type == ""


def test_parameters_of_the_content_type_do_not_count() -> None:
    assert parsed(image(), f"{OCI_MANIFEST}; charset=utf-8").media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(manifests=[]), OCI_MANIFEST),
        (index(layers=[]), OCI_INDEX),
        (image(), OCI_INDEX),
        (image(), "application/vnd.docker.distribution.manifest.v2+json"),
        (image() | {"schemaVersion": 1}, OCI_MANIFEST),
        (image() | {"config": None}, OCI_MANIFEST),
        (image() | {"layers": 1}, OCI_MANIFEST),
        (image() | {"layers": [{"digest": "md5:00", "size": 1}]}, OCI_MANIFEST),
        (image() | {"layers": [descriptor(b"") | {"size": -1}]}, OCI_MANIFEST),
        (image(subject={"digest": "../../etc"}), OCI_MANIFEST),
        (image(annotations=[]), OCI_MANIFEST),
        ({}, "text/plain"),
    ],
)
def test_what_is_no_manifest_is_refused(document: dict[str, Any], media_type: str) -> None:
    with pytest.raises(Refused) as caught:
        parsed(document, media_type)
    assert caught.value.code is Code.MANIFEST_INVALID


@given(st.binary(max_size=200), st.sampled_from([OCI_MANIFEST, OCI_INDEX, ""]))
def test_any_bytes_are_parsed_or_refused(data: bytes, media_type: str) -> None:
    with pytest.raises(Refused):
        parse(data, media_type)
