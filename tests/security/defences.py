"""What each attack of this folder is held off by: a place in the source, how it reads without the defence, and the tests that must then fail.

`python -m tests.security.prove` tries every one. Not every attack is here yet.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defence:
    what: str
    file: str
    """Below src/wherry."""
    code: str
    """Text that is there once."""
    without: str
    tests: tuple[str, ...]
    """"FILE below tests::FUNCTION"; of a parametrized one at least one case must fail."""


def _paths(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_container_setup_paths.py::test_{name}" for name in names)


def _leaks(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_container_leaks.py::test_{name}" for name in names)


def _images(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_images.py::test_{name}" for name in names)


def _tars(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_hostile_tars.py::test_{name}" for name in names)


DEFENCES = (
    Defence(
        "an existing path is resolved below the root",
        "linux/paths.py",
        '        return syscalls.openat2(root, path or b"/", flags, mode=mode, resolve=resolve)',
        '        return syscalls.openat2(root, os.fsencode(path).lstrip(b"/") or b".", flags, mode=mode)',
        _paths(
            "cve_2019_18837_a_symlink_to_what_the_host_has_is_a_path_inside",
            "cve_2026_55686_a_working_directory_that_only_the_host_has_is_made_inside",
        ),
    ),
    Defence(
        "an existing path is resolved once",
        "linux/paths.py",
        '        return syscalls.openat2(root, path or b"/", flags, mode=mode, resolve=resolve)',
        '        os.close(syscalls.openat2(root, path or b"/", flags, mode=mode, resolve=resolve))\n'
        '        return syscalls.openat2(root, os.fsencode(path).lstrip(b"/") or b".", flags, mode=mode)',
        _paths("cve_2021_30465_a_mount_target_swapped_for_a_symlink_meanwhile"),
    ),
    Defence(
        "what is missing is made without following links",
        "linux/paths.py",
        "    try:\n        return syscalls.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)",
        "    try:\n        return syscalls.openat2(parent, name, os.O_PATH)",
        _paths(
            "cve_2019_18837_a_symlink_as_mount_target_stays_inside",
            "cve_2026_55686_a_working_directory_below_a_symlink_is_made_inside",
            "cve_2024_45310_a_race_in_a_shared_volume_makes_no_file_on_the_host",
            "cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host",
        ),
    ),
    Defence(
        "what was looked at is what is used",
        "linux/paths.py",
        "            link = _read_link(fd)\n",
        "            link = _read_link(fd)\n"
        "            if link is None:\n"
        "                os.close(fd)\n"
        "                fd = syscalls.openat2(stack[-1], name, os.O_PATH)\n",
        _paths("cve_2024_45310_what_was_looked_at_is_what_is_used"),
    ),
    Defence(
        "procfs is not left for what is mounted over it",
        "linux/procfs.py",
        "RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS\n",
        "RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS\n",
        _paths("cve_2025_52881_writes_go_to_no_other_file_that_lies_over_a_procfs_entry"),
    ),
    Defence(
        "procfs is known by type and inode",
        "linux/procfs.py",
        "        if not is_root(fd):",
        "        if False:",
        _paths("cve_2025_52881_a_directory_that_looks_like_proc_is_not_written"),
    ),
    Defence(
        "magic links of procfs are not followed",
        "linux/procfs.py",
        "resolve=RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS\n",
        "\n",
        _paths("cve_2025_52881_a_magic_link_is_not_followed"),
    ),
    Defence(
        "nothing is mounted inside /proc",
        "runtime/rootfs.py",
        "if not over and clean not in _PROC_FILES:",
        "if False:",
        _paths("cve_2019_19921_and_2019_16884_nothing_of_the_images_choice_lies_on_proc"),
    ),
    Defence(
        "mounts are made in the order of the configuration",
        "runtime/rootfs.py",
        "for mount in self.entries:\n            try:\n                self._mount(mount)",
        "for mount in self.entries[::-1]:\n            try:\n                self._mount(mount)",
        _paths("cve_2019_16884_a_volume_at_proc_before_proc_does_not_shadow_it"),
    ),
    Defence(
        "proc and sysfs go to plain directories",
        "runtime/rootfs.py",
        "mount.destination, os.O_PATH | os.O_DIRECTORY, follow=False)",
        "mount.destination, os.O_PATH | os.O_DIRECTORY)",
        _paths(
            "cve_2023_27561_and_2023_28642_proc_or_sys_as_a_symlink_is_refused",
            "cve_2023_28642_a_symlink_above_proc_is_refused_too",
        ),
    ),
    Defence(
        "files are masked with a null device that is one",
        "runtime/rootfs.py",
        "os.O_PATH, resolve=paths.RESOLVE_NO_SYMLINKS\n                )\n            except SyscallError:\n                continue\n"
        "            status = os.fstat(fd)\n            if stat.S_ISCHR",
        "os.O_PATH, resolve=paths.RESOLVE_IN_ROOT\n                )\n            except SyscallError:\n                continue\n"
        "            status = os.fstat(fd)\n            if True or stat.S_ISCHR",
        _paths("cve_2025_31133_dev_null_as_a_symlink_does_not_unmask"),
    ),
    Defence(
        "a terminal comes from a devpts",
        "linux/pty.py",
        "if syscalls.filesystem_type(master) != DEVPTS_SUPER_MAGIC or os.fstat(master).st_rdev != _PTMX:",
        "if False:",
        _paths(
            "cve_2025_52565_the_terminal_comes_from_a_devpts_only",
            "cve_2025_52565_an_exec_takes_no_terminal_from_a_replaced_ptmx",
        ),
    ),
    Defence(
        "a terminal comes from the devpts at /dev/pts itself",
        "runtime/init.py",
        '"/dev/pts", os.O_PATH | os.O_DIRECTORY, follow=False)',
        '"/dev/pts", os.O_PATH | os.O_DIRECTORY)',
        _paths("cve_2025_52565_the_terminal_comes_from_no_other_devpts"),
    ),
    Defence(
        "/dev/console is no link",
        "runtime/init.py",
        '            return paths.open_in_root(self.rootfs.root, "/dev/console", follow=False)\n        except',
        '            return paths.open_in_root(self.rootfs.root, "/dev/console")\n        except',
        _paths("cve_2025_52565_dev_console_as_a_symlink_is_refused"),
    ),
    Defence(
        "nodes are made below the root",
        "runtime/devices.py",
        "    parent = paths.make_directory(root, directory)\n",
        '    where = f"/proc/self/fd/{root}{os.fsdecode(directory)}"\n'
        "    os.makedirs(where, exist_ok=True)\n"
        "    parent = os.open(where, os.O_PATH)\n",
        _paths(
            "cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host",
            "cve_2026_41579_a_device_path_with_dots_stays_inside",
        ),
    ),
    Defence(
        "the links of /dev are made below the root",
        "runtime/rootfs.py",
        'dev = paths.make_directory(self.root, "/dev")',
        'dev = os.open(f"/proc/self/fd/{self.root}/dev", os.O_PATH)',
        _paths("cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host"),
    ),
    Defence(
        "the interpreter is executed from a read-only mount",
        "linux/exe.py",
        "    try:\n        return bool(os.statvfs",
        "    return True\n    try:\n        return bool(os.statvfs",
        _leaks("cve_2019_5736_the_interpreter_cannot_be_written_through_proc_pid_exe"),
    ),
    Defence(
        "a joining process is not dumpable",
        "runtime/container.py",
        "        dumpable = process.set_dumpable(0)\n        try:\n            keep",
        "        dumpable = process.set_dumpable(1)\n        try:\n            keep",
        _leaks("cve_2016_9962_a_joining_process_shows_nothing_of_itself"),
    ),
    Defence(
        "the helper of an exec closes what is the host's before it joins",
        "runtime/spawn.py",
        "    process.close_descriptors([*helper.keep, channel.fileno(), end.fileno()])\n",
        "",
        _leaks("cve_2016_9962_a_joining_process_has_nothing_of_the_host_from_the_first"),
    ),
    Defence(
        "the helper of an exec closes the init's pidfd when it has joined",
        "runtime/exec.py",
        "        os.close(self.init_pidfd)\n",
        "",
        _leaks("cve_2016_9962_a_joining_process_has_nothing_of_the_host_from_the_first"),
    ),
    Defence(
        "the working directory is asked for",
        "runtime/process.py",
        "    if not inside:\n",
        "    if False:\n",
        _leaks("cve_2024_21626_a_preserved_descriptor_of_a_host_directory_is_no_working_directory"),
    ),
    Defence(
        "inheritable capabilities are those asked for",
        "linux/capabilities.py",
        "sets.permitted | extra, sets.inheritable)",
        "sets.permitted | extra, sets.permitted)",
        _leaks("cve_2022_24769_inheritable_capabilities_are_empty_when_not_asked_for"),
    ),
    Defence(
        "supplementary groups are set",
        "linux/syscalls.py",
        'if _sys_groups(number("setgroups"), len(groups), struct.pack(f"{len(groups)}I", *groups)) < 0 and not (',
        "if False and not (",
        _leaks("cve_2022_36109_and_2023_25173_supplementary_groups_are_exactly_the_given_ones"),
    ),
    Defence(
        "a registry that is not listed is spoken to with verified TLS only",
        "distribution/hosts.py",
        "if not self.is_insecure(domain):",
        "if False:",
        _images(
            "cve_2026_92542_what_a_name_resolves_to_does_not_switch_tls_off",
            "cve_2026_92543_a_registry_that_fails_at_tls_is_not_asked_without_it",
        ),
    ),
    Defence(
        "links in a layer lead to places of the layer",
        "core/unpack.py",
        "resolve=_RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS",
        "resolve=_RESOLVE_NO_MAGICLINKS",
        (
            *_images("cve_2018_15664_hard_links_do_not_reach_through_links"),
            *_tars("whatever_a_tar_says_it_is_unpacked_or_refused"),
        ),
    ),
    Defence(
        "names of a layer do not climb",
        "core/unpack.py",
        'if b".." in parts:',
        "if False:",
        _tars("whatever_a_tar_says_it_is_unpacked_or_refused"),
    ),
    Defence(
        "what is remembered of directories has a limit",
        "core/unpack.py",
        "if self._remembered > _MAX_REMEMBERED:",
        "if False:",
        _tars("what_is_remembered_of_directories_is_bounded"),
    ),
    Defence(
        "names of attributes are checked",
        "core/tar.py",
        'or not key or b"\\0" in key:',
        "or not key:",
        _tars("an_attribute_whose_name_has_a_nul_is_refused"),
    ),
    Defence(
        "extension headers have a limit",
        "core/tar.py",
        "if not 0 <= size <= MAX_EXTENSION:",
        "if False:",
        _images("cve_2026_32288_extension_headers_without_end_do_not_fill_the_memory"),
    ),
)
