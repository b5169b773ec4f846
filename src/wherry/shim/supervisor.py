"""One container, from its start to its last trace: what a shim does.

Runs in the shim, forked from the zygote, one per container, in its own session, a child subreaper. What blocks is done by workers (`worker`,
`jobs`); the shim itself pumps stdio, serves requests (`service`), sees the ends of processes, tells them, and cleans up. docs/flows/shim.md
has the states, the messages, and what survives what.

    created ──start──► running ◄──pause/resume──► paused
       │                  └──────── init ends ─────────┴──► stopped ──► released ──► (gone)
       └── start fails, or the engine goes away ──► (gone)

**Invariants**
- The exit is told (exit.json, then the event) after all output has been read, logged and queued to the clients; what an exec's end tells
  comes before it.
- "released" is told when cgroup and root file system are free for the next start.
- Without an engine everything goes on; with the shim, the container ends.
"""

from __future__ import annotations

import os
from _socket import socket as Socket
from time import time_ns

from wherry.errors import WherryError
from wherry.linux import cgroups, syscalls
from wherry.shim import jobs, process
from wherry.shim.children import Children
from wherry.shim.entry import Entry
from wherry.shim.external import ExternalRuntime
from wherry.shim.loop import READ, Loop
from wherry.shim.service import Service
from wherry.shim.worker import Worker
from wherry.wire import shim as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.linux.cgroups import Cgroup
    from wherry.shim.builtin import BuiltinRuntime
    from wherry.shim.jsonfile import JsonFileLog
    from wherry.shim.loop import Timer
    from wherry.shim.process import Process
    from wherry.shim.stdio import Streams
    from wherry.shim.worker import Done, Job, Tell
    from wherry.wire.shim import Message

EXEC_GRACE_SECONDS = 2.0
"""How long what an exec left in the background may still write to whoever is attached, as dockerd has it."""
DEATH_SECONDS = 10.0
"""How long the exit waits for processes that were killed but do not die (hung in the kernel)."""
MAX_UNTOLD = 256

_PR_SET_CHILD_SUBREAPER = 36


def stand_alone() -> None:
    """A session of our own, and whoever loses its parent below us becomes our child."""
    try:
        os.setsid()
    except PermissionError:
        pass  # a rehearsal: the zygote has its session
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1, subject="child subreaper")


