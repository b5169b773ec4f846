"""The rules of docs/THREAT_MODEL.md, "How", that can be read off the source: each has its exceptions, each of those its reason.

A rule looks at every call in src/wherry. Who needs a new exception says why in a line here; one that nobody needs any more has to go.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src/wherry"


# --- the source ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    module: str
    """Below src/wherry."""
    scope: str
    """Classes and functions around it."""
    name: str
    """What is called, as it is written: "os.open", "fd.read" is ".read"."""
    node: ast.Call

    def __str__(self) -> str:
        return f"{self.module}:{self.scope} (line {self.node.lineno}): {ast.unparse(self.node)[:100]}"

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]

    def has(self, *keywords: str) -> bool:
        return any(word.arg in keywords for word in self.node.keywords)

    def keyword(self, name: str) -> str:
        """What it is given, as it is written; "" if it is not."""
        return next((ast.unparse(word.value) for word in self.node.keywords if word.arg == name), "")

    @property
    def first(self) -> ast.expr | None:
        return self.node.args[0] if self.node.args else None


class _Calls(ast.NodeVisitor):
    def __init__(self, module: str) -> None:
        self.module = module
        self.scope: list[str] = []
        self.found: list[Call] = []

    def _enter(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.scope.append(node.name)
        self.generic_visit(node)
        self.scope.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _enter

    def visit_Call(self, node: ast.Call) -> None:
        self.found.append(Call(self.module, ".".join(self.scope), _dotted(node.func), node))
        self.generic_visit(node)


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


@cache
def trees() -> dict[str, ast.Module]:
    return {str(path.relative_to(SOURCE)): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


@cache
def calls() -> tuple[Call, ...]:
    found: list[Call] = []
    for module, tree in trees().items():
        visitor = _Calls(module)
        visitor.visit(tree)
        found += visitor.found
    return tuple(found)


# --- the rules -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    breaks: Callable[[Call], bool]
    but: Mapping[str, str]
    """Where it does not hold: "package/", "package/module.py" or "package/module.py:scope", and why not."""
    within: tuple[str, ...] = ("",)


def executes(call: Call) -> bool:
    return (
        call.name.startswith(("subprocess.", "os.exec", "os.posix_spawn", "os.spawn"))
        or call.last in ("create_subprocess_exec", "execve", "_execve", "fork_exec")
    ) and call.name != "subprocess.CompletedProcess"


def asks_a_shell(call: Call) -> bool:
    return (
        call.name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput")
        or call.last == "create_subprocess_shell"
        or call.has("shell")
    )


def makes_code_of_data(call: Call) -> bool:
    return call.name in ("eval", "exec", "compile", "__import__") or call.name in (
        "importlib.import_module",
        "marshal.loads",
        "marshal.load",
    )


def loads_a_library(call: Call) -> bool:
    return call.last in ("CDLL", "PyDLL", "LoadLibrary", "find_library", "dlopen")


_BY_PATH = {
    f"os.{name}"
    for name in (
        *("open", "mkdir", "makedirs", "mknod", "mkfifo", "symlink", "link", "rename", "renames", "replace", "unlink", "remove", "rmdir"),
        *("chown", "lchown", "chmod", "utime", "truncate", "stat", "lstat", "statvfs", "access", "readlink", "listdir", "scandir"),
        *("walk", "setxattr", "getxattr", "listxattr", "removexattr", "chdir", "chroot"),
    )
} | {f"os.path.{name}" for name in ("exists", "lexists", "isdir", "isfile", "islink", "ismount", "realpath", "samefile")} | {"open"}  # fmt: skip


def goes_by_a_path(call: Call) -> bool:
    """The path is not relative to a directory's descriptor, and is no descriptor."""
    if call.name.startswith(("shutil.", "pathlib.", "glob.")):
        return True
    if call.name not in _BY_PATH or call.has("dir_fd", "src_dir_fd"):
        return False
    text = ast.unparse(call.first) if call.first is not None else ""
    by_itself = text.startswith(("f'/proc/self/fd/{", "b'/proc/self/fd/%d' %")) and text.count("/") == 4
    return not (by_itself or text == "fd" or text.startswith("os.open(") or text in DESCRIPTORS.get(call.module, ()))


