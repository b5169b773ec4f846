"""Containers, as the Engine API has them: one method per request, Docker's JSON in and out; and `run`, the whole life of one."""

from __future__ import annotations

from .session import segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from .http import Response, Stream
    from .session import Session

    Json = dict[str, Any]
    JsonList = list[Json]  # the class has a method called list
    Filters = Mapping[str, Sequence[str]]


class ExecResult:
    """What a finished process left: `exit_code`, `stdout`, `stderr` (bytes; a terminal's output is all in `stdout`)."""

    __slots__ = ("exit_code", "stderr", "stdout")

    def __init__(self, exit_code: int, stdout: bytes, stderr: bytes) -> None:
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr

    def __repr__(self) -> str:
        return f"ExecResult(exit_code={self.exit_code}, stdout={self.stdout!r}, stderr={self.stderr!r})"


class Waiter:
    """A registered wait. `result` blocks until the condition holds."""

    __slots__ = ("_response", "_session")

    def __init__(self, session: Session, response: Response) -> None:
        self._session = session
        self._response = response

    def result(self) -> tuple[int, str | None]:
        """(exit code, the engine's error if waiting itself failed)."""
        from .session import decode

        answer = decode(self._response.read()) or {}
        problem = answer.get("Error")
        return int(answer.get("StatusCode", 0)), (problem or {}).get("Message") or None

    def close(self) -> None:
        self._response.close()


