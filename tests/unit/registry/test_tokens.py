import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from tests.unit.registry.lab import Client, registry, run, sha
from tests.unit.registry.test_passwords import basic, htpasswd

from wherry.errors import FailedPrecondition
from wherry.registry.issuer import Issuer
from wherry.registry.passwords import Passwords
from wherry.registry.tokens import TokenGate, TokenSettings, load_keys, own_key

SETTINGS = TokenSettings("https://auth.example/token", "registry.example", "auth.example")
KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
PULL = [{"type": "repository", "name": "a", "actions": ["pull"]}]


def pem(key: Any) -> bytes:
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*form)  # type: ignore[no-any-return]


def token(algorithm: str = "ES256", key: Any = None, **claims: Any) -> str:
    now = int(time.time())
    standard = {
        "iss": SETTINGS.issuer,
        "aud": SETTINGS.service,
        "sub": "ann",
        "exp": now + 60,
        "nbf": now,
        "access": PULL,
    }
    kept = {name: value for name, value in {**standard, **claims}.items() if value is not None}
    return jwt.encode(kept, key or KEYS[algorithm], algorithm=algorithm)


async def status(client: Client, shown: str, method: str = "GET", path: str = "/v2/a/tags/list") -> int:
    return (await client.ask(method, path, headers={"Authorization": f"Bearer {shown}"})).status


def gate(path: Path) -> TokenGate:
    path.write_bytes(b"".join(map(pem, KEYS.values())))
    return TokenGate(SETTINGS, load_keys(str(path)))


def test_a_token_opens_what_it_lists_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "keys")) as client:
            for algorithm in KEYS:
                assert await status(client, token(algorithm)) == 404
            for method, path in (
                ("GET", "/v2/b/tags/list"),
                ("POST", "/v2/a/blobs/uploads/"),
                ("DELETE", "/v2/a/manifests/x"),
                ("GET", "/v2/_catalog"),
            ):
                assert await status(client, token(), method, path) == 401
            everything = [{"type": "registry", "name": "catalog", "actions": ["*"]}]
            assert await status(client, token(access=everything), path="/v2/_catalog") == 200
            assert await status(client, token(access=None), path="/v2/") == 200

    run(test)


def test_the_challenge_says_where_to_get_what(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "keys")) as client:
            answer = await client.ask("POST", "/v2/a/b/blobs/uploads/")
            assert answer.headers["WWW-Authenticate"] == (
                'Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push"'
            )
            answer = await client.ask("GET", "/v2/b/tags/list", headers={"Authorization": f"Bearer {token()}"})
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]

    run(test)


def test_a_mount_needs_the_right_to_pull_from_the_source(tmp_path: Path) -> None:
    async def test() -> None:
        def access(*names: str) -> str:
            return token(access=[{"type": "repository", "name": n, "actions": ["pull", "push"]} for n in names])

        async with registry(tmp_path / "r", gate=gate(tmp_path / "keys")) as client:
            secret = {"Authorization": f"Bearer {access('secret')}"}
            digest = sha(b"data")
            path = f"/v2/secret/blobs/uploads/?digest={digest}"
            assert (await client.ask("POST", path, data=b"data", headers=secret)).status == 201
            for name, query in (("a", "&from=secret"), ("b", "")):
                path = f"/v2/{name}/blobs/uploads/?mount={digest}{query}"
                assert await status(client, access(name), "POST", path) == 202
                assert await status(client, access(name, "secret"), "POST", path) == 201

    run(test)


def test_tokens_that_do_not_count(tmp_path: Path) -> None:
    async def test() -> None:
        now = int(time.time())
        stranger = ec.generate_private_key(ec.SECP256R1())
        unsigned = jwt.encode(
            {"iss": SETTINGS.issuer, "aud": SETTINGS.service, "exp": now + 60}, None, algorithm="none"
        )
        confused = jwt.api_jws.encode(b"{}", "x" * 32, algorithm="HS256")
        async with registry(tmp_path / "r", gate=gate(tmp_path / "keys")) as client:
            for shown in (
                "",
                "x.y.z",
                unsigned,
                confused,
                token(key=stranger),
                token(exp=now - 100),
                token(exp=None),
                token(nbf=now + 100),
                token(aud="another"),
                token(aud=None),
                token(iss="another"),
                token()[:-4] + "AAAA",
            ):
                assert await status(client, shown, path="/v2/") == 401
            for access in ("x", [1], [{"type": 1}], [{"type": "repository", "name": "a", "actions": "pull"}]):
                assert await status(client, token(access=access)) == 401

    run(test)


