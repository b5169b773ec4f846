"""Logins are found in Docker's client configuration, by registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from wherry.cli.app import App
from wherry.cli.registry_auth import auth_for
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


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"auths": []}', '{"auths": {"example.com": {"auth": "!"}}}', '{"auths": {"example.com": 5}}']
)
def test_a_configuration_that_is_none_means_no_login(config: str, tmp_path: Path) -> None:
    assert auth_for(app_with(config, tmp_path), "example.com/x") is None


def test_no_configuration_means_no_login(tmp_path: Path) -> None:
    assert auth_for(App(parse("unix:///nowhere"), config_folder=str(tmp_path)), "example.com/x") is None


def test_a_credential_helper_is_named_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    auth_for(app_with({"credHelpers": {"example.com": "pass"}}, tmp_path), "example.com/x")
    assert "credential helper for example.com" in capfd.readouterr().err
