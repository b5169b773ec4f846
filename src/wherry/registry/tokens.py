"""A gate that asks for a bearer token: a JWT that says what its holder may do. Made by a token server elsewhere, or by this registry (`issuer`).

Source: the distribution project's token specification (challenge, `access` claim), its OAuth2 variant (POST), RFC 7519, RFC 6750.

**Invariants**: a token counts only if a configured key signed it with an algorithm of that key's kind (never "none", never a public key used as a
secret), it names this service and issuer, and it is neither expired nor too early. It opens what its `access` claim lists, nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from wherry.errors import FailedPrecondition
from wherry.registry.errors import Code, Refused
from wherry.registry.gate import Access, Visitor
from wherry.registry.storage import sync

LEEWAY_SECONDS = 30
_BLOCK = re.compile(rb"-----BEGIN [^-]+-----.+?-----END [^-]+-----", re.DOTALL)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Access3 = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """`realm` is the token server's URL; "" when it is this registry's own /token."""

    realm: str
    service: str
    issuer: str


@dataclass(frozen=True, slots=True)
class Holder:
    """Who showed a token that counts."""

    name: str
    granted: frozenset[Access3]

    def may(self, access: Access) -> bool:
        return not self.granted.isdisjoint(((access.kind, access.name, access.action), (access.kind, access.name, "*")))


class TokenGate:
    def __init__(self, settings: TokenSettings, keys: Sequence[PublicKey]) -> None:
        self._settings = settings
        self._keys = [(key, algorithms_of(key)) for key in keys]

    async def admit(self, headers: Mapping[str, str], wanted: Sequence[Access], here: str) -> Visitor:
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise self._challenge(wanted, here)
        holder = self._holder(token.strip())
        if holder is None:
            raise self._challenge(wanted, here, error="invalid_token")
        if not all(holder.may(access) for access in wanted):
            raise self._challenge(wanted, here, error="insufficient_scope")
        return holder

    def _holder(self, token: str) -> Holder | None:
        for key, algorithms in self._keys:
            try:
                claims = jwt.decode(
                    token,
                    key,
                    algorithms=algorithms,
                    audience=self._settings.service,
                    issuer=self._settings.issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except (jwt.InvalidTokenError, ValueError, RecursionError):
                continue
            return Holder(str(claims.get("sub") or ""), _granted(claims.get("access")))
        return None

    def _challenge(self, wanted: Sequence[Access], here: str, error: str = "") -> Refused:
        parameters = {"realm": self._settings.realm or f"{here}/token", "service": self._settings.service}
        names = dict.fromkeys((access.kind, access.name) for access in wanted)
        scopes = [
            f"{kind}:{name}:"
            + ",".join(access.action for access in wanted if (access.kind, access.name) == (kind, name))
            for kind, name in names
        ]
        if scopes:
            parameters["scope"] = " ".join(scopes)
        if error:
            parameters["error"] = error
        header = "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items())
        return Refused(Code.UNAUTHORIZED, "authentication required", headers={"WWW-Authenticate": header})


def _granted(claim: object) -> frozenset[Access3]:
    found: set[Access3] = set()
    for item in claim if isinstance(claim, list) else []:
        if isinstance(item, dict) and isinstance(item.get("actions"), list):
            kind, name = item.get("type"), item.get("name")
            if isinstance(kind, str) and isinstance(name, str):
                found |= {(kind, name, action) for action in item["actions"] if isinstance(action, str)}
    return frozenset(found)


# --- keys --------------------------------------------------------------------------------------------------------------------------------


def algorithms_of(key: PublicKey) -> list[str]:
    match key:
        case rsa.RSAPublicKey():
            return ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
        case ec.EllipticCurvePublicKey():
            return {"secp256r1": ["ES256"], "secp384r1": ["ES384"], "secp521r1": ["ES512"]}.get(key.curve.name, [])
    return ["EdDSA"]


def load_keys(path: str) -> list[PublicKey]:
    """The public keys and certificates of a PEM file. FailedPrecondition when it has none."""
    try:
        with open(path, "rb") as file:
            blocks = _BLOCK.findall(file.read(1 << 20))
        keys = [
            x509.load_pem_x509_certificate(block).public_key()
            if b"CERTIFICATE" in block.split(b"\n", 1)[0]
            else serialization.load_pem_public_key(block)
            for block in blocks
        ]
    except OSError as error:
        raise FailedPrecondition(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError:
        keys = []
    found = [key for key in keys if isinstance(key, PublicKey) and algorithms_of(key)]
    if not found or len(found) != len(keys):
        raise FailedPrecondition(
            f"{path}: must have public keys or certificates (RSA, EC, Ed25519) in PEM, and only these"
        )
    return found


def own_key(path: str) -> ec.EllipticCurvePrivateKey:
    """The key in the file; a new one is made and kept there the first time."""
    try:
        with open(path, "rb") as file:
            key = serialization.load_pem_private_key(file.read(), None)
    except FileNotFoundError:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as new:
            new.write(pem)
        sync(path + ".new")
        os.rename(path + ".new", path)
        sync(os.path.dirname(path))
    except ValueError as error:
        raise FailedPrecondition(f"{path}: not a private key in PEM: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise FailedPrecondition(f"{path}: not a private key on the curve P-256")
    return key