def test_the_registrys_own_tokens(tmp_path: Path) -> None:
    async def test() -> None:
        settings = TokenSettings("", "here", "here")
        key = own_key(str(tmp_path / "key"))
        assert own_key(str(tmp_path / "key")).private_numbers() == key.private_numbers()
        assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
        users = Passwords(htpasswd(tmp_path / "users", ann="secret"))
        issuer = Issuer(settings, key, users, anonymous_pull=True)
        options = {"gate": TokenGate(settings, [key.public_key()]), "extra": {"/token": issuer.answer}}
        async with registry(tmp_path / "r", **options) as client:
            challenge = (await client.ask("GET", "/v2/")).headers["WWW-Authenticate"]
            assert challenge == f'Bearer realm="{client.base}/token",service="here"'
            ann = basic("ann", "secret")
            scope = "/token?service=here&scope=repository:a:pull,push&scope=registry:catalog:*"
            granted = (await client.ask("GET", scope, headers=ann)).json
            assert granted["token"] == granted["access_token"] and granted["expires_in"] == 300
            assert await status(client, granted["token"], "POST", "/v2/a/blobs/uploads/") == 202
            assert await status(client, granted["token"], path="/v2/_catalog") == 200
            assert await status(client, granted["token"], "DELETE", "/v2/a/manifests/x") == 401
            anonymous = (await client.ask("GET", scope)).json["token"]
            assert await status(client, anonymous) == 404
            assert await status(client, anonymous, "POST", "/v2/a/blobs/uploads/") == 401
            assert (await client.ask("GET", scope, headers=basic("ann", "wrong"))).status == 401
            assert (await client.ask("GET", "/token?service=other", headers=ann)).status == 400
            form = {"grant_type": "password", "username": "ann", "password": "secret", "service": "here"}
            posted = (await client.ask("POST", "/token", data=form | {"scope": "repository:a:pull"})).json["token"]
            assert await status(client, posted) == 404
            assert (await client.ask("POST", "/token", data=form | {"password": "x"})).status == 401
            assert (await client.ask("POST", "/token", data=form | {"grant_type": "refresh_token"})).status == 401
            assert (await client.ask("POST", "/token", data=form | {"grant_type": "code"})).status == 400
            assert (await client.ask("DELETE", "/token")).status == 405

    run(test)


def test_a_refresh_token_stands_for_the_password_until_that_changes(tmp_path: Path) -> None:
    async def test() -> None:
        settings = TokenSettings("", "here", "here")
        key, users = own_key(str(tmp_path / "key")), Passwords(htpasswd(tmp_path / "users", ann="secret", bob="secret"))
        issuer = Issuer(settings, key, users, anonymous_pull=True)
        options = {"gate": TokenGate(settings, [key.public_key()]), "extra": {"/token": issuer.answer}}
        async with registry(tmp_path / "r", **options) as client:
            ann = basic("ann", "secret")
            query = "/token?service=here&offline_token=true"
            refresh = (await client.ask("GET", query, headers=ann)).json["refresh_token"]
            assert "refresh_token" not in (await client.ask("GET", "/token?service=here", headers=ann)).json
            assert "refresh_token" not in (await client.ask("GET", query)).json
            form = {"grant_type": "password", "username": "ann", "password": "secret", "access_type": "offline"}
            by_form = (await client.ask("POST", "/token", data=form)).json["refresh_token"]
            scope = {"service": "here", "scope": "repository:a:pull,push"}

            async def exchange(shown: str, **more: str) -> int:
                form = {"grant_type": "refresh_token", "refresh_token": shown, **scope, **more}
                answer = await client.ask("POST", "/token", data=form)
                if answer.status == 200:
                    assert await status(client, answer.json["token"], "POST", "/v2/a/blobs/uploads/") == 202
                return answer.status

            assert await exchange(refresh) == await exchange(by_form) == 200
            assert await exchange(refresh, service="other") == 400
            claims = jwt.decode(refresh, options={"verify_signature": False})
            bobs = jwt.encode(claims | {"sub": "bob"}, key, algorithm="ES256")
            unsigned = jwt.encode(claims, None, algorithm="none")
            bearer = (await client.ask("GET", "/token?service=here", headers=ann)).json["token"]
            for wrong in ("", "x", "x" * 10_000, bobs, unsigned, bearer, refresh[:-4] + "AAAA"):
                assert await exchange(wrong) == 401, wrong
            assert await status(client, refresh, path="/v2/") == 401  # it is no bearer token
            htpasswd(tmp_path / "users", ann="changed", bob="secret")
            assert await exchange(refresh) == 401
            htpasswd(tmp_path / "users", bob="secret")
            assert await exchange(refresh) == 401

    run(test)


@pytest.mark.parametrize("content", [b"", b"text", pem(KEYS["ES256"]).replace(b"M", b"N")])
def test_files_without_keys_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(FailedPrecondition, match="must have public keys"):
        load_keys(str(tmp_path / "keys"))
