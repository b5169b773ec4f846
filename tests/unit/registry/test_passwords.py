import base64
import os
from pathlib import Path

import bcrypt
import pytest
from tests.unit.registry.lab import Client, registry, run

from wherry.errors import FailedPrecondition
from wherry.registry.gate import Gate
from wherry.registry.passwords import PasswordGate, Passwords

COST = 4


def htpasswd(path: Path, **users: str) -> str:
    lines = [f"{name}:{bcrypt.hashpw(text.encode(), bcrypt.gensalt(COST)).decode()}" for name, text in users.items()]
    path.write_text("# users\n\n" + "\n".join(lines).replace("$2b$", "$2y$") + "\n")
    return str(path)


def gate(path: Path, *, anonymous_pull: bool = False) -> Gate:
    return PasswordGate(Passwords(htpasswd(path, ann="secret")), anonymous_pull=anonymous_pull)


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


async def asked(client: Client, name: str, password: str, method: str = "GET", path: str = "/v2/") -> int:
    return (await client.ask(method, path, headers=basic(name, password))).status


def test_only_the_right_password_lets_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "users")) as client:
            answer = await client.ask("GET", "/v2/")
            assert (answer.status, answer.code) == (401, "UNAUTHORIZED")
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="wherry registry"'
            for _ in range(2):
                assert await asked(client, "ann", "secret") == 200
            for name, password in (("ann", "Secret"), ("ann", ""), ("bob", "secret"), ("", ""), ("ann", "x" * 5000)):
                assert await asked(client, name, password) == 401
            for header in ("Basic", "Basic !!!", "Basic YQ==", "Bearer x", "Basic " + "A" * 4000):
                assert (await client.ask("GET", "/v2/", headers={"Authorization": header})).status == 401
            assert "- ann [" in client.lab.log.getvalue()

    run(test)


def test_nothing_is_stored_for_somebody_who_was_not_let_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "users")) as client:
            assert (await client.ask("POST", "/v2/a/blobs/uploads/", data=b"x" * 100_000)).status == 401
            assert os.listdir(tmp_path / "r" / "uploads") == []

    run(test)


def test_anybody_may_pull_where_that_is_allowed_and_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "users", anonymous_pull=True)) as client:
            assert (await client.ask("GET", "/v2/a/tags/list")).status == 404
            for method, path in (
                ("POST", "/v2/a/blobs/uploads/"),
                ("DELETE", "/v2/a/manifests/x"),
                ("GET", "/v2/_catalog"),
            ):
                assert (await client.ask(method, path)).status == 401
            assert await asked(client, "ann", "wrong", path="/v2/a/tags/list") == 401
            assert await asked(client, "ann", "secret", "POST", "/v2/a/blobs/uploads/") == 202

    run(test)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with registry(tmp_path / "r", gate=gate(tmp_path / "users")) as client:
            assert await asked(client, "ann", "secret") == 200
            htpasswd(tmp_path / "users", bob="other", ann="changed")
            assert await asked(client, "ann", "secret") == 401
            assert await asked(client, "bob", "other") == 200
            (tmp_path / "users").write_text("half a line")
            assert await asked(client, "bob", "other") == 200

    run(test)


@pytest.mark.parametrize("content", ["ann:secret", "ann:{SHA}2fd4e1c67a2d28fced849ee1bb76e7391b93eb12", "ann", "\xff"])
def test_a_file_that_has_no_bcrypt_hashes_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "users").write_bytes(content.encode("latin-1"))
    with pytest.raises(FailedPrecondition, match="--htpasswd"):
        Passwords(str(tmp_path / "users"))
    with pytest.raises(FailedPrecondition, match="No such file"):
        Passwords(str(tmp_path / "nowhere"))