class Supervisor:
    """`Supervisor(control_fd).run()` returns when nothing of the container is left. `start` is what the worker does who starts it."""

    def __init__(
        self,
        control_fd: int,
        start: Callable[[Socket, Tell], tuple[Message, list[int]]] = jobs.start_ahead,
    ) -> None:
        self.loop = Loop()
        self.state = "created"
        self.init: Process | None = None
        self.execs: dict[str, Process] = {}
        self.untold: dict[str, int] = {}
        """Exit statuses of execs that ended while no engine was there to be told."""
        self.oom_score_adj = 0
        self._owing: set[Streams] = set()
        """Of execs that have ended, while clients take what is left."""
        self._children = Children(self.loop)
        self._service = Service(self)
        self._workers: list[Worker | Entry] = []
        self._made: Message = {}
        """What the worker that has started the container says of it."""
        self._not_taken: Message | None = None
        """Why that could not be taken over."""
        self._cgroup: Cgroup | None = None
        self._listener: Socket | None = None
        self._log: JsonFileLog | None = None
        self._dying: list[int] = []
        self._death: Timer | None = None
        control = Socket(fileno=control_fd)
        self.work(
            lambda tell: start(control, tell),
            lambda message, fds: self._on_started(control.detach(), message, fds),
            told=self._take_over,
            keep=[control_fd],
        )

    def run(self) -> None:
        self.loop.run(self._on_fault)
        os.sched_yield()  # whoever was told something goes first: to end takes half a millisecond
        self._service.finish()

    # ---------------------------------------------------------------------------------------------------------- for `service`

    def work(self, job: Job, done: Done, *, keep: list[int], told: Done | None = None) -> None:
        """Has `job` done by a worker, who keeps the descriptors `keep`; `done(message, descriptors)` is called with its answer, `told` with what
        it tells before.
        """

        def finished(message: Message, fds: list[int]) -> None:
            self._workers.remove(worker)
            done(message, fds)

        worker = Worker(self.loop, self._children, job, finished, keep, told)
        self._workers.append(worker)

    def execute(self, request: Message, done: Done) -> None:
        """Has one more process made in the container; `done` is called as for a worker."""
        init, runtime = self.init, self.runtime
        assert init is not None
        pid, adjustment = init.pid, self.oom_score_adj
        if isinstance(runtime, ExternalRuntime):
            other = runtime
            self.work(lambda _: jobs.execute(other, pid, request, adjustment), done, keep=[init.pidfd])
            return
        own = runtime
        born_in = self.cgroup.clone_fd(beside=pid)

        def finished(message: Message, fds: list[int]) -> None:
            self._workers.remove(entry)
            done(message, fds)

        try:
            entry = Entry(
                self.loop,
                self._children,
                lambda channel, stdio: jobs.enter(
                    own, pid, request, adjustment, channel, stdio, born=born_in is not None
                ),
                finished,
                terminal=bool(request["process"].get("terminal")),
                stdin=request["stdio"]["stdin"],
                keep=[init.pidfd],
                born_in=born_in,
            )
        finally:
            if born_in is not None:
                os.close(born_in)
        self._workers.append(entry)

    @property
    def cgroup(self) -> Cgroup:
        if self._cgroup is None:
            self._cgroup = cgroups.open_group(self._made["cgroup"])
        return self._cgroup

    @property
    def runtime(self) -> BuiltinRuntime | ExternalRuntime:
        """The runtime's handle on the running container: made anew where it is needed, which is in workers and at the end."""
        made, init = self._made, self.init
        assert init is not None
        runtime = jobs.make_runtime({"linux": made["linux"]}, made["container"], made["state_dir"], made["runtime"])
        runtime.adopt(init.pid, init.pidfd)
        return runtime

    def add_exec(self, exec_id: str, made: Message, fds: list[int]) -> Process:
        """A further process; `fds` as `process.connect` takes them. ChildProcessError or Conflict when it is none that could have been made
        just now: what was inside the container is not believed everything.
        """
        self._children.check(made["pid"])
        child = process.connect(self.loop, exec_id, made, fds, log=None, ends_with_client=True)
        self.execs[exec_id] = child
        self._children.watch(child.pid, lambda status: self._on_exec_exit(child, status))
        return child

    def on_disconnect(self) -> None:
        """A control connection has ended."""
        if self.state == "released":
            self._leave()

    # ----------------------------------------------------------------------------------------------------------------- start

    def _on_started(self, control_fd: int, message: Message, fds: list[int]) -> None:
        """The worker has started the container, or failed, or has seen the engine go away."""
        result = message.get("ok")
        if result is None:
            self._children.end_all()  # a standby may be making the container's groups
            self.loop.stop()
            return
        connection = self._service.connect(control_fd)
        if result.get("ok") is not None:
            self._take_over(result["ok"], fds)
        error = result.get("error") or self._not_taken
        if error is not None:  # with us, the container ends
            connection.send({"id": result["id"], "error": error})
            self.loop.stop()
            return
        assert self.init is not None
        self.state = "running"
        self._children.watch(self.init.pid, self._on_init_exit, init=True)
        connection.send({"id": result["id"], "ok": {"pid": self.init.pid}})

    def _take_over(self, made: Message, fds: list[int]) -> None:
        """The container that the worker has started, or is about to start, becomes ours."""
        try:
            self._connect(made, fds)
        except Exception as error:
            self._not_taken = wire.error_to_message(error)

    def _connect(self, made: Message, fds: list[int]) -> None:
        self._made = made
        self.oom_score_adj = made["oom_score_adj"]
        end = made["streams"]
        self._listener = Socket(fileno=fds[end])
        self.loop.watch(fds[end], READ, self._on_connection)
        self._log = jobs.open_log(made["log"])
        init = process.connect(self.loop, None, made, fds[:end], log=self._log, ends_with_client=made["stdin_once"])
        self.init = init
        for client, fd in zip(made["attach"], fds[end + 1 :], strict=True):
            init.streams.attach(fd, stdin=client["stdin"], stdout=client["stdout"], stderr=client["stderr"])

    def _on_connection(self, events: int) -> None:
        assert self._listener is not None
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        os.set_inheritable(fd, False)
        self._service.connect(fd)

    # ------------------------------------------------------------------------------------------------------------------ ends

    def _on_exec_exit(self, child: Process, status: int) -> None:
        record = child.end(status, time_ns())
        child.streams.drain()
        if self._service.is_connected:
            self._service.tell(record)
        elif len(self.untold) < MAX_UNTOLD:
            assert child.exec_id is not None
            self.untold[child.exec_id] = status
        if child.streams.at_end or child.streams.raw:
            self._forget_exec(child)
        else:
            child.streams.when_at_end = lambda: self._forget_exec(child)
            child.grace = self.loop.call_later(EXEC_GRACE_SECONDS, child.streams.detach_all)

    def _forget_exec(self, child: Process) -> None:
        child.streams.when_at_end = None
        if child.grace is not None:
            child.grace.cancel()
        streams = child.streams
        streams.finish()
        assert child.exec_id is not None
        self.execs.pop(child.exec_id, None)
        if streams.has_clients:
            self._owing.add(streams)
            streams.when_detached = lambda: self._settle(streams)

    def _settle(self, streams: Streams) -> None:
        streams.when_detached = None
        self._owing.discard(streams)

    def _on_init_exit(self, status: int) -> None:
        """With its PID namespace everything in the container has ended; else what is left in the cgroup is killed first."""
        assert self.init is not None
        self.init.end(status, time_ns())
        self.state = "stopped"
        if self._made["own_pid_namespace"]:
            self._finish()
            return
        self.cgroup.kill()
        self._death = self.loop.call_later(DEATH_SECONDS, self._finish)
        self._watch_the_dying(0)

    def _watch_the_dying(self, events: int) -> None:
        """When nothing is left alive, the container has ended."""
        for pidfd in self._dying:
            self.loop.forget(pidfd)
            os.close(pidfd)
        self._dying = []
        for pid in self.cgroup.pids():
            try:
                pidfd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            self._dying.append(pidfd)
            self.loop.watch(pidfd, READ, self._watch_the_dying)
        if not self._dying:
            self._children.reap()  # execs that have just ended are told first
            self._finish()

    def _finish(self) -> None:
        """Tells the exit, then frees everything."""
        init = self.init
        assert init is not None and init.exit is not None
        if self._death is not None:
            self._death.cancel()
        for worker in list(self._workers):
            worker.kill()
        for child in list(self.execs.values()):
            if child.exit is not None:
                self._forget_exec(child)
        init.streams.drain()
        init.streams.finish()
        if self._log is not None:
            self._log.close()
        try:
            init.exit["oom_killed"] = self.cgroup.oom_kills() > 0
        except (WherryError, OSError):
            pass  # the group is gone already
        try:
            jobs.write_file(self._made["state_dir"], "exit.json", init.exit)
        except OSError as error:  # the disk is full: an engine that is there hears of the exit all the same
            self._service.tell({"event": "warning", "message": f"its exit status could not be written: {error}"})
        self._service.tell(init.exit)
        try:
            self.runtime.delete()
        except (WherryError, OSError) as error:
            self._service.tell(
                {"event": "warning", "message": f"the container's remains could not be removed: {error}"}
            )
        self._stop_listening()
        self.state = "released"
        self._service.tell({"event": "released"})
        self._leave()

    def _stop_listening(self) -> None:
        assert self._listener is not None
        self.loop.forget(self._listener.fileno())
        self._listener.close()
        try:
            os.unlink(f"{self._made['state_dir']}/shim.sock")
        except FileNotFoundError:
            pass  # somebody has removed the directory: what there is to be freed is free all the same

    def _leave(self) -> None:
        """Ends the process once every client has what it is owed."""
        waiting = [child.streams for child in (self.init, *self.execs.values()) if child is not None]
        waiting = [streams for streams in (*waiting, *self._owing) if streams.has_clients]
        for streams in waiting:
            streams.when_detached = self._leave
        if not waiting:
            self.loop.stop()

    def _on_fault(self, fault: Exception) -> None:
        """A defect. What it was is left in shim.err, for the engine's log and for whoever mends it."""
        lines = [f"{type(fault).__name__}: {fault}\n"]
        trace = fault.__traceback__
        while trace is not None:
            lines.append(f"  {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}\n")
            trace = trace.tb_next
        try:
            directory = self._made.get("state_dir", "")
            fd = os.open(f"{directory}/shim.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(fd, "".join(lines).encode("utf-8", "replace"))
            os.close(fd)
        except OSError:
            pass