class Containers:
    """`Client.containers`. `ref` is an id, a unique beginning of one, or a name."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # -- life ------------------------------------------------------------------------------------------------------------------------------

    def create(self, config: Json, *, name: str | None = None, platform: str | None = None) -> Json:
        """POST /containers/create: {"Id", "Warnings"}. `config` is the API's body. NotFound when the image is not there."""
        query = {"name": name or None, "platform": platform or None}
        answer: Json = self._session.call("POST", "/containers/create", query=query, json=config)
        return answer

    def start(self, ref: str, *, detach_keys: str | None = None) -> None:
        """Nothing happens when it runs already."""
        self._post(ref, "start", {"detachKeys": detach_keys})

    def stop(self, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        self._post(ref, "stop", {"t": timeout, "signal": signal})

    def restart(self, ref: str, *, timeout: int | None = None, signal: str | None = None) -> None:
        self._post(ref, "restart", {"t": timeout, "signal": signal})

    def kill(self, ref: str, *, signal: str | None = None) -> None:
        self._post(ref, "kill", {"signal": signal})

    def pause(self, ref: str) -> None:
        self._post(ref, "pause", {})

    def unpause(self, ref: str) -> None:
        self._post(ref, "unpause", {})

    def rename(self, ref: str, name: str) -> None:
        self._post(ref, "rename", {"name": name})

    def resize(self, ref: str, *, height: int, width: int) -> None:
        self._post(ref, "resize", {"h": height, "w": width})

    def remove(self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        query = {"force": force or None, "v": volumes or None, "link": link or None}
        self._session.call("DELETE", f"/containers/{segment(ref)}", query=query)

    def wait(self, ref: str, condition: str = "not-running") -> Waiter:
        """Registers a wait for "not-running", "next-exit" or "removed"; what happens from now on is not missed."""
        path = f"/containers/{segment(ref)}/wait"
        return Waiter(self._session, self._session.open("POST", path, query={"condition": condition}))

    def _post(self, ref: str, verb: str, query: Mapping[str, object]) -> Any:
        return self._session.call("POST", f"/containers/{segment(ref)}/{verb}", query=query)

    # -- streams ---------------------------------------------------------------------------------------------------------------------------

    def attach(
        self,
        ref: str,
        *,
        stdin: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        logs: bool = False,
        detach_keys: str | None = None,
    ) -> Stream:
        """The container's standard streams, raw when it has a terminal, stdcopy frames otherwise."""
        query = {
            "stream": True,
            "stdin": stdin or None,
            "stdout": stdout or None,
            "stderr": stderr or None,
            "logs": logs or None,
            "detachKeys": detach_keys or None,
        }
        return self._session.upgrade("POST", f"/containers/{segment(ref)}/attach", query=query)

    def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        stdout: bool = True,
        stderr: bool = True,
        since: str | None = None,
        until: str | None = None,
        timestamps: bool = False,
        tail: str | None = None,
        details: bool = False,
    ) -> Iterator[bytes]:
        """The log as the engine sends it (frames without a terminal: see `stdcopy.demultiplex`). Times are unix seconds, "12.000000034"."""
        query = {
            "follow": follow or None,
            "stdout": stdout or None,
            "stderr": stderr or None,
            "since": since,
            "until": until,
            "timestamps": timestamps or None,
            "tail": tail,
            "details": details or None,
        }
        return self._session.open("GET", f"/containers/{segment(ref)}/logs", query=query).pieces()

    # -- questions -------------------------------------------------------------------------------------------------------------------------

    def list(
        self, *, all: bool = False, limit: int | None = None, size: bool = False, filters: Filters | None = None
    ) -> list[Json]:
        query = {"all": all or None, "limit": limit, "size": size or None, "filters": _filters(filters)}
        answer: list[Json] = self._session.call("GET", "/containers/json", query=query)
        return answer

    def inspect(self, ref: str, *, size: bool = False) -> Json:
        answer: Json = self._session.call("GET", f"/containers/{segment(ref)}/json", query={"size": size or None})
        return answer

    def top(self, ref: str, ps_args: str | None = None) -> Json:
        answer: Json = self._session.call("GET", f"/containers/{segment(ref)}/top", query={"ps_args": ps_args})
        return answer

    def stats(self, ref: str, *, stream: bool = True, one_shot: bool = False) -> Iterator[Json]:
        query = {"stream": stream, "one-shot": one_shot or None}
        return self._session.stream(self._session.open("GET", f"/containers/{segment(ref)}/stats", query=query))

    def changes(self, ref: str) -> JsonList:
        """[{"Path", "Kind"}]: 0 is modified, 1 added, 2 deleted."""
        answer: JsonList | None = self._session.call("GET", f"/containers/{segment(ref)}/changes")
        return answer or []

    def export(self, ref: str) -> Iterator[bytes]:
        """Its file system as a tar, piece by piece."""
        return self._session.open("GET", f"/containers/{segment(ref)}/export").pieces()

    def commit(
        self,
        ref: str,
        *,
        reference: str = "",
        message: str = "",
        author: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> str:
        """→ the new image's id. `reference`: its name, "name" or "name:tag"."""
        from .reference import split

        repository, tag = split(reference) if reference else ("", "")
        query = {
            "container": ref,
            "repo": repository or None,
            "tag": tag or None,
            "comment": message or None,
            "author": author or None,
            "changes": list(changes),
            "pause": pause,
        }
        answer: Json = self._session.call("POST", "/commit", query=query)
        return str(answer["Id"])

    def prune(self, filters: Filters | None = None) -> Json:
        answer: Json = self._session.call("POST", "/containers/prune", query={"filters": _filters(filters)})
        return answer

    # -- exec ------------------------------------------------------------------------------------------------------------------------------

    def exec_create(self, ref: str, config: Json) -> str:
        """The id of a process that is ready to be started in a running container."""
        answer: Json = self._session.call("POST", f"/containers/{segment(ref)}/exec", json=config)
        return str(answer["Id"])

    def exec_start(self, exec_id: str, *, tty: bool = False, size: tuple[int, int] | None = None) -> Stream:
        """Starts it, attached. `size` is (height, width)."""
        body: Json = {"Detach": False, "Tty": tty}
        if size and size != (0, 0):
            body["ConsoleSize"] = list(size)
        return self._session.upgrade("POST", f"/exec/{segment(exec_id)}/start", json=body)

    def exec_start_detached(self, exec_id: str, *, tty: bool = False) -> None:
        self._session.call("POST", f"/exec/{segment(exec_id)}/start", json={"Detach": True, "Tty": tty})

    def exec_resize(self, exec_id: str, *, height: int, width: int) -> None:
        self._session.call("POST", f"/exec/{segment(exec_id)}/resize", query={"h": height, "w": width})

    def exec_inspect(self, exec_id: str) -> Json:
        answer: Json = self._session.call("GET", f"/exec/{segment(exec_id)}/json")
        return answer

    # -- whole lives -----------------------------------------------------------------------------------------------------------------------

    def exec(
        self,
        ref: str,
        command: Sequence[str],
        *,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        user: str = "",
        workdir: str = "",
        privileged: bool = False,
    ) -> ExecResult:
        """Runs a command in a running container to its end. `stdin` is given to it whole."""
        config: Json = {
            "Cmd": list(command),
            "AttachStdin": stdin is not None,
            "AttachStdout": True,
            "AttachStderr": True,
            "Env": _environment(environment),
            "User": user,
            "WorkingDir": workdir,
            "Privileged": privileged,
        }
        exec_id = self.exec_create(ref, config)
        stdout, stderr = _converse(self.exec_start(exec_id), stdin)
        return ExecResult(int(self.exec_inspect(exec_id).get("ExitCode") or 0), stdout, stderr)

    def run(
        self,
        image: str,
        command: Sequence[str] | None = None,
        *,
        stdin: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
        user: str = "",
        workdir: str = "",
        network: str = "",
        volumes: Sequence[str] = (),
        memory: int = 0,
        remove: bool = True,
        config: Json | None = None,
        pull: bool = True,
    ) -> ExecResult:
        """Runs a container to its end: the image's command or `command`, `stdin` given whole, output collected.

        `volumes` are Docker's `source:target[:options]`, `memory` bytes, `config` more of the API's body of create (its HostConfig is merged).
        A missing image is pulled if `pull`. The container is removed afterwards if `remove`, also when something fails on the way.
        """
        body, host = dict(config or {}), dict((config or {}).get("HostConfig") or {})
        body["Image"] = image
        if command is not None:
            body["Cmd"] = list(command)
        for key, value in (("Env", _environment(environment)), ("User", user), ("WorkingDir", workdir)):
            if value:
                body[key] = value
        for key, setting in (("NetworkMode", network), ("Binds", list(volumes)), ("Memory", memory)):
            if setting:
                host[key] = setting
        body.update(HostConfig=host, AttachStdout=True, AttachStderr=True)
        if stdin is not None:
            body.update(OpenStdin=True, StdinOnce=True, AttachStdin=True)
        ref = str(self._create_pulling(body, name=name, pull=pull)["Id"])
        try:
            stream = self.attach(ref, stdin=stdin is not None)
            waiter = self.wait(ref, "next-exit")
            self.start(ref)
            stdout, stderr = _converse(stream, stdin, tty=bool(body.get("Tty")))
            code, problem = waiter.result()
            if problem:
                stderr += problem.encode()
            return ExecResult(code, stdout, stderr)
        finally:
            if remove:
                self.remove(ref, force=True, volumes=True)

    def _create_pulling(self, body: Json, *, name: str | None, pull: bool) -> Json:
        from wherry.errors import NotFound

        try:
            return self.create(body, name=name)
        except NotFound:
            if not pull:
                raise
        from .images import Images

        for _ in Images(self._session).pull(body["Image"]):
            pass
        return self.create(body, name=name)


def _filters(filters: Filters | None) -> dict[str, dict[str, bool]] | None:
    """Docker's wire form, which old engines know too: {"name": {"value": true}}."""
    return {key: dict.fromkeys(values, True) for key, values in filters.items()} if filters else None


def _environment(environment: Mapping[str, str] | None) -> list[str]:
    return [f"{key}={value}" for key, value in (environment or {}).items()]


def _converse(stream: Stream, stdin: bytes | None, *, tty: bool = False) -> tuple[bytes, bytes]:
    """Sends `stdin` while reading everything; a process that reads nothing does not stop us."""
    from .stdcopy import STDERR, Demultiplexer

    if stdin is not None:
        from _thread import start_new_thread

        start_new_thread(_send_all, (stream, stdin))
    demultiplexer = Demultiplexer()
    out: list[bytes] = []
    err: list[bytes] = []
    try:
        while data := stream.receive():
            if tty:
                out.append(data)
                continue
            for number, payload in demultiplexer.feed(data):
                (err if number == STDERR else out).append(payload)
    finally:
        stream.close()
    return b"".join(out), b"".join(err)


def _send_all(stream: Stream, data: bytes) -> None:
    try:
        stream.send(data)
    except OSError:
        pass  # the process ended without reading it
    stream.close_write()
