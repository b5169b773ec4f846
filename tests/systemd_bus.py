"""A service manager that speaks D-Bus as systemd does, for machines that have not booted with one: it makes units' real
cgroups and moves their processes there.

Knows what wherry-runc says to it, and answers all else with UnknownMethod. What was asked is in `calls`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

from wherry.linux import cgroups, dbus
from wherry.linux.cgroups.systemd import expand_slice
from wherry.linux.dbus import Message, Variant

_MANAGER = "org.freedesktop.systemd1.Manager"
_JOB = "/org/freedesktop/systemd1/job/7"


class FakeSystemd:
    def __init__(self, path: Path, version: str = "252.39-1~deb12u1") -> None:
        self.address = f"unix:path={path}"
        self.version = version
        self.calls: list[tuple[str, list[Any]]] = []
        self.units: dict[str, dict[str, Any]] = {}
        self.fail_next = ""
        """How the next job is to end instead of "done"."""
        self._places: dict[str, Path] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._server.close()
        for place in self._places.values():
            for directory in (place, *place.parents):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                line = stream.readline()
                assert line.startswith(b"\0AUTH EXTERNAL "), line
                connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
                assert stream.readline() == b"BEGIN\r\n"
                while head := stream.read(dbus.HEAD):
                    self._answer(connection, dbus.decode(head + stream.read(dbus.size(head) - dbus.HEAD)))

    def _answer(self, connection: socket.socket, message: Message) -> None:
        member = message.fields[dbus.MEMBER]
        self.calls.append((member, message.body))
        fields: dict[int, Any] = {dbus.REPLY_SERIAL: message.serial}
        try:
            signature, values, unit = getattr(self, f"_do_{member}")(*message.body)
        except AttributeError:
            signature, values, unit = "s", (f"no {member}",), ""
            fields[dbus.ERROR_NAME] = "org.freedesktop.DBus.Error.UnknownMethod"
        except dbus.DbusError as error:
            signature, values, unit = "s", (str(error),), ""
            fields[dbus.ERROR_NAME] = error.name
        kind = dbus.ERROR if dbus.ERROR_NAME in fields else dbus.RETURN
        data = dbus.encode(kind, 1, fields, signature, values)
        if unit:
            result, self.fail_next = self.fail_next or "done", ""
            place = {dbus.PATH: "/org/freedesktop/systemd1", dbus.INTERFACE: _MANAGER, dbus.MEMBER: "JobRemoved"}
            data += dbus.encode(dbus.SIGNAL, 2, place, "uoss", (7, _JOB, unit, result))
        connection.sendall(data)

    def _do_Hello(self) -> tuple[str, tuple[Any, ...], str]:
        return "s", (":1.7",), ""

    def _do_AddMatch(self, _rule: str) -> tuple[str, tuple[Any, ...], str]:
        return "", (), ""

    def _do_Get(self, _interface: str, name: str) -> tuple[str, tuple[Any, ...], str]:
        return "v", (Variant("s", {"Version": self.version}[name]),), ""

    def _do_StartTransientUnit(
        self, unit: str, _mode: str, properties: list[Any], _aux: list[Any]
    ) -> tuple[str, tuple[Any, ...], str]:
        if unit in self.units:
            raise dbus.DbusError("org.freedesktop.systemd1.UnitExists", f"Unit {unit} was already loaded")
        values = {name: variant.value for name, variant in properties}
        self.units[unit] = values
        place = self._directory() / (expand_slice(values["Slice"]) if "Slice" in values else "").lstrip("/") / unit
        place.mkdir(parents=True, exist_ok=True)
        self._places[unit] = place
        for pid in values.get("PIDs", ()):
            (place / "cgroup.procs").write_text(str(pid))
        return "o", (_JOB,), unit

    def _directory(self) -> Path:
        """The hierarchy that systemd keeps its units in."""
        layout = cgroups.detect()
        named = [h.mountpoint for h in layout.v1 if h.controllers == ("name=systemd",)]
        assert named or layout.unified
        return Path(named[0] if named else layout.unified.mountpoint)  # type: ignore[union-attr]

    def _do_SetUnitProperties(
        self, unit: str, _runtime: bool, properties: list[Any]
    ) -> tuple[str, tuple[Any, ...], str]:
        if unit not in self.units:
            raise dbus.DbusError("org.freedesktop.systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        self.units[unit].update({name: variant.value for name, variant in properties})
        return "", (), ""

    def _do_StopUnit(self, unit: str, _mode: str) -> tuple[str, tuple[Any, ...], str]:
        if unit not in self.units:
            raise dbus.DbusError("org.freedesktop.systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        del self.units[unit]
        with contextlib.suppress(OSError):
            os.rmdir(self._places[unit])
        return "o", (_JOB,), unit

    def _do_ResetFailedUnit(self, unit: str) -> tuple[str, tuple[Any, ...], str]:
        self.units.pop(unit, None)
        return "", (), ""
