"""Image references: what they stand for, how they are shown, which are refused and in which words."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidArgument
from wherry.spec.ids import Digest
from wherry.spec.reference import Reference, is_tag, parse, parse_any

SHA = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/library/busybox:x", "docker.io/library/busybox:x", "busybox:x"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/user/app", "docker.io/user/app", "user/app"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("app:5000", "docker.io/library/app:5000", "app:5000"),
        ("quay.io/team/app@" + SHA, "quay.io/team/app@" + SHA, "quay.io/team/app@" + SHA),
        ("app:1@" + SHA, "docker.io/library/app:1@" + SHA, "app:1@" + SHA),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("Registry/app", "Registry/app", "Registry/app"),
        ("a__b/c.d_e---f:T.1-x_", "docker.io/a__b/c.d_e---f:T.1-x_", "a__b/c.d_e---f:T.1-x_"),
    ],
)
def test_a_reference_stands_for_one_full_name_and_is_shown_short(text: str, full: str, familiar: str) -> None:
    reference = parse(text)
    assert (str(reference), reference.familiar) == (full, familiar)
    assert parse(str(reference)) == parse(reference.familiar) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("/a", "invalid reference format"),
        ("a/", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a..b", "invalid reference format"),
        ("a___b", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a:.t", "invalid reference format"),
        ("a@sha256:12", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a:ü", "invalid reference format"),
        ("https://host/a", "invalid reference format"),
        ("host:port/a", "invalid reference format"),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("host.x/App:1", "invalid reference format: repository name (App) must be lowercase"),
        ("a@md5:" + "0" * 32, "unsupported digest algorithm"),
        ("a@sha256:" + "0" * 40, "invalid checksum digest length"),
        ("a@sha256:" + "A" * 64, "invalid reference format"),
        ("a/" * 150 + "b", "repository name must not be more than 255 characters"),
        ("f" * 64, f"invalid repository name ({'f' * 64}), cannot specify 64-byte hexadecimal strings"),
    ],
)
def test_what_is_no_reference_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        parse(text)
    assert str(refusal.value) == message


def test_an_id_is_no_name() -> None:
    assert parse_any("a" * 64) == Digest("sha256:" + "a" * 64)
    assert parse_any(SHA) == SHA
    assert parse_any("a" * 63) == Reference("docker.io", "library/" + "a" * 63)


def test_the_tag_latest_is_implied_only_where_nothing_is_said() -> None:
    assert parse("a").tagged().tag == "latest"
    assert parse("a:1").tagged().tag == "1"
    assert parse(f"a@{SHA}").tagged().tag is None
    assert parse("a:1").with_digest(Digest(SHA)).familiar == f"a@{SHA}"
    with pytest.raises(InvalidArgument, match="invalid tag format"):
        parse("a").with_tag("x/y")


@given(st.text(alphabet="abAB01.-_/:@[] sha256", max_size=60))
def test_what_is_accepted_is_unchanged_by_a_second_reading(text: str) -> None:
    with contextlib.suppress(InvalidArgument):
        reference = parse(text)
        assert parse(str(reference)) == reference
        assert parse(reference.familiar) == reference
        assert reference.tag is None or is_tag(reference.tag)
