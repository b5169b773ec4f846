"""`docker top`: the machine's own `ps`, with the rows of the container's processes.

The program that runs is the host's, never the image's (CVE-2022-1227).
"""

from __future__ import annotations

import asyncio
import contextlib

from wherry.errors import FailedPrecondition, Internal, InvalidArgument
from wherry.spec.calls import Json

_PS = ("/usr/bin/ps", "/bin/ps")
_LIMIT = 16 << 20
"""Bytes of ps's output: command lines are the containers' own, as long as they like."""


async def top(pids: list[int], ps_args: str) -> Json:
    """{"Titles": [...], "Processes": [[...], …]}. `ps_args`: as the user wrote them; "" is "-ef"."""
    arguments = (ps_args or "-ef").split()
    if any("\0" in argument for argument in arguments):
        raise InvalidArgument("invalid ps arguments")
    try:  # without -q, ps chooses by the terminal that it runs on unless its arguments say otherwise
        output = await _run_ps([*arguments, "-q" + ",".join(map(str, pids))])
    except Internal:  # -e, -f, -A … do not go together with -q
        output = await _run_ps(arguments)
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("Couldn't find PID field in ps output")
    column = titles.index("PID")
    wanted = set(pids)
    processes = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in wanted:
            processes.append(fields)
    return {"Titles": titles, "Processes": processes}


async def _run_ps(arguments: list[str]) -> str:
    for path in _PS:
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError:
            continue
        assert process.stdout is not None and process.stderr is not None
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(_read(process, stream)) for stream in (process.stdout, process.stderr)]
        await process.wait()
        output, complaint = (task.result() for task in reading)
        if max(len(output), len(complaint)) >= _LIMIT:
            raise FailedPrecondition(f"ps wrote more than {_LIMIT} bytes")
        if process.returncode != 0:
            text = complaint.decode("utf-8", "replace").strip().partition("\n")[0]
            raise Internal(f"ps: {text or f'exit status {process.returncode}'}")
        return output.decode("utf-8", "replace")
    raise FailedPrecondition("docker top needs the program ps: install the package procps")


async def _read(process: asyncio.subprocess.Process, stream: asyncio.StreamReader) -> bytes:
    """What is written until the end, at most _LIMIT bytes: a ps that writes more is killed."""
    try:
        read = await stream.readexactly(_LIMIT)
    except asyncio.IncompleteReadError as end:
        return end.partial
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    return read
