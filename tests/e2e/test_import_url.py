"""`docker import URL`, through a proxy and without: the real docker CLI, a server that has the archive, one that goes wrong."""

from __future__ import annotations

import gzip
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.harness import Engine, UnixConnection, wait_until
from tests.images import Entry, busybox_layer, layer

SMALL = layer([Entry("text", b"small")])


class Server(ThreadingHTTPServer):
    """Also a proxy: then the requests' paths are whole URLs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        match self.path.rpartition("/")[2]:
            case "root.tar":
                self._send(busybox_layer())
            case "root.tar.gz":
                self._send(gzip.compress(busybox_layer(), 1))
            case "short.tar":
                self._send(SMALL[:512], length=len(SMALL))
            case "garbage":
                self._send(b"no tar at all " * 100)
            case "moved":
                self._redirect(f"{self.server.url}/root.tar")
            case "file":
                self._redirect("file:///etc/passwd")
            case "loop":
                self._redirect("/loop")
            case _:
                self.send_error(404, "Not Found")

    def _send(self, data: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def _redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_an_archive_is_imported_from_where_it_lies(engine: Engine) -> None:
    with serving() as server:
        for name in ("root.tar", "root.tar.gz", "moved"):
            done = engine.docker("import", "-c", 'CMD ["/bin/echo", "hi"]', f"{server.url}/{name}", "fetched:1")
            lines = done.stdout.splitlines()
            assert lines[0].strip() == f"Downloading from {server.url}/{name}"
            assert engine.inspect("fetched:1")["Id"] == lines[-1].strip()
            assert engine.inspect("fetched:1")["Comment"] == f"Imported from {server.url}/{name}"
            assert engine.output("run", "--rm", "--network=none", "fetched:1") == "hi"
        bare = engine.docker("import", server.url.removeprefix("http://") + "/root.tar", check=False)
        assert "no such file" in bare.stderr  # docker's client takes it for a file; the API for a URL
        status, told = engine.api(
            "POST", f"/images/create?fromSrc={server.url.removeprefix('http://')}/root.tar&repo=bare"
        )
        size = len(busybox_layer())
        assert status == 200
        assert f'{{"status":"Importing","progressDetail":{{"current":{size},"total":{size}}}}}' in told
        assert engine.api("GET", "/images/bare/json")[0] == 200


def test_what_cannot_be_had_is_an_error_and_leaves_nothing(engine: Engine) -> None:
    before = engine.objects()
    with serving() as server:
        for name, status, words in (
            ("absent", 404, "with status 404"),
            ("file", 400, "only http:// and https://"),
            ("loop", 400, "redirects"),
        ):
            got, answer = engine.api("POST", f"/images/create?fromSrc={server.url}/{name}")
            assert (got, words in answer["message"]) == (status, True), answer
        for name, words in (("short.tar", "unexpected EOF"), ("garbage", "tar")):
            done = engine.docker("import", f"{server.url}/{name}", check=False)
            assert done.returncode == 1 and words in done.stderr, done
        gone = server.url
    for url, words in (("file:///etc/passwd", "only http"), (gone, "connection refused")):
        got, answer = engine.api("POST", f"/images/create?fromSrc={url}")
        assert got in (400, 503) and words in answer["message"], answer
    assert engine.objects() == before


def test_garbage_is_the_clients_mistake(engine: Engine) -> None:
    for path in ("/images/load", "/images/create?fromSrc=-"):
        for data in (b"no tar at all " * 100, gzip.compress(SMALL)[:-8], SMALL[:700]):
            connection = UnixConnection(engine.socket_path)
            connection.request("POST", path, data, {"Content-Type": "application/x-tar"})
            answer = connection.getresponse()
            assert answer.status == 400, (path, data[:20], answer.read())
            connection.close()


def test_the_configured_proxy_is_used_and_limits_are_reloaded(
    own_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    configuration = tmp_path / "daemon.json"
    with serving() as proxy:
        host = proxy.url.removeprefix("http://")
        text = f'{{"proxies": {{"http-proxy": "http://me:secret@{host}", "no-proxy": "direct.invalid"}}, "max-concurrent-downloads": %s}}'
        configuration.write_text(text % 1)
        engine = own_engine(f"--config-file={configuration}")
        engine.docker("import", "http://files.invalid/root.tar", "fetched:1")
        assert proxy.paths == ["http://files.invalid/root.tar"]
        status, answer = engine.api("POST", "/images/create?fromSrc=http://direct.invalid/root.tar")
        assert status == 503 and "no such host" in answer["message"]
        info = engine.api("GET", "/info")[1]
        assert (info["HttpProxy"], info["NoProxy"]) == (f"http://xxxxx:xxxxx@{host}", "direct.invalid")
        assert engine.process is not None
        for content, says in (
            (text % 5, "configuration reloaded"),
            (text % -1, "the configuration stays as it was: unable to configure wherryd with file"),
            (
                '{"mtu": 1400, "registry-mirrors": ["https://mirror.invalid"]}',
                "the new mtu, proxies will take effect when wherryd is restarted",
            ),
        ):
            configuration.write_text(content)
            engine.process.send_signal(signal.SIGHUP)
            wait_until(says, lambda says=says: says in engine.log())  # type: ignore[misc]
        assert engine.api("GET", "/info")[1]["RegistryConfig"]["Mirrors"] == ["https://mirror.invalid/"]
        events = engine.output(
            "events", "--since=1", f"--until={time.time()}", "--filter=event=reload", "--format=json"
        )
        reloads = [json.loads(line)["Actor"]["Attributes"] for line in events.splitlines()]
        assert [one["max-concurrent-downloads"] for one in reloads] == ["5", "3"]
