import pytest

from wherry.registry.errors import Code, Refused
from wherry.registry.names import Kind, Target, is_tag, parse_path


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/v2/", Target(Kind.BASE)),
        ("/v2/_catalog", Target(Kind.CATALOG)),
        ("/v2/a/tags/list", Target(Kind.TAGS, "a")),
        ("/v2/a/b-c/d__e/manifests/latest", Target(Kind.MANIFEST, "a/b-c/d__e", "latest")),
        ("/v2/a/blobs/uploads/", Target(Kind.UPLOADS, "a")),
        ("/v2/a/blobs/uploads", Target(Kind.UPLOADS, "a")),
        ("/v2/a/blobs/uploads/1-2", Target(Kind.UPLOAD, "a", "1-2")),
        ("/v2/a/blobs/sha256%3A00", Target(Kind.BLOB, "a", "sha256:00")),
        ("/v2/a/referrers/sha256:00", Target(Kind.REFERRERS, "a", "sha256:00")),
        ("/v2/blobs/uploads/manifests/x", Target(Kind.MANIFEST, "blobs/uploads", "x")),
        ("/v2/a/b/tags/list/tags/list", Target(Kind.TAGS, "a/b/tags/list")),
        ("/", None),
        ("/v1/a/tags/list", None),
        ("/v2/a", None),
        ("/v2/a/manifests/", None),
        ("/v2/a/manifests/b/c", None),
    ],
)
def test_a_path_means_one_resource(path: str, target: Target | None) -> None:
    assert parse_path(path) == target


@pytest.mark.parametrize(
    "name", ["A", "a//b", "a/", "-a", "a..b", "../a", "a/../b", "a%2f..%2fb", "a%00", "é", "a" * 256, "a___b", "_a"]
)
def test_a_name_outside_the_grammar_is_refused(name: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_path(f"/v2/{name}/tags/list")
    assert caught.value.code is Code.NAME_INVALID
    assert caught.value.status == 400


def test_tags_have_at_most_128_characters_of_the_grammar() -> None:
    assert is_tag("a" * 128) and is_tag("_1.2-x")
    assert not any(map(is_tag, ["a" * 129, "", ".a", "-a", "a/b", "a:b", "a\n"]))
