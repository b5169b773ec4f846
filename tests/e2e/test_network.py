"""The default bridge, published ports, and the other network modes."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socket
import subprocess

import pytest

from tests.e2e.harness import BUSYBOX, PEER, Engine, differs_on_dockerd, free_port, wait_until

SERVE = "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"


def get(host: str, port: int) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    finally:
        connection.close()


def serve(engine: Engine, name: str, *flags: str) -> dict[str, list[dict[str, str]]]:
    """A web server in a container, that answers with its own name; → its published ports, as inspect has them."""
    engine.docker("run", "-d", f"--name={name}", f"--hostname={name}", *flags, BUSYBOX, "sh", "-c", SERVE)
    wait_until(
        "the server listens",
        lambda: "0050" in engine.docker("exec", name, "cat", "/proc/net/tcp", "/proc/net/tcp6", check=False).stdout,
    )
    ports: dict[str, list[dict[str, str]]] = engine.inspect(name)["NetworkSettings"]["Ports"]
    return ports


def address(engine: Engine, name: str) -> str:
    found: str = engine.inspect(name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    return found


def host_address() -> str:
    """This machine's own address towards others (nothing is sent)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("needs a route")
        return str(probe.getsockname()[0])


def test_the_bridge_gives_an_address_and_a_way_out(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=box", BUSYBOX, "sleep", "1000")
    settings = engine.inspect("box")["NetworkSettings"]["Networks"]["bridge"]
    shown = engine.output("exec", "box", "ip", "-4", "-o", "addr", "show", "dev", "eth0")
    assert f"{settings['IPAddress']}/{settings['IPPrefixLen']}" in shown
    assert f"default via {settings['Gateway']} dev eth0" in engine.output("exec", "box", "ip", "route")
    assert settings["MacAddress"] in engine.output("exec", "box", "ip", "link", "show", "eth0")
    network = ipaddress.ip_interface(f"{settings['IPAddress']}/{settings['IPPrefixLen']}").network
    assert ipaddress.ip_address(settings["Gateway"]) in network
    assert engine.docker("exec", "box", "ping", "-c1", "-W300", settings["Gateway"]).returncode == 0


def test_hosts_and_hostname_name_the_container(engine: Engine) -> None:
    engine.docker("run", "-d", "--name=box", "--hostname=me", BUSYBOX, "sleep", "1000")
    assert f"{address(engine, 'box')}\tme" in engine.output("exec", "box", "cat", "/etc/hosts")
    assert engine.output("exec", "box", "hostname", "-i") == address(engine, "box")


def test_containers_on_the_bridge_reach_each_other(engine: Engine) -> None:
    serve(engine, "server")
    assert engine.output("run", "--rm", BUSYBOX, "wget", "-qO-", f"http://{address(engine, 'server')}/") == "server"


def test_addresses_are_given_back_and_never_twice(engine: Engine) -> None:
    for n in range(5):
        engine.docker("run", "-d", f"--name=box{n}", BUSYBOX, "sleep", "1000")
    assert len({address(engine, f"box{n}") for n in range(5)}) == 5


@pytest.mark.parametrize("flag", ["-p {port}:80", "-p 127.0.0.1:{port}:80", "-p {port}:80/tcp", "-p 0.0.0.0:{port}:80"])
def test_a_published_port_is_reachable_from_this_machine(engine: Engine, flag: str) -> None:
    port = free_port()
    serve(engine, "server", *flag.format(port=port).split())
    assert get("127.0.0.1", port) == "server"
    assert get("localhost", port) == "server"


def test_a_published_port_is_reachable_at_the_machine_s_own_address(engine: Engine) -> None:
    port = free_port()
    serve(engine, "server", "-p", f"{port}:80")
    assert get(host_address(), port) == "server"


def test_a_port_published_on_loopback_is_not_reachable_at_the_machine_s_own_address(engine: Engine) -> None:
    port = free_port()
    serve(engine, "server", "-p", f"127.0.0.1:{port}:80")
    assert get("127.0.0.1", port) == "server"
    with pytest.raises(OSError):
        get(host_address(), port)


def test_a_published_port_is_reachable_from_another_container_and_from_its_own(engine: Engine) -> None:
    port = free_port()
    serve(engine, "server", "-p", f"{port}:80")
    gateway = engine.inspect("server")["NetworkSettings"]["Networks"]["bridge"]["Gateway"]
    assert engine.output("run", "--rm", BUSYBOX, "wget", "-qO-", f"http://{gateway}:{port}/") == "server"
    assert engine.output("exec", "server", "wget", "-qO-", f"http://{gateway}:{port}/") == "server"


def test_a_port_is_chosen_when_none_is_named(engine: Engine) -> None:
    ports = serve(engine, "server", "-p", "80")
    chosen = int(ports["80/tcp"][0]["HostPort"])
    assert get("127.0.0.1", chosen) == "server"
    assert f":{chosen}" in engine.output("port", "server", "80")


def test_publish_all_takes_the_exposed_ports(engine: Engine) -> None:
    ports = serve(engine, "server", "-P", "--expose=80")
    assert get("127.0.0.1", int(ports["80/tcp"][0]["HostPort"])) == "server"


def test_a_udp_port_is_published(engine: Engine) -> None:
    port = free_port()
    engine.docker("run", "-d", "--name=server", "-p", f"{port}:53/udp", BUSYBOX, "sleep", "1000")

    def arrived() -> int:
        """Datagrams that arrived in the container, where no program waits for them: the kernel counts them as NoPorts."""
        names, values = engine.output("exec", "server", "grep", "^Udp:", "/proc/net/snmp").splitlines()
        return int(values.split()[names.split().index("NoPorts")])

    before = arrived()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"hello", ("127.0.0.1", port))
    wait_until("the datagram arrived", lambda: arrived() > before)


