"""What a registry has, asked through the engine: search, and what a name stands for there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from tests.e2e.harness import Engine, differs_on_dockerd
from tests.e2e.parity import DOCKER, WHERRY, ask
from tests.e2e.test_image_store import HERE, OTHER, write_index
from tests.registry import docker_registry, skopeo_copy

RESULTS = [
    {"name": "library/app", "description": "The first of them", "star_count": 12, "is_official": True},
    {"name": "team/app", "description": "Another " * 20, "star_count": 90, "is_official": False},
    {"name": "odd/app", "description": None, "star_count": 0},
]


class Searchable(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/v1/search":
            count = int(parse_qs(url.query)["n"][0])
            found = [item for item in RESULTS if parse_qs(url.query)["q"][0] in str(item["name"])]
            self._answer(200, json.dumps({"num_results": len(found), "results": found[:count]}).encode())
        else:
            self._answer(200 if url.path == "/v1/_ping" else 404, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def searchable() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Searchable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_search_lists_what_the_registry_finds(engine: Engine, searchable: str) -> None:
    form = "{{.Name}} {{.StarCount}} {{.IsOfficial}}"
    assert engine.output("search", "--format", form, f"{searchable}/app").splitlines() == [
        "library/app 12 [OK]",
        "team/app 90 ",
        "odd/app 0 ",
    ]
    assert engine.output("search", "--format", form, "-f", "stars=20", f"{searchable}/app") == "team/app 90 "
    assert engine.output("search", "--format", form, "-f", "is-official=true", f"{searchable}/app").startswith(
        "library"
    )
    assert len(engine.output("search", "--format", form, "--limit=1", f"{searchable}/app").splitlines()) == 1
    assert engine.output("search", "--format", form, f"{searchable}/nothing") == ""
    refused = engine.docker("search", "--limit=101", f"{searchable}/app", check=False)
    unclear = engine.docker("search", "-f", "is-official=maybe", f"{searchable}/app", check=False)
    assert "invalid filter 'is-official=[maybe]'" in unclear.stderr.lower()
    assert refused.returncode == 1 and "limit 101 is outside the range of [1, 100]" in refused.stderr.lower()


@differs_on_dockerd("the wherry CLI speaks with wherryd")
def test_both_clients_show_the_same(engine: Engine, searchable: str) -> None:
    for words in (["search"], ["search", "--no-trunc", "--limit", "2"], ["search", "-f", "colour=red"]):
        docker, wherry = (ask(engine, program, [*words, f"{searchable}/app"]) for program in (DOCKER, WHERRY))
        assert docker == wherry


@differs_on_dockerd("its words for it have changed")
@pytest.mark.requires("registry")
def test_a_registry_without_a_search_is_a_clear_error(engine: Engine, tmp_path: Path) -> None:
    with docker_registry(tmp_path) as host:
        refused = engine.docker("search", f"{host}/app", check=False)
        assert (refused.returncode, refused.stderr.strip()) == (
            1,
            f"Error response from daemon: {host} cannot be searched: unexpected status code 404",
        )


@pytest.mark.requires("registry", "skopeo")
def test_a_distribution_is_what_a_name_stands_for_in_the_registry(engine: Engine, tmp_path: Path) -> None:
    with docker_registry(tmp_path) as host:
        digest = write_index(tmp_path / "layout")
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{host}/team/multi:1", "--all")
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{host}/team/one:1")
        status, found = engine.api("GET", f"/distribution/{quote(f'{host}/team/multi:1')}/json")
        assert (status, found["Descriptor"]["digest"]) == (200, digest), found
        assert [platform["architecture"] for platform in found["Platforms"]][:2] == [
            HERE.architecture,
            OTHER.architecture,
        ]
        status, found = engine.api("GET", f"/distribution/{quote(f'{host}/team/one:1')}/json")
        assert status == 200
        if engine.kind != "dockerd":  # 20.10 says nothing about OCI manifests
            assert [(item["os"], item["architecture"]) for item in found["Platforms"]] == [("linux", HERE.architecture)]
        assert engine.api("GET", f"/distribution/{quote(f'{host}/team/none:1')}/json")[0] in (401, 403, 404)
    status, _ = engine.api("GET", f"/distribution/{quote('No/Such:x:y')}/json")
    assert status == 400