DESCRIPTORS = {
    "core/lay_over.py": ("above", "below"),
    "core/unpack.py": ("self._root", "self._parent(directory)"),
    "linux/trees.py": ("source", "target"),
    "linux/usage.py": ("directory",),
    "shim/copyup.py": ("target",),
}
"""What descriptors are called where trees of containers are worked on."""


def follows_a_link(call: Call) -> bool:
    """Below a directory's descriptor, a name that somebody else may have made a link."""
    if not call.has("dir_fd", "src_dir_fd") or call.module.startswith("linux/syscalls"):
        return False
    if call.name == "os.open":
        flags = _spelled(call.module, call.node.args[1])
        name = ast.unparse(call.node.args[0])
        return name not in ("'.'", "b'.'") and "O_NOFOLLOW" not in flags and "O_EXCL" not in flags
    if call.name in ("os.chmod", "os.chown", "os.utime", "os.stat", "os.access", "os.link"):
        return call.keyword("follow_symlinks") != "False"
    return False


def _spelled(module: str, node: ast.expr) -> str:
    """Flags with the module's own constants written out."""
    text = ast.unparse(node)
    for statement in trees()[module].body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in text:
                text += " " + ast.unparse(statement.value)
    return text


def resolves_by_the_hosts_rules(call: Call) -> bool:
    return call.last == "openat2" and not call.has("resolve")


def mounts_by_a_path(call: Call) -> bool:
    module = call.name.rpartition(".")[0]
    if module not in ("mounts", "linux_mounts", "syscalls", "os", "") or (
        module == "" and call.module != "linux/mounts.py"
    ):
        return False
    if call.last in ("clone_tree", "open_tree"):
        return call.first is None or ast.unparse(call.first) not in ("''", "fd")
    return call.last in (
        "mount",
        "umount2",
        "attach_at",
        "detach",
        "set_propagation",
        "mount_overlay",
        "chroot",
        "pivot_root",
    )


def makes_a_descriptor_inheritable(call: Call) -> bool:
    if call.last == "dup2":
        return call.keyword("inheritable") != "False"
    if call.name in ("os.set_inheritable", "os.pipe2", "os.memfd_create", "fcntl.fcntl"):
        text = ast.unparse(call.node)
        lets = {"os.set_inheritable": not text.endswith("False)"), "fcntl.fcntl": "F_DUPFD" in text}
        return lets.get(call.name, True) and "CLOEXEC" not in text
    return call.keyword("close_fds") == "False" or call.has("pass_fds")


def reads_without_a_bound(call: Call) -> bool:
    return call.last in ("read", "readline", "readlines", "readall") and "." in call.name and not call.node.args


def binds_an_abstract_socket(call: Call) -> bool:
    if (
        call.last not in ("bind", "connect", "connect_ex", "create_unix_server", "open_unix_connection")
        or not call.node.args
    ):
        return False
    address = call.node.args[0]
    if isinstance(address, ast.JoinedStr) and address.values:
        address = address.values[0]
    return isinstance(address, ast.Constant) and str(address.value)[:1] in ("\0", "@")


def trusts_any_certificate(call: Call) -> bool:
    return call.keyword("ssl") == "False" or call.last in ("_create_unverified_context", "_create_stdlib_context")


_TREES = (
    *(
        "linux/",
        "runtime/",
        "shim/",
        "volumes/",
        "core/unpack.py",
        "core/lay_over.py",
        "core/diff.py",
        "core/inherit.py",
    ),
    *("core/stack.py", "core/tree_tar.py", "core/trees.py", "core/tar_index.py"),
)
"""What runs with a container's root, or on trees that containers and images have filled."""
_SERVERS = (
    *("linux/", "runtime/", "shim/", "core/", "engine/", "api/", "distribution/", "registry/", "network/", "volumes/"),
    *("wire/", "spec/", "daemon/"),
)
_STATE = "its own state directory, which no container sees"
_PACKAGE = "files of this package, which root has installed"
_KERNEL = "the kernel's files (procfs, sysfs, cgroups) of the host"
_FRESH = "a file system of its own, before there is a container"
_DETACHED = "the host's side: what is cloned is a detached mount, used by its descriptor"

