"""`wherry stats`: what containers use, live."""

from __future__ import annotations

from _queue import SimpleQueue

from wherry.cli import units
from wherry.cli.command import CliError, Command
from wherry.cli.flags import Flag
from wherry.cli.main import describe
from wherry.cli.table import Columns, layout, render
from wherry.client.containers import Containers
from wherry.client.system import System
from wherry.errors import WherryError

from .ps import short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.cli.app import App
    from wherry.cli.flags import Flags

    Json = dict[str, Any]


class _Collector:
    """One thread per container reads its samples; all put what they read into one queue, which the main thread empties."""

    def __init__(self, app: App, *, stream: bool) -> None:
        self._app = app
        self._stream = stream
        self.queue: SimpleQueue[tuple[str, str, Any]] = SimpleQueue()
        self.names: list[str] = []
        self.latest: dict[str, Json | None] = {}
        self.errors: dict[str, str] = {}

    def add(self, name: str) -> None:
        """Begins to collect for a container."""
        from _thread import start_new_thread

        if name not in self.latest:
            self.names.append(name)
            self.latest[name] = None
            start_new_thread(self._read, (name,))

    def remove(self, name: str) -> None:
        if name in self.latest:
            self.names.remove(name)
            del self.latest[name]

    def watch(self, *, all: bool) -> None:
        """Follows containers that come and go."""
        from _thread import start_new_thread

        start_new_thread(self._follow, (all,))

    def _read(self, name: str) -> None:
        try:
            with self._app.another_session() as session:
                for sample in Containers(session).stats(name, stream=self._stream):
                    self.queue.put(("sample", name, sample))
                    if not self._stream:
                        return
            self.queue.put(("end", name, None))
        except WherryError as error:
            self.queue.put(("error", name, describe(error)))

    def _follow(self, all: bool) -> None:
        actions = ["start", "die", "destroy"] + (["create"] if all else [])
        try:
            with self._app.another_session() as session:
                for event in System(session).events(filters={"type": ["container"], "event": actions}):
                    self.queue.put(("event", event["Actor"]["ID"], event["Action"]))
        except WherryError:
            pass
        self.queue.put(("over", "", None))

    def take(self, kind: str, name: str, value: Any) -> None:
        """Books one item of the queue."""
        if kind == "sample" and name in self.latest:
            self.latest[name] = value
        elif kind in ("end", "error"):
            if kind == "error":
                self.errors[name] = value
            self.remove(name)
        elif kind == "event":
            if value in ("start", "create"):
                self.add(name)
            elif value == "destroy" or name in self.latest:
                self.remove(name)


def run(app: App, flags: Flags, arguments: list[str]) -> int:
    stream, form, truncate = not flags.on("no-stream"), flags.text("format"), not flags.on("no-trunc")
    collector = _Collector(app, stream=stream)
    if not arguments and stream:
        collector.watch(all=flags.on("all"))
    for name in arguments or [item["Id"] for item in app.containers.list(all=flags.on("all"))]:
        collector.add(name)
    missing = set(collector.names)
    while missing:  # everyone's first sample
        kind, name, value = collector.queue.get()
        collector.take(kind, name, value)
        missing.discard(name)
    if arguments and collector.errors:
        raise CliError("\n".join(collector.errors.values()))
    if not stream:
        if collector.names:
            app.out(_text(collector, form, truncate=truncate))
        return 0
    while collector.names or not arguments:
        frame = _text(collector, form, truncate=truncate).replace("\n", "\033[K\n")
        app.out(f"\033[H{frame}\033[J")
        item = collector.queue.get()
        while True:
            if item[0] == "over":
                return 0
            collector.take(*item)
            if collector.queue.empty():
                break
            item = collector.queue.get()
    return 0


def _text(collector: _Collector, form: str, *, truncate: bool) -> str:
    items = [(name, collector.latest[name]) for name in collector.names]
    columns = Columns(_fields(truncate=truncate), _SHOWN, "*container.statsContext")
    if form in ("", "table"):
        rows = [[columns.fields[name][0] for name in _SHOWN]]
        rows += [[columns.fields[name][1](item) for name in _SHOWN] for item in items]
        return layout(rows, fit=truncate)
    return render(columns, items, form)


_SHOWN = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


def _fields(*, truncate: bool) -> dict[str, tuple[str, Any]]:
    def field(function: Any, absent: str = "--") -> Any:
        return lambda item: function(item[1]) if item[1] is not None else absent

    def identity(item: tuple[str, Json | None]) -> str:
        whole = str((item[1] or {}).get("id") or item[0])
        return short_id(whole) if truncate else whole

    return {
        "Container": ("CONTAINER", lambda item: item[0] if not truncate or len(item[0]) != 64 else short_id(item[0])),
        "ID": ("CONTAINER ID", identity),
        "Name": ("NAME", field(lambda sample: sample.get("name", "--").removeprefix("/"))),
        "CPUPerc": ("CPU %", field(lambda sample: f"{cpu_percent(sample):.2f}%")),
        "MemUsage": ("MEM USAGE / LIMIT", field(_memory, "-- / --")),
        "MemPerc": ("MEM %", field(_memory_percent)),
        "NetIO": ("NET I/O", field(_network)),
        "BlockIO": ("BLOCK I/O", field(_block)),
        "PIDs": ("PIDS", field(lambda sample: str((sample.get("pids_stats") or {}).get("current", 0)))),
    }


def cpu_percent(sample: Json) -> float:
    """Of one CPU, between this sample and the one before."""
    now, before = sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}
    usage = now.get("cpu_usage") or {}
    used = usage.get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    passed = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cpus = now.get("online_cpus") or len(usage.get("percpu_usage") or ())
    return float(used / passed * cpus * 100) if passed > 0 and used > 0 else 0.0


def _used(sample: Json) -> int:
    """Memory without the page cache that can be given up: total_inactive_file on cgroup v1, inactive_file on v2."""
    memory = sample.get("memory_stats") or {}
    usage, stats = int(memory.get("usage", 0)), memory.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):
        if 0 <= stats.get(key, -1) < usage:
            return usage - int(stats[key])
    return usage


def _memory(sample: Json) -> str:
    limit = (sample.get("memory_stats") or {}).get("limit", 0)
    return f"{units.binary_size(_used(sample))} / {units.binary_size(limit)}"


def _memory_percent(sample: Json) -> str:
    limit = (sample.get("memory_stats") or {}).get("limit", 0)
    return f"{_used(sample) / limit * 100 if limit else 0.0:.2f}%"


def _network(sample: Json) -> str:
    networks = (sample.get("networks") or {}).values()
    received, sent = (sum(item.get(key, 0) for item in networks) for key in ("rx_bytes", "tx_bytes"))
    return f"{units.decimal_size(received, 3)} / {units.decimal_size(sent, 3)}"


def _block(sample: Json) -> str:
    entries = (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    totals = [sum(entry["value"] for entry in entries if entry["op"][:1].lower() == letter) for letter in "rw"]
    return f"{units.decimal_size(totals[0], 3)} / {units.decimal_size(totals[1], 3)}"


COMMAND = Command(
    run,
    arguments="[CONTAINER...]",
    flags=(
        Flag("all", "bool", "Include stopped containers", short="a"),
        Flag("format", "string", "table, json, or a template"),
        Flag("no-stream", "bool", "Print one sample and exit"),
        Flag("no-trunc", "bool", "Do not truncate the output"),
    ),
    examples=("wherry stats", "wherry stats --no-stream --format '{{.Name}} {{.MemUsage}}'"),
)
