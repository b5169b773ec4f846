"""Two engines on one machine do not touch each other."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

from tests.e2e.harness import BUSYBOX, Engine, differs_on_dockerd, free_port, wait_until


@differs_on_dockerd("needs addresses given by hand for a second bridge")
def test_two_engines_have_their_own_containers_networks_and_ends(own_engine: Callable[..., Engine]) -> None:
    one, two = own_engine(), own_engine()
    for engine in (one, two):
        engine.docker("run", "-d", "--name=same", BUSYBOX, "sleep", "1000")
    networks = [engine.inspect("same")["NetworkSettings"]["Networks"]["bridge"] for engine in (one, two)]
    assert networks[0]["Gateway"] != networks[1]["Gateway"]
    assert one.inspect("same")["Id"] != two.inspect("same")["Id"]
    two.docker("rm", "-f", "same")
    assert one.state("same")["Running"]
    assert one.docker("exec", "same", "ping", "-c1", "-W300", networks[0]["Gateway"]).returncode == 0
    two.kill9()
    assert one.output("exec", "same", "echo", "untouched") == "untouched"
    two.start()


def answer(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=300) as page:
            return str(page.read().decode().strip())
    except OSError:
        return ""


@differs_on_dockerd("publishes through a proxy that dies with it when --iptables=false")
def test_a_killed_engine_takes_no_published_port_along_its_own_or_its_neighbours(
    own_engine: Callable[..., Engine],
) -> None:
    one, two = own_engine(), own_engine()
    ports = {"one": free_port(), "two": free_port()}
    for engine, name in ((one, "one"), (two, "two")):
        page = f"echo {name} >/index.html; exec httpd -f -p 80 -h /"
        engine.docker("run", "-d", "--name=web", f"-p={ports[name]}:80", BUSYBOX, "sh", "-c", page)

    def both_answer() -> bool:
        return all(answer(port) == name for name, port in ports.items())

    wait_until("both are served", both_answer)
    two.kill9()
    assert both_answer()
    one.docker("run", "--rm", "-p=127.0.0.1::80", BUSYBOX, "true")
    assert both_answer()
    two.start()
    assert both_answer()
    two.docker("rm", "-f", "web")
    assert (answer(ports["one"]), answer(ports["two"])) == ("one", "")
