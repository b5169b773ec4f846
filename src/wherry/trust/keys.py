"""Keys that sign images: made, read, used. Pure; the mathematics is the library cryptography's.

Keys are PEM: PKCS #8 (or OpenSSL's older forms), encrypted or not, as openssl and `wherry image keygen` write them. ECDSA and RSA
(PKCS #1 v1.5) sign the SHA-256 of a message, Ed25519 the message itself: what cosign does with keys of these kinds.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from wherry.errors import InvalidArgument, PermissionDenied

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

MIN_RSA_BITS = 2048
_COSIGN = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")


def generate(password: bytes = b"") -> tuple[bytes, bytes]:
    """A new ECDSA P-256 key: (private, encrypted if there is a password; public), both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return private, public_pem(key.public_key())


def public_pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of the key's SubjectPublicKeyInfo: "SHA256:…", as `openssl pkey -pubin -outform DER | sha256sum` gives it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return f"SHA256:{digest.finalize().hex()}"


def load_private(pem: bytes, password: bytes = b"", *, name: str) -> PrivateKey:
    """InvalidArgument, naming `name`, when it is no key; PermissionDenied when the password is missing or wrong."""
    if any(mark in pem for mark in _COSIGN):
        raise InvalidArgument(
            f"{name}: wherry does not support keys that cosign has encrypted; use one of openssl's or of wherry's"
        )
    try:
        key = serialization.load_pem_private_key(pem, password or None)
    except TypeError:  # encrypted, and no password; or the other way round
        if password:
            return load_private(pem, name=name)
        raise PermissionDenied(f"{name}: the key is encrypted: a password is needed") from None
    except ValueError as error:
        if password and b"ENCRYPTED" in pem:
            raise PermissionDenied(f"{name}: the password is wrong, or the key damaged") from None
        raise InvalidArgument(f"{name}: not a private key in PEM form: {error}") from None
    except UnsupportedAlgorithm as error:
        raise InvalidArgument(f"{name}: {error}") from None
    if not isinstance(key, PrivateKey):
        raise InvalidArgument(f"{name}: not an ECDSA, Ed25519 or RSA key")
    _check_strength(key, name)
    return key


def load_public(pem: bytes, *, name: str) -> PublicKey:
    """InvalidArgument, naming `name`, when it is no key that signatures are verified with."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(f"{name}: not a public key in PEM form: {error}") from None
    if not isinstance(key, PublicKey):
        raise InvalidArgument(f"{name}: not an ECDSA, Ed25519 or RSA key")
    _check_strength(key, name)
    return key


def _check_strength(key: PrivateKey | PublicKey, name: str) -> None:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise InvalidArgument(f"{name}: an RSA key of {key.key_size} bits is too weak; {MIN_RSA_BITS} are needed")


def sign(key: PrivateKey, message: bytes) -> bytes:
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(message, ec.ECDSA(hashes.SHA256()))
        case rsa.RSAPrivateKey():
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        case _:
            return key.sign(message)


def is_signed(key: PublicKey, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that key's, of that message."""
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
            case rsa.RSAPublicKey():
                key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            case _:
                key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