_EXECUTED = {
    "cli/autostart.py:_spawn": "wherryd, or the command that is said to start it",
    "core/tasks.py:_kill_remains": "the OCI runtime that the administrator has named",
    "core/unpackers.py:_Worker.start": "our own interpreter",
    "engine/top.py:_run_ps": "/usr/bin/ps of the host (CVE-2022-1227)",
    "linux/exe.py:execute": "our own interpreter",
    "linux/fuse.py:open_overlay": "fuse-overlayfs of the host, with descriptors of ours",
    "linux/syscalls.py:execve": "the call itself, for those below",
    "runtime/cli/interpreter.py:require_readonly": "our own interpreter, where it cannot be written (CVE-2019-5736)",
    "runtime/cli/ps.py:run": "ps of whoever calls wherry-runc",
    "runtime/criu.py:_become": "criu of the host",
    "runtime/hooks.py:_become": "hooks of the configuration, on the side that it names for them",
    "runtime/process.py:execute": "the container's program: its process is inside for good",
    "runtime/rootless.py:_run_tool": "newuidmap and newgidmap of the host, found where root alone installs",
    "shim/external.py:ExternalRuntime._run": "the OCI runtime that the administrator has named",
    "shim/launch.py:start_zygote": "our own interpreter, where it cannot be written",
}
_CODE = {
    "cli/main.py": "the module of a verb out of the table of verbs",
    "cli/probes/machine.py:python": "whether a module of the standard library is there",
    "client/__init__.py:__getattr__": "the module of a name out of a table",
    "runtime/cli/entry.py:_preload": _PACKAGE,
    "runtime/cli/main.py:_load": "the module of a verb out of the table of verbs",
    "runtime/cli/preload.py": _PACKAGE,
    "runtime/cli/strip.py:code": _PACKAGE,
    "wire/expressions.py:any_of": "a regular expression, by the module's own function of this name",
}
_LIBRARIES = {
    "linux/inotify.py": "libc, which is loaded",
    "linux/netns.py": "libc, which is loaded",
    "linux/nftables.py:_load": "libnftables, before any root changes",
    "linux/seccomp.py:_libseccomp": "libseccomp, before any root changes",
    "linux/syscalls.py": "libc, which is loaded",
    "runtime/cli/features.py:libseccomp_version": "libseccomp",
}
_PATHS = {
    "core/inherit.py:inherited": "a layer's own directory, to begin at",
    "core/lay_over.py": "a name in a directory's descriptor; links are not followed, and nobody writes there meanwhile",
    "core/stack.py:find": "a layer's own directory, to begin at",
    "core/tree_tar.py:_xattrs": "a descriptor's own path",
    "core/trees.py:_Comparison.__init__": "two directories that are compared, to begin at",
    "core/trees.py:_xattrs": "a name in a directory's descriptor; links are followed for the root alone, which is a descriptor",
    "core/unpack.py:check_diff_id": "a blob of the store",
    "core/unpack.py:_Extractor._dress_by_name": "a name in a directory's descriptor; links are not followed",
    "linux/btrfs.py": "the driver's own directories",
    "linux/cgroups/": _KERNEL,
    "linux/devices_bpf.py": _KERNEL,
    "linux/exe.py": "the interpreter's file",
    "linux/fuse.py:open_overlay": "devices of the host; the root of a mount by its descriptor",
    "linux/idmaps.py": "a child of ours in procfs",
    "linux/memory.py": _KERNEL,
    "linux/mounts.py:_open_overlay_classic": "layers of the store, before Linux 6.5",
    "linux/mounts.py:_open_overlay_classic.name": "layers of the store, before Linux 6.5",
    "linux/namespaces.py": "namespaces' files, which the configuration names",
    "linux/netns.py": "namespaces' files of the engine's",
    "linux/pidfds.py": _KERNEL,
    "linux/procfs.py:Procfs.of_this_machine": "the host's; verified before it is used",
    "linux/remove.py:remove_tree": "the directory in which the tree lies: the engine's own",
    "linux/remove.py:remove_directory": "the directory itself: the engine's own",
    "linux/usage.py": "the top of the tree, the engine's own",
    "runtime/checkpoint.py:Directory.open_here": "the images of a checkpoint, compared with the descriptor",
    "runtime/checkpoint.py:open_directory": "the images of a checkpoint, which the caller names",
    "runtime/checkpoint.py:_dumped_mounts": "the container's root, to begin at",
    "runtime/checkpoint.py:_external_namespaces": "namespaces' files, which the configuration names",
    "runtime/cli/": "files of the caller's and of its own state directory",
    "runtime/container.py:create": "a FIFO of the state directory",
    "runtime/container.py:_launch": _KERNEL,
    "runtime/container.py:_stdio_fds": "/dev/null of the host",
    "runtime/container.py:_namespaces_of": _KERNEL,
    "runtime/criu.py": "criu's files on the host",
    "runtime/exec.py:Exec.enter": "where the root's descriptor has led",
    "runtime/exec.py:Exec.open_console": "the container's root, as the process that has joined sees it, to begin at",
    "runtime/hooks.py:_become": "/dev/null of the host; of a hook inside, of the container, with its rights",
    "runtime/namespaces.py:Plan.enter_time_namespace": "its own, in procfs, before the mounts change",
    "runtime/process.py:_apparmor": _KERNEL,
    "runtime/process.py:_selinux": _KERNEL,
    "runtime/process.py:change_directory": "inside: what is reached is looked at afterwards (CVE-2024-21626)",
    "runtime/process.py:_home_of": "inside, with the container's rights",
    "runtime/process.py:_why_not_executable": "inside, with the container's rights",
    "runtime/rdt.py": _KERNEL,
    "runtime/restore.py": "a directory of its own, to mount at; procfs; images of the checkpoint",
    "runtime/restored.py": "processes in procfs; the container's root, to begin at",
    "runtime/rootfs.py:Rootfs.__init__": _KERNEL,
    "runtime/rootfs.py:Rootfs.pivot": "where the root's descriptor has led",
    "runtime/rootfs.py:_label": _KERNEL,
    "runtime/rootfs.py:_whole_mounts": _KERNEL,
    "runtime/rootless.py:_run_tool": "tools of the host",
    "runtime/standby.py": _FRESH,
    "runtime/state.py": _STATE,
    "shim/builtin.py:clone_subpaths": "a volume's own directory, to begin at",
    "shim/builtin.py:_clone_from": "the host's root, to begin at",
    "shim/children.py:_children": _KERNEL,
    "shim/copyup.py:_make_mount_points": "a volume's own directory, to begin at; sources of binds on the host",
    "shim/copyup.py:_fill": "a volume's own directory, to begin at",
    "shim/entry.py:make_pipes": "/dev/null of the host",
    "shim/external.py": _STATE,
    "shim/jobs.py": _STATE + "; in procfs the container's root, to begin at",
    "shim/jsonfile.py": "logs, in a directory of the engine's",
    "shim/launch.py": "the interpreter's file",
    "shim/supervisor.py": _STATE,
    "shim/zygote.py": "the host's, before there is a container",
    "volumes/local.py": "the volumes' own directories; what is in them is the business of linux/remove.py and linux/usage.py",
}
_LINKS = {
    "core/tar_index.py:index_layer": "a layer that is being made, in which there is nothing yet",
    "core/unpack.py:_Extractor._dress_by_name": "what was made just now, in a layer that nobody else writes to",
    "runtime/checkpoint.py:check_images": "images that continue others by a link; each directory's owner is looked at",
    "runtime/container.py:_open_root": "the kernel's link to the first process's root, in a verified procfs",
    "runtime/rootfs.py:_restore_asked_for": "the directory itself",
}
_MOUNTS = {
    "cli/probes/": "a trial in a mount namespace and a directory of its own",
    "linux/exe.py:_clone": _DETACHED,
    "linux/mounts.py": "what the others call",
    "runtime/cli/interpreter.py:_readonly_interpreter": _DETACHED,
    "runtime/cli/shared_mounts.py:remove": "what the runtime has mounted on the host, known by its number",
    "runtime/devices.py:open_host_node": _DETACHED,
    "runtime/exec.py:Exec.enter": "where the root's descriptor has led",
    "runtime/restore.py": _DETACHED,
    "runtime/rootfs.py:_Mount.open_source": _DETACHED,
    "runtime/rootfs.py:Rootfs.open_sources": _DETACHED + "; without a mount namespace attached where the caller says",
    "runtime/rootfs.py:Rootfs.withdraw": "a descriptor",
    "runtime/rootfs.py:Rootfs._open_groups": _DETACHED,
    "runtime/rootfs.py:Rootfs.attach_root": "the process's own root; with hooks where the bundle has it, in a mount namespace of its own",
    "runtime/rootfs.py:Rootfs.pivot": "where the root's descriptor has led",
    "runtime/rootfs.py:_inert_clone": _DETACHED,
    "runtime/rootfs.py:_cover": "the host's own mounts, taken away",
    "runtime/standby.py:_leave_the_host": _FRESH,
    "shim/builtin.py:open_rootfs": _DETACHED,
    "shim/external.py:ExternalRuntime._mount_rootfs": "in its own mount namespace, below its state directory",
    "shim/launch.py:open_executable": _DETACHED,
}
_INHERITED = {
    "runtime/cli/": "a directory as standard input goes to the interpreter, and on to the container",
    "runtime/criu.py:_become": "criu's standard streams and its socket",
    "runtime/init.py:reopen_null": "the program's standard streams: the container's own /dev/null",
    "runtime/init.py:take_terminal": "the program's standard streams: the container's own terminal",
    "runtime/process.py:pass_on": "what the caller has asked to be preserved, by number",
    "runtime/process.py:install_stdio": "the program's standard streams",
    "shim/launch.py:start_zygote": "the zygote's program and its socket",
}
_READ = {
    "core/archive_forms.py:Archive.read": "its size was looked at",
    "core/drivers/erofs.py:Erofs.probe": "a file that was written just now",
    "core/embedded/__init__.py": _PACKAGE,
    "core/tasks.py": _STATE,
    "core/unpackers.py:_Worker._receive": "the stream has a limit",
    "engine/resources.py:_check_set": _KERNEL,
    "engine/security.py:_apparmor_is_enabled": _KERNEL,
    "engine/stats.py": _KERNEL,
    "engine/system.py:_engine_id": "a file of the data root",
    "engine/system.py:_reads": _KERNEL,
    "linux/cgroups/": _KERNEL,
    "linux/memory.py": _KERNEL,
    "network/": _KERNEL,
    "registry/issuer.py:Issuer._form": "its length was looked at",
    "registry/passwords.py:Passwords._load": "the administrator's file",
    "registry/tokens.py:own_key": "the administrator's file",
    "runtime/cli/": "files of its own state directory and of this package",
    "runtime/restored.py": _KERNEL,
    "runtime/state.py": _STATE,
    "shim/external.py:ExternalRuntime._found": _STATE,
    "shim/stdio.py": "reads a piece: its own method",
    "spec/seccomp.py:default_profile": _PACKAGE,
}

