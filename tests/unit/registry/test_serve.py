from pathlib import Path
from typing import Any

import pytest

from wherry.errors import FailedPrecondition, InvalidArgument
from wherry.registry.serve import Config, parse_addr, run


@pytest.mark.parametrize(
    ("addr", "parsed"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        (":80", ("", 80)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses(addr: str, parsed: tuple[str, int]) -> None:
    assert parse_addr(addr) == parsed


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"addr": "5000"}, '"5000" is not HOST:PORT'),
        ({"addr": "127.0.0.1:70000"}, '"127.0.0.1:70000" is not HOST:PORT'),
        ({"addr": "192.0.2.1:0"}, "--addr 192.0.2.1:0: cannot assign requested address"),
        ({"root": "{tmp}/file"}, "--root {tmp}/file: file exists"),
        ({"root": "/proc/nowhere"}, "--root /proc/nowhere: no such file or directory"),
        ({"tls_cert": "{tmp}/file"}, "--tls-cert and --tls-key are needed together"),
        ({"tls_cert": "{tmp}/file", "tls_key": "{tmp}/file"}, "--tls-cert {tmp}/file: "),
        ({"tls_cert": "/no", "tls_key": "/no"}, "/no: cannot be read"),
        ({"tls_client_ca": "/no"}, "--tls-client-ca needs --tls-cert and --tls-key"),
        ({"token": True}, "--token needs --htpasswd"),
        ({"anonymous_pull": True}, "--anonymous-pull needs --htpasswd"),
        ({"htpasswd": "/no"}, "--htpasswd /no: "),
        ({"token_realm": "https://x/token"}, "--token-realm needs --token-keys"),
        ({"token_realm": "https://x/token", "token_keys": "{tmp}/file"}, "{tmp}/file: must have public keys"),
        ({"proxy": "registry.example"}, '"registry.example" is not the URL of a registry'),
        ({"storage": "nonsense://x"}, "--storage nonsense://x: "),
        ({"metrics_addr": "9"}, '"9" is not HOST:PORT'),
    ],
)
def test_what_a_user_can_mend_is_said_plainly(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    (tmp_path / "file").write_text("nonsense")
    filled = {k: v.format(tmp=tmp_path) if isinstance(v, str) else v for k, v in settings.items()}
    config = Config(**{"addr": "127.0.0.1:0", "root": f"{tmp_path}/registry", **filled})
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        run(config)
    assert str(caught.value).startswith(words.format(tmp=tmp_path))