def test_a_port_that_is_taken_is_refused_and_leaves_nothing(engine: Engine) -> None:
    with socket.socket() as listener:
        port = free_port()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        done = engine.docker("run", "--name=late", "-p", f"127.0.0.1:{port}:80", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "address already in use" in done.stderr
    assert engine.state("late")["Status"] == "created"
    assert engine.docker("start", "late").returncode == 0


def test_a_port_is_free_again_after_the_container(engine: Engine) -> None:
    port = free_port()
    for name in ("one", "two"):
        serve(engine, name, "-p", f"{port}:80")
        assert get("127.0.0.1", port) == name
        engine.docker("rm", "-f", name)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))


def test_two_containers_cannot_publish_one_port(engine: Engine) -> None:
    port = free_port()
    serve(engine, "one", "-p", f"{port}:80")
    done = engine.docker("run", "-p", f"{port}:80", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "port is already allocated" in done.stderr


def test_ps_and_port_show_what_is_published(engine: Engine) -> None:
    port = free_port()
    serve(engine, "server", "-p", f"127.0.0.1:{port}:80")
    assert engine.output("ps", "--format={{.Ports}}") == f"127.0.0.1:{port}->80/tcp"
    assert engine.output("port", "server") == f"80/tcp -> 127.0.0.1:{port}"


def test_network_none_has_loopback_alone(engine: Engine) -> None:
    assert engine.shell("ls /sys/class/net; ip -4 -o addr | awk '{print $4}'; ip route") == "lo\n127.0.0.1/8"
    assert engine.shell("ping -c1 -W300 127.0.0.1 > /dev/null && echo up") == "up"


def test_network_host_is_the_machine_s(engine: Engine) -> None:
    inside = engine.output("run", "--rm", "--network=host", BUSYBOX, "readlink", "/proc/self/ns/net")
    assert inside == os.readlink("/proc/self/ns/net")
    assert engine.output("run", "--rm", "--network=host", BUSYBOX, "hostname") == socket.gethostname()


def test_network_container_shares_the_other_s(engine: Engine) -> None:
    serve(engine, "server")
    assert (
        engine.output("run", "--rm", "--network=container:server", BUSYBOX, "wget", "-qO-", "http://127.0.0.1/")
        == "server"
    )
    assert engine.output("run", "--rm", "--network=container:server", BUSYBOX, "hostname") == "server"


def test_network_container_of_one_that_does_not_run_is_refused(engine: Engine) -> None:
    engine.docker("create", "--name=still", BUSYBOX, "true")
    done = engine.docker("run", "--rm", "--network=container:still", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "cannot join network of a non running container" in done.stderr


def test_an_unknown_network_is_refused(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--network=nowhere", BUSYBOX, "true", check=False)
    assert done.returncode == 125
    assert "network nowhere not found" in done.stderr


def test_name_servers_are_the_machine_s_without_its_loopback_ones(engine: Engine) -> None:
    inside = engine.output("run", "--rm", BUSYBOX, "grep", "^nameserver", "/etc/resolv.conf")
    for line in inside.splitlines():
        assert not line.split()[1].startswith("127.")


def test_no_ipv6_but_loopback_on_an_ipv4_network(engine: Engine) -> None:
    script = "cat /proc/net/if_inet6 | grep -v ' lo$'; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6"
    assert engine.output("run", "--rm", BUSYBOX, "sh", "-c", script) == "1"


def test_the_default_networks_are_listed_and_inspected(engine: Engine) -> None:
    assert {"bridge", "host", "none"} <= set(engine.output("network", "ls", "--format={{.Name}}").split())
    engine.docker("run", "-d", "--name=box", BUSYBOX, "sleep", "1000")
    shown = json.loads(engine.output("network", "inspect", "bridge"))[0]
    assert shown["Driver"] == "bridge"
    assert {entry["Name"]: entry["IPv4Address"].split("/")[0] for entry in shown["Containers"].values()} == {
        "box": address(engine, "box")
    }
    assert "not found" in engine.docker("network", "inspect", "nowhere", check=False).stderr.lower()


@differs_on_dockerd("runs here without its packet filter")
def test_what_leaves_the_bridge_has_the_machine_s_address(engine: Engine) -> None:
    """A network beyond this machine, made of a namespace behind a veth: what arrives there comes from the machine, not from the bridge."""
    space, outer, inner = f"out{os.getpid()}", f"vo{os.getpid()}", f"vi{os.getpid()}"
    commands = [
        f"ip netns add {space}",
        f"ip link add {outer} type veth peer name {inner} netns {space}",
        f"ip addr add 198.51.100.1/24 dev {outer}",
        f"ip link set {outer} up",
        f"ip -n {space} addr add 198.51.100.2/24 dev {inner}",
        f"ip -n {space} link set {inner} up",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        script = "nc -l -p 8080 -e sh -c 'netstat -tn | grep 8080'"
        server = subprocess.Popen(
            ["ip", "netns", "exec", space, "busybox", "sh", "-c", script],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(
                "it listens",
                lambda: (
                    b"1F90"
                    in subprocess.check_output(["ip", "netns", "exec", space, "cat", "/proc/net/tcp", "/proc/net/tcp6"])
                ),
            )
            seen = engine.output("run", "--rm", BUSYBOX, "nc", "-w", "300", "198.51.100.2", "8080")
            assert "198.51.100.1:" in seen
        finally:
            server.kill()
            server.wait()
    finally:
        subprocess.run(["ip", "netns", "del", space], check=False)
        subprocess.run(["ip", "link", "del", outer], check=False, capture_output=True)


@pytest.mark.skipif(
    PEER == "dockerd", reason="peer: dockerd 20.10: a bridge without its packet filter does not isolate"
)
def test_ports_that_are_not_published_are_closed_to_the_outside(engine: Engine) -> None:
    serve(engine, "server")
    with pytest.raises(OSError):
        get(host_address(), 80)