RULES = {
    "no shell": Rule(asks_a_shell, {}),
    "programs that are executed are the host's": Rule(executes, _EXECUTED),
    "code is made of no data": Rule(makes_code_of_data, _CODE),
    "libraries are the host's, by fixed names": Rule(loads_a_library, _LIBRARIES),
    "files are reached by descriptors": Rule(goes_by_a_path, _PATHS, _TREES),
    "what lies in a directory is not followed if it is a link": Rule(follows_a_link, _LINKS),
    "the kernel resolves paths below a root": Rule(
        resolves_by_the_hosts_rules, {"cli/probes/kernel.py": "whether the kernel has the call"}
    ),
    "mounts are attached to descriptors": Rule(mounts_by_a_path, _MOUNTS),
    "descriptors end with execve": Rule(makes_a_descriptor_inheritable, _INHERITED),
    "what is read has a bound": Rule(reads_without_a_bound, _READ, _SERVERS),
    "no abstract sockets": Rule(binds_an_abstract_socket, {}),
    "certificates are verified": Rule(trusts_any_certificate, {}),
}


def places(call: Call) -> Iterator[str]:
    yield f"{call.module}:{call.scope}"
    yield call.module
    for parent in list(Path(call.module).parents)[:-1]:
        yield f"{parent}/"


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_holds_but_where_it_says_why_not(rule: Rule) -> None:
    broken = [call for call in calls() if call.module.startswith(rule.within) and rule.breaks(call)]
    assert [str(call) for call in broken if not any(place in rule.but for place in places(call))] == []
    needed = {place for call in broken for place in places(call)}
    assert set(rule.but) <= needed, "exceptions that nobody needs"


