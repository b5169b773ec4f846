"""Keys: openssl's and ours are the same kind; what is no key says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wherry.errors import InvalidArgument, PermissionDenied
from wherry.trust.keys import generate, is_signed, load_private, load_public, public_pem, sign

MESSAGE = b"a signed document"


def openssl(*words: str, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=data, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    "made",
    [
        ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
        ("genpkey", "-algorithm", "ED25519"),
        ("genrsa", "2048"),
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout"),
    ],
)
def test_keys_of_openssl_sign_and_verify(made: tuple[str, ...]) -> None:
    pem = openssl(*made)
    public = load_public(openssl("pkey", "-pubout", data=pem), name="x.pub")
    signature = sign(load_private(pem, name="x.key"), MESSAGE)
    assert is_signed(public, MESSAGE, signature)
    assert not is_signed(public, MESSAGE + b".", signature)
    assert not is_signed(public, MESSAGE, b"rubbish")


def test_openssl_verifies_what_our_key_signed(tmp_path: Path) -> None:
    private, public = generate(b"secret")
    (tmp_path / "pub").write_bytes(public)
    (tmp_path / "sig").write_bytes(sign(load_private(private, b"secret", name="x"), MESSAGE))
    said = openssl(
        "dgst", "-sha256", "-verify", str(tmp_path / "pub"), "-signature", str(tmp_path / "sig"), data=MESSAGE
    )
    assert said == b"Verified OK\n"


def test_a_password_is_needed_and_must_be_right() -> None:
    private, public = generate(b"secret")
    assert public_pem(load_private(private, b"secret", name="x").public_key()) == public
    with pytest.raises(PermissionDenied, match=r"x\.key: the key is encrypted: a password is needed"):
        load_private(private, name="x.key")
    with pytest.raises(PermissionDenied, match="the password is wrong"):
        load_private(private, b"wrong", name="x.key")
    plain, _ = generate()
    assert load_private(plain, b"not needed", name="x")


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "does not support keys that cosign has encrypted"),
    ],
)
def test_what_is_no_private_key_says_so(pem: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        load_private(pem, name="x")


def test_weak_and_strange_keys_are_refused() -> None:
    weak = openssl("genrsa", "1024")
    with pytest.raises(InvalidArgument, match="1024 bits is too weak"):
        load_private(weak, name="x")
    with pytest.raises(InvalidArgument, match="too weak"):
        load_public(openssl("pkey", "-pubout", data=weak), name="x")
    other = openssl("pkey", "-pubout", data=openssl("genpkey", "-algorithm", "X25519"))
    with pytest.raises(InvalidArgument, match="not an ECDSA, Ed25519 or RSA key"):
        load_public(other, name="x")
