"""How wherryd starts its zygote: a fresh interpreter that cannot be used to overwrite the host's.

Runs in wherryd (the one part of this package that does). A process that enters a container can be reached from there as /proc/PID/exe; if that
led to the host's python, root in the container could overwrite it (CVE-2019-5736). So the zygote, and with it all shims and inits, is executed
from a detached read-only clone of the interpreter's file, or from a sealed copy in memory where the kernel cannot do that. argv[0] stays the
real path, by which Python finds its library.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import sysconfig

from wherry.errors import SyscallError
from wherry.linux import mounts

_SOURCE = "import sys; sys.path.append(sys.argv[1]); from wherry.shim.zygote import main; main(int(sys.argv[2]))"


def start_zygote() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of the socket to it (blocking). It ends when that is closed."""
    interpreter = os.path.realpath(sys.executable)
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    ours, theirs = socket.socketpair()
    executable = open_executable(interpreter)
    try:
        process = subprocess.Popen(
            [interpreter, "-I", "-S", "-c", _SOURCE, packages, str(theirs.fileno())],
            executable=f"/proc/self/fd/{executable}",
            stdin=subprocess.DEVNULL,
            pass_fds=(executable, theirs.fileno()),
            env=_environment(),
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(executable)
        theirs.close()
    return process, ours


def open_executable(path: str) -> int:
    """A descriptor to execute `path` by, through which the file cannot be written: on a read-only clone of its mount, or a sealed copy."""
    try:
        fd = mounts.clone_tree(path)
        try:
            mounts.set_attributes(fd, mounts.Attributes(mounts.RDONLY, propagation=mounts.PRIVATE), subject=path)
        except BaseException:
            os.close(fd)
            raise
        return fd
    except SyscallError:
        return _sealed_copy(path)


def _sealed_copy(path: str) -> int:
    fd = os.memfd_create("wherry-python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(path, "rb") as source:
            size = os.fstat(source.fileno()).st_size
            done = 0
            while done < size:
                done += os.sendfile(fd, source.fileno(), None, size - done)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _environment() -> dict[str, str]:
    """Little: no container inherits it, but every shim has it in memory. An interpreter that is a shared library is found by its path, since
    `$ORIGIN` means nothing on a detached mount.
    """
    environment = {
        "PATH": os.environ.get("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        "LC_ALL": "C.UTF-8",
    }
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        environment["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    return environment