BREACHES = {
    "no shell": ("os.system('ls')", "subprocess.run('ls', shell=True)", "asyncio.create_subprocess_shell('ls')"),
    "programs that are executed are the host's": (
        "subprocess.Popen(['tar'])",
        "os.execv(path, argv)",
        "syscalls.execve(path, a, b)",
    ),
    "code is made of no data": ("eval(text)", "marshal.loads(data)"),
    "libraries are the host's, by fixed names": ("ctypes.CDLL('libnss_files.so')",),
    "files are reached by descriptors": (
        *("open(f'{root}/etc/passwd')", "os.open(path, flags)", "os.open(f'/proc/self/fd/{root}/etc', 0)"),
        *("os.makedirs(f'{rootfs}/{target}')", "os.path.exists(path)", "shutil.rmtree(path)", "os.chown(path, 0, 0)"),
    ),
    "what lies in a directory is not followed if it is a link": (
        *("os.chmod(name, 0o777, dir_fd=target)", "os.stat(name, dir_fd=fd)", "os.open(name, os.O_RDONLY, dir_fd=fd)"),
    ),
    "the kernel resolves paths below a root": ("syscalls.openat2(root, path, os.O_PATH)",),
    "mounts are attached to descriptors": (
        *("syscalls.mount('tmpfs', target, 'tmpfs', 0, '')", "mounts.attach_at(fd, path)", "mounts.clone_tree(path)"),
    ),
    "descriptors end with execve": (
        "os.set_inheritable(fd, True)",
        "os.dup2(fd, 1)",
        "os.pipe2(0)",
        "subprocess.run(x, close_fds=False)",
    ),
    "what is read has a bound": ("file.read()", "stream.readline()"),
    "no abstract sockets": (r"s.bind('\0wherry')", r"s.connect(f'\0{name}')"),
    "certificates are verified": ("session.get(url, ssl=False)",),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_sees_what_breaks_it(name: str) -> None:
    for text in BREACHES[name]:
        node = ast.parse(text, mode="eval").body
        assert isinstance(node, ast.Call)
        assert RULES[name].breaks(Call("runtime/rootfs.py", "", _dotted(node.func), node)), text


# --- modules ---------------------------------------------------------------------------------------------------------------------------

FORBIDDEN = (
    "pickle",
    "shelve",
    "tarfile",
    "zipfile",
    "xml",
    "random",
    "pwd",
    "spwd",
    "crypt",
    "nis",
    "imp",
    "telnetlib",
    "smtplib",
)
"""Formats that execute or unpack what they are given; numbers that can be guessed; users as the host's name services know them."""


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.lineno


def test_no_module_is_used_that_trusts_its_input() -> None:
    found = [
        (module, name, line)
        for module, tree in trees().items()
        for name, line in imports(tree)
        if name.partition(".")[0] in FORBIDDEN
    ]
    assert found == []


INSIDE = (
    "runtime/init.py",
    "runtime/exec.py",
    "runtime/channel.py",
    "runtime/spawn.py",
    "linux/paths.py",
    "linux/pty.py",
    "linux/procfs.py",
)
"""Their functions run, among other places, where the root is the container's."""
CODECS = {"'utf-8'", "'ascii'", "'latin-1'"}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_nothing_is_imported_and_no_codec_looked_up_in_what_runs_inside() -> None:
    child = [
        node
        for node in functions(trees()["runtime/process.py"])
        if node.lineno > _line("runtime/process.py", "close_descriptors")
    ]
    inside = {**{module: [trees()[module]] for module in INSIDE}, "runtime/process.py": child}
    lazy = [
        (module, name, line)
        for module, nodes in inside.items()
        for node in nodes
        for function in ([node] if isinstance(node, ast.FunctionDef) else functions(node))
        for name, line in imports(function)
    ]
    assert lazy == []
    codecs = {
        (call.module, text)
        for call in calls()
        if call.module in (*INSIDE, "runtime/process.py") and call.last in ("encode", "decode")
        for text in [ast.unparse(call.first) if call.first is not None else "'utf-8'"]
        if text not in CODECS
    }
    assert codecs == set()


def _line(module: str, function: str) -> int:
    return next(node.lineno for node in functions(trees()[module]) if node.name == function)
