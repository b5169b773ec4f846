"""Logins are found in Docker's client configuration, by registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from wherry.cli.app import App
from wherry.cli.command import CliError
from wherry.cli.registry_auth import Logins, auth_for, registry_key
from wherry.client.address import parse


def app_with(config: object, folder: Path) -> App:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return App(parse("unix:///nowhere"), config_folder=str(folder))


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_login_is_that_of_the_images_registry(tmp_path: Path) -> None:
    auths = {
        "localhost:5000": {"auth": encoded("me", "se:cret")},
        "https://index.docker.io/v1/": {"auth": encoded("hub", "x")},
    }
    app = app_with({"auths": auths}, tmp_path)
    login = auth_for(app, "localhost:5000/a/b:c")
    assert login == {"serveraddress": "localhost:5000", "username": "me", "password": "se:cret"}
    assert (auth_for(app, "busybox") or {})["username"] == "hub"
    assert auth_for(app, "example.com/x") is None


def test_a_token_is_a_login_too(tmp_path: Path) -> None:
    app = app_with({"auths": {"example.com": {"identitytoken": "t"}}}, tmp_path)
    assert auth_for(app, "example.com/x") == {"serveraddress": "example.com", "identitytoken": "t"}


def test_a_login_that_an_old_client_has_kept_under_an_address_is_found(tmp_path: Path) -> None:
    app = app_with({"auths": {"https://example.com:5000/v1/": {"auth": encoded("me", "x")}}}, tmp_path)
    assert (auth_for(app, "example.com:5000/a") or {})["username"] == "me"
    assert auth_for(app, "example.com/a") is None


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"auths": []}', '{"auths": {"example.com": {"auth": "!"}}}', '{"auths": {"example.com": 5}}']
)
def test_a_configuration_that_is_none_means_no_login(config: str, tmp_path: Path) -> None:
    assert auth_for(app_with(config, tmp_path), "example.com/x") is None


def test_no_configuration_means_no_login(tmp_path: Path) -> None:
    assert auth_for(App(parse("unix:///nowhere"), config_folder=str(tmp_path)), "example.com/x") is None


HELPER = """#!/bin/sh
# keeps one login in the file beside it
read -r line
case $1 in
get) [ -s "$0.kept" ] && cat "$0.kept" || { echo "credentials not found in native keychain"; exit 1; } ;;
store) echo "$line" > "$0.kept" ;;
erase) : > "$0.kept" ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return Path(f"{program}.kept")


@pytest.mark.parametrize("config", [{"credsStore": "test"}, {"credHelpers": {"example.com": "test"}}])
def test_a_credential_helper_keeps_logins_out_of_the_configuration(
    config: dict[str, object], tmp_path: Path, helper: Path
) -> None:
    app = app_with(config, tmp_path)
    assert auth_for(app, "example.com/x") is None
    Logins(app).put("example.com", "ann", "secret", "")
    assert json.loads(helper.read_text()) == {"ServerURL": "example.com", "Username": "ann", "Secret": "secret"}
    assert "secret" not in (tmp_path / "config.json").read_text()
    assert auth_for(app, "example.com/x") == {"serveraddress": "example.com", "username": "ann", "password": "secret"}
    Logins(app).put("example.com", "ann", "secret", "token")
    assert auth_for(app, "example.com/x") == {"serveraddress": "example.com", "identitytoken": "token"}
    assert Logins(app).remove("example.com") and not Logins(app).remove("example.com")
    assert auth_for(app, "example.com/x") is None


def test_a_credential_helper_that_fails_or_is_missing_is_an_error(tmp_path: Path, helper: Path) -> None:
    with pytest.raises(CliError, match=r"exec: \"docker-credential-none\": executable file not found"):
        auth_for(app_with({"credsStore": "none"}, tmp_path), "example.com/x")
    helper.write_text("no JSON")
    with pytest.raises(CliError, match="did not answer with JSON"):
        auth_for(app_with({"credsStore": "test"}, tmp_path), "example.com/x")


def test_a_login_is_kept_for_its_owner_alone_beside_what_was_there(tmp_path: Path) -> None:
    app = app_with({"psFormat": "x", "auths": {"other": {"auth": "b"}}}, tmp_path)
    Logins(app).put("example.com:5000", "ann", "se:cret", "")
    Logins(app).put("https://index.docker.io/v1/", "hub", "x", "token")
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept == {
        "psFormat": "x",
        "auths": {
            "other": {"auth": "b"},
            "example.com:5000": {"auth": encoded("ann", "se:cret")},
            "https://index.docker.io/v1/": {"auth": encoded("hub", ""), "identitytoken": "token"},
        },
    }
    assert (tmp_path / "config.json").stat().st_mode & 0o777 == 0o600
    assert Logins(app).remove("other") and not Logins(app).remove("other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("", "https://index.docker.io/v1/"),
        ("docker.io", "https://index.docker.io/v1/"),
        ("https://index.docker.io/v1/", "https://index.docker.io/v1/"),
        ("localhost:5000", "localhost:5000"),
        ("https://registry.example/v2/", "registry.example"),
    ],
)
def test_a_server_is_known_by_its_host(server: str, key: str) -> None:
    assert registry_key(server) == key
