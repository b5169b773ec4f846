"""What each attack of this folder is held off by: a place in the source, how it reads without the defence, and the tests that must then fail.

`python -m tests.security.prove` tries every one. Where several walls stand one behind the other, all are taken out at once (`also`): otherwise
the next would hide that nobody looks at the last. `tests/unit/test_defences.py` sees to it that every attack is named here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    file: str
    """Below src/wherry."""
    code: str
    """Text that is there once."""
    without: str


@dataclass(frozen=True)
class Defence:
    what: str
    file: str
    code: str
    without: str
    """As of an `Edit`."""
    tests: tuple[str, ...]
    """"FILE below tests::FUNCTION"; of a parametrized one at least one case must fail, or the one that is named: "…[CASE]"."""
    also: tuple[Edit, ...] = ()


def _paths(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_container_setup_paths.py::test_{name}" for name in names)


def _leaks(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_container_leaks.py::test_{name}" for name in names)


def _images(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_images.py::test_{name}" for name in names)


def _engines(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_engine_containers.py::test_{name}" for name in names)


def _tars(*names: str) -> tuple[str, ...]:
    return tuple(f"security/test_hostile_tars.py::test_{name}" for name in names)


_ANY_SYSCTL = Edit(
    "runtime/sysctl.py",
    """        raise InvalidArgument(f'sysctl "{key}" is not in a separate kernel namespace')""",
    '        return "/".join(parts)',
)
_ONE_WRITE = '        procfs.write(f"sys/{path}", value)'
_SPLIT_AT_PLUS = (
    '        for pair in f"{path}={value}".replace("\\n", "+").replace(" ", "+").replace("\\0", "+").split("+"):\n'
    '            key, _, text = pair.partition("=")\n'
    "            if text:\n"
    '                procfs.write("sys/" + key.replace(".", "/"), text)'
)

DEFENCES = (
    Defence(
        "an existing path is resolved below the root",
        "linux/paths.py",
        '        return syscalls.openat2(root, path or b"/", flags, mode=mode, resolve=resolve)',
        '        return syscalls.openat2(root, os.fsencode(path).lstrip(b"/") or b".", flags, mode=mode)',
        _paths(
            "cve_2019_18837_a_symlink_to_what_the_host_has_is_a_path_inside",
            "cve_2026_55686_a_working_directory_that_only_the_host_has_is_made_inside",
            *(
                f"cve_2019_18837_a_magic_link_on_the_way_is_refused[{link}]"
                for link in ("/proc/self/root", "/proc/self/cwd", "/proc/thread-self/root")
            ),
            "masked_and_read_only_paths_through_symlinks_are_paths_inside",
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
            "cve_2019_18837_a_symlink_as_mount_target_stays_inside[True]",
            "cve_2019_18837_a_symlink_as_mount_target_stays_inside[False]",
            "cve_2026_55686_a_working_directory_below_a_symlink_is_made_inside[True]",
            "cve_2026_55686_a_working_directory_below_a_symlink_is_made_inside[False]",
            "cve_2024_45310_a_race_in_a_shared_volume_makes_no_file_on_the_host",
            "cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host[True]",
            "cve_2026_41579_and_2026_47766_dev_as_a_symlink_puts_no_node_on_the_host[False]",
        ),
    ),
    Defence(
        "a file that is missing is made as a new one",
        "linux/paths.py",
        "openat2(parent, name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode=mode, resolve=resolve)",
        "openat2(parent, name, os.O_CREAT, mode=mode)",
        _paths("cve_2019_18837_a_dangling_symlink_is_made_inside"),
        (
            Edit(
                "linux/paths.py",
                "    try:\n        return syscalls.openat2(parent, name, os.O_PATH | os.O_NOFOLLOW, resolve=resolve)",
                "    try:\n        return syscalls.openat2(parent, name, os.O_PATH)",
            ),
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
        _paths(
            "cve_2025_52881_writes_go_to_no_other_file_that_lies_over_a_procfs_entry",
            "cve_2025_52881_a_sysctl_is_not_redirected",
            "cve_2025_52881_the_oom_score_is_not_redirected",
        ),
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
        _paths(
            "cve_2025_31133_dev_null_as_a_symlink_does_not_unmask",
            "cve_2025_31133_dev_null_swapped_after_it_was_made_does_not_unmask",
        ),
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
    Defence(
        "the root of a container is left with nothing of the host's open",
        "runtime/init.py",
        "        process.close_descriptors(keep, first=3 + self.preserve_fds)\n        process.pass_on",
        "        process.pass_on",
        _leaks(
            "cve_2024_21626_a_descriptor_that_somebody_leaks_into_the_runtime_ends_there",
            "cve_2024_21626_the_program_is_not_taken_from_a_descriptor",
        ),
        (
            Edit(
                "runtime/init.py",
                "        process.close_descriptors(keep, first=3 + self.preserve_fds)\n\n    # ----",
                "\n    # ----",
            ),
        ),
    ),
    Defence(
        "a descriptor of the host's is no working directory: not made, not open, not inside",
        "runtime/init.py",
        "        process.close_descriptors(keep, first=3 + self.preserve_fds)\n        process.pass_on",
        "        process.pass_on",
        _leaks(
            "cve_2024_21626_a_leaked_descriptor_is_no_working_directory",
            "cve_2024_21626_a_working_directory_symlink_to_a_descriptor",
        ),
        (
            Edit(
                "runtime/init.py",
                "        process.close_descriptors(keep, first=3 + self.preserve_fds)\n\n    # ----",
                "\n    # ----",
            ),
            Edit("runtime/init.py", "self.rootfs.make_working_directory,", ""),
            Edit("runtime/process.py", "    if not inside:\n", "    if False:\n"),
        ),
    ),
    Defence(
        "a descriptor of the host's is no working directory of an exec: not open, not inside",
        "runtime/spawn.py",
        "    process.close_descriptors([*helper.keep, channel.fileno(), end.fileno()])\n",
        "",
        _leaks("cve_2024_21626_nor_of_an_exec"),
        (
            Edit("runtime/exec.py", "        process.close_descriptors(keep, first=3 + self.preserve_fds)\n", ""),
            Edit("runtime/process.py", "    if not inside:\n", "    if False:\n"),
        ),
    ),
    Defence(
        "an added capability is not inheritable",
        "runtime/cli/exec.py",
        '*(("ambient",) if "inheritable" in have else ()))',
        '"inheritable", "ambient")',
        _leaks("cve_2022_29162_an_added_capability_of_an_exec_is_not_inheritable"),
    ),
    Defence(
        "a user id is a number in range",
        "runtime/cli/exec.py",
        "    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= 0xFFFFFFFE):",
        '    text = text if text.strip("+-0123456789 ") == "" and text and abs(int(text)) <= 0xFFFFFFFE else "0"\n    if False:',
        _leaks("cve_2026_30892_what_is_no_user_id_is_never_taken_for_one"),
    ),
    Defence(
        "a user id is the one that was given",
        "runtime/cli/exec.py",
        '_id("--user", gid) if gid else',
        '_id("--user", gid) & 0xFF if gid else',
        _leaks("cve_2026_30892_a_user_id_is_the_one_that_was_given"),
    ),
    Defence(
        "what is no file is not opened as one",
        "runtime/users.py",
        "if os.fstat(place).st_mode & _S_IFMT != _S_IFREG:",
        "if False:",
        _leaks("cve_2024_9676_what_is_no_file_is_not_even_opened"),
    ),
    Defence(
        "an exec's /dev/null is one",
        "runtime/init.py",
        "        if _is_null(fd):\n            os.set_blocking",
        "        if True:\n            os.set_blocking",
        _leaks("dev_null_exchanged_while_an_exec_opens_it"),
    ),
    Defence(
        "nothing is imported once the root is the container's",
        "runtime/process.py",
        '    name = plan.argv[0]\n    if b"/" in name:',
        '    import traceback  # noqa: F401\n\n    name = plan.argv[0]\n    if b"/" in name:',
        _leaks("nothing_is_imported_once_the_root_is_the_containers"),
    ),
    Defence(
        "no abstract socket leads to a shim",
        "shim/jobs.py",
        "    listener.listen(16)\n",
        '    global abstract\n    abstract = Socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)\n    abstract.bind(f"\\0wherry{state_dir[-20:]}")\n'
        "    listener.listen(16)\n",
        _engines("cve_2020_15257_no_abstract_socket_of_ours_is_there_for_a_container_in_the_hosts_network"),
    ),
    Defence(
        "the groups that a container sees are read-only",
        "engine/oci_config.py",
        '"source": "cgroup",\n            "options": sys_options + ([] if read_write else ["ro"]),',
        '"source": "cgroup",\n            "options": sys_options,',
        _engines("cve_2022_0492_release_agent_cannot_be_set"),
    ),
    Defence(
        "a container makes no user namespace to be root in",
        "spec/seccomp_default.json",
        '"setns",\n      "syslog", "umount", "umount2", "unshare"\n    ],\n'
        '     "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}}',
        '"setns",\n      "syslog", "umount", "umount2", "unshare"\n    ],\n     "action": "SCMP_ACT_ALLOW"}',
        _engines(*(f"cve_2022_0492_release_agent_cannot_be_set[flags{number}]" for number in range(3))),
    ),
    Defence(
        "a container has not the power to mount",
        "engine/security.py",
        '    "CAP_SYS_CHROOT",\n',
        '    "CAP_SYS_CHROOT",\n    "CAP_SYS_ADMIN",\n',
        _engines("cve_2022_0492_release_agent_cannot_be_set[flags0]"),
    ),
    Defence(
        "no socket of the kernel's crypto, nor of the hypervisor's",
        "spec/seccomp_default.json",
        '{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}',
        '{"index": 0, "value": 41, "op": "SCMP_CMP_LT"}',
        _engines("cve_2026_31431_a_socket_of_the_kernels_crypto_is_refused"),
    ),
    Defence(
        "one value of a sysctl is one write to one file",
        "runtime/sysctl.py",
        _ONE_WRITE,
        _SPLIT_AT_PLUS,
        _engines("cve_2022_0811_a_value_of_a_sysctl_is_a_value_only"),
    ),
    Defence(
        "only a container's own sysctls may be set: the engine asks, the runtime asks",
        "engine/create.py",
        "        _check_sysctl(key, host)",
        "        pass",
        _engines("cve_2022_0811_a_name_of_a_sysctl_does_not_climb[kernel.core_pattern]"),
        (_ANY_SYSCTL,),
    ),
    Defence(
        "the name of a sysctl has no dots to climb by",
        "engine/create.py",
        "        _check_sysctl(key, host)",
        "        pass",
        _engines(
            "cve_2022_0811_a_name_of_a_sysctl_does_not_climb[net/../kernel/core_pattern]",
            "cve_2022_0811_a_name_of_a_sysctl_does_not_climb[net.//.kernel.core_pattern]",
        ),
        (
            Edit("runtime/sysctl.py", 'any(part in ("", ".", "..") or', "any("),
            Edit("linux/procfs.py", "RESOLVE_BENEATH | RESOLVE_NO_XDEV", "RESOLVE_NO_XDEV"),
        ),
    ),
    Defence(
        "the name of a sysctl is one name",
        "engine/create.py",
        "        _check_sysctl(key, host)",
        "        pass",
        _engines("cve_2022_0811_a_name_of_a_sysctl_does_not_climb[kernel.shm_rmid_forced=1+kernel.core_pattern]"),
        (_ANY_SYSCTL, Edit("runtime/sysctl.py", _ONE_WRITE, _SPLIT_AT_PLUS)),
    ),
    Defence(
        "docker top runs the host's ps",
        "engine/top.py",
        "                path,\n                *arguments,",
        '                "chroot",\n'
        "                f\"/proc/{arguments[-1].removeprefix('-q').partition(',')[0]}/root\",\n"
        '                "/bin/ps",',
        _engines("cve_2022_1227_top_executes_nothing_of_the_images"),
    ),
    Defence(
        "what fills a fresh volume is below the container's root",
        "shim/copyup.py",
        "paths.open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY)",
        'os.open(destination.lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, dir_fd=rootfs)',
        _engines(
            "cve_2022_23648_a_volume_of_the_image_is_filled_from_the_image_only[/link]",
            "cve_2022_23648_a_volume_of_the_image_is_filled_from_the_image_only[/link/deep]",
        ),
    ),
    Defence(
        "what fills a fresh volume is the container's own",
        "shim/copyup.py",
        "paths.open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY)",
        "os.open(destination, os.O_RDONLY | os.O_DIRECTORY)",
        _engines(
            "cve_2022_23648_a_volume_of_the_image_is_filled_from_the_image_only[/../../../../../../../../etc]",
            "cve_2022_23648_a_volume_of_the_image_is_filled_from_the_image_only[/data/../../../../etc]",
        ),
    ),
    Defence(
        "the groups of a user are those of the image",
        "runtime/users.py",
        'if login in entry[3].split(",")]',
        "if login in entry[3]] if group_add else []",
        _engines("cve_2022_36109_and_2023_25173_the_groups_are_those_of_the_image_and_no_others"),
    ),
    Defence(
        "an image's user is in range",
        "runtime/users.py",
        "    if not 0 <= number <= MAX_ID:",
        "    number &= MAX_ID\n    if False:",
        _engines("cve_2024_40635_and_2026_46680_an_images_user_out_of_range_is_refused"),
    ),
    Defence(
        "a number is no user's name",
        "runtime/users.py",
        "        if row[0] == wanted if number is None else row[2] == wanted:",
        "        if wanted in (row[0], row[2]):",
        _engines("cve_2026_46680_a_number_is_nobodys_name"),
    ),
    Defence(
        "a number is no group's name",
        "runtime/users.py",
        "        if number is None and row[0] == wanted:",
        "        if row[0] == wanted:",
        _engines("cve_2026_46680_a_number_is_nobodys_name"),
    ),
    Defence(
        "the power meter is masked",
        "engine/security.py",
        '    "/sys/devices/virtual/powercap",  # GHSA-7ww5-4wqc-m92c: the power meter tells what others compute\n',
        "",
        _engines("ghsa_7ww5_4wqc_m92c_the_power_meter_is_masked"),
    ),
    Defence(
        "sizes of a layer have a sum that fits",
        "core/unpack.py",
        "if self.unpacked.size > MAX_SIZE:",
        "if False:",
        _tars("sizes_that_add_up_to_more_than_64_bits_are_refused"),
    ),
    Defence(
        "what was begun of a layer is taken away",
        "core/layers.py",
        "                    except BaseException:\n                        await self._snapshots.abandon(staged)\n",
        "                    except BaseException:\n",
        _tars("a_refused_layer_leaves_no_half_of_itself"),
    ),
    Defence(
        "a file of a layer is a new one",
        "core/unpack.py",
        "_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC",
        _images("cve_2021_32760_unpacking_does_not_change_the_mode_of_host_files"),
    ),
    Defence(
        "a directory's time is set on what is a directory still",
        "core/unpack.py",
        "if not self._replaced or stat.S_ISDIR(os.stat(last, dir_fd=parent, follow_symlinks=False).st_mode):\n"
        "                    os.utime(last, ns=times, dir_fd=parent, follow_symlinks=False)",
        "if True:\n                    os.utime(last, ns=times, dir_fd=parent)",
        _images("cve_2025_47290_a_directory_that_becomes_a_link_during_unpacking_leads_nowhere"),
    ),
    Defence(
        "only root goes where layers are",
        "core/snapshots.py",
        "os.makedirs(directory, mode=0o700, exist_ok=True)",
        "os.makedirs(directory, mode=0o755, exist_ok=True)",
        _images("devices_and_set_user_id_stay_in_a_directory_that_only_root_enters"),
    ),
    Defence(
        "a document is a manifest or an index",
        "spec/image.py",
        'if "manifests" in raw and ("layers" in raw or "config" in raw or "fsLayers" in raw):',
        "if False:",
        _images("cve_2021_41190_a_document_that_is_manifest_and_index_at_once_is_refused"),
    ),
    Defence(
        "a document is what it was served as",
        "spec/image.py",
        "    if kind in INDEX_TYPES:\n        raise",
        "    if False:\n        raise",
        _images("cve_2021_41190_a_document_that_is_manifest_and_index_at_once_is_refused"),
        (
            Edit(
                "spec/image.py",
                "    if inner and named in (*MANIFEST_TYPES, *INDEX_TYPES) and inner != named:",
                "    if False:",
            ),
        ),
    ),
    Defence(
        "credentials go to the registry alone",
        "distribution/connection.py",
        "headers = own if origin(url) == home else foreign",
        "headers = own",
        _images("cve_2020_15157_credentials_are_not_sent_to_where_a_manifest_points"),
    ),
    Defence(
        "a digest is one before it is a part of a URL",
        "spec/ids.py",
        "    return _DIGEST.match(text) is not None",
        "    return True",
        _images("cve_2024_3727_a_digest_that_is_none_asks_the_registry_for_nothing"),
    ),
    Defence(
        "sparse maps have a limit",
        "core/tar.py",
        "            more = block[504]\n            if len(pieces) > MAX_SPARSE:",
        "            more = block[504]\n            if False:",
        _images("cve_2026_32288_a_sparse_map_without_end_does_not_fill_the_memory"),
    ),
    Defence(
        "a document of an archive has a limit",
        "core/archive_forms.py",
        "        if member.size > limit:",
        "        if False:",
        _images("cve_2023_25153_a_document_of_an_archive_is_not_read_whole_when_it_is_huge"),
    ),
    Defence(
        "whatever a document is, it is an error of the caller's",
        "spec/image.py",
        "    except (ValueError, RecursionError) as error:",
        "    except KeyError as error:",
        _images("cve_2021_21285_a_malformed_manifest_is_an_error_and_the_next_pull_works"),
    ),
    Defence(
        "a worker that has refused a layer is ready for the next",
        "core/unpackers.py",
        '                self._send({"abort": True})  # answered',
        "                pass  # answered",
        _images("cve_2021_20291_a_layer_that_is_no_archive_does_not_lock_the_next_pull_out"),
    ),
    Defence(
        "indexes are nested as deep as somebody may mean it",
        "core/manifests.py",
        "MAX_DEPTH = 3",
        "MAX_DEPTH = 300",
        _images("cve_2026_53493_an_index_that_contains_itself_or_never_ends_is_given_up"),
    ),
    Defence(
        "owners of a layer's files fit 32 bits",
        "core/unpack.py",
        "    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):",
        "    entry.uid, entry.gid = entry.uid & 0xFFFFFFFF, entry.gid & 0xFFFFFFFF\n    if False:",
        _images("cve_2024_40635_users_and_groups_beyond_32_bits_are_refused"),
    ),
    Defence(
        "a member that was read is forgotten",
        "core/tar.py",
        "                    return self._entry(block, fields, extended)",
        '                    self.__dict__.setdefault("entries", []).append(entry := self._entry(block, fields, extended))\n'
        "                    return entry",
        _images("a_layer_of_very_many_members_costs_the_reader_no_memory_that_lasts"),
    ),
    Defence(
        "nothing behind a link of a layer is the host's",
        "core/unpack.py",
        "resolve=_RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS",
        "resolve=0",
        _images(
            *(
                f"cve_2026_17106_nothing_is_made_or_removed_behind_a_link[{what}]"
                for what in (
                    *("file", "directory", "parent", "link", "pipe"),
                    *("hard link", "hard link of", "whiteout", "opaque"),
                )
            )
        ),
    ),
    Defence(
        "a directory of a layer takes a link's place",
        "core/unpack.py",
        "_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        _images("cve_2026_17106_nothing_is_made_or_removed_behind_a_link[itself]"),
        (
            Edit(
                "core/unpack.py",
                "            if not stat.S_ISDIR(found.st_mode):\n                opaque",
                "            if not stat.S_ISDIR(found.st_mode) and not stat.S_ISLNK(found.st_mode):\n                opaque",
            ),
        ),
    ),
    Defence(
        "a layer that is laid over another goes through none of its links",
        "core/lay_over.py",
        "        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):",
        "        if not stat.S_ISDIR(os.stat(name, dir_fd=parent).st_mode):",
        _images(
            *(
                f"cve_2026_17106_nothing_is_made_or_removed_behind_a_link[{what}]"
                for what in ("file", "directory", "parent", "link", "pipe", "whiteout", "itself")
            )
        ),
        (
            Edit(
                "core/diff.py",
                '    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW\n    try:\n        return openat2(root, path or b".", flags, '
                "resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)",
                '    try:\n        return openat2(root, path or b".", os.O_RDONLY | os.O_DIRECTORY)',
            ),
        ),
    ),
    Defence(
        "what fills a volume is made in the volume's own directories",
        "linux/trees.py",
        "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        _paths("cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it[mkdir-directory]"),
    ),
    Defence(
        "what fills a volume changes the mode of no link's target",
        "linux/trees.py",
        "        _change_mode(target, name, stat.S_IMODE(status.st_mode))",
        "        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)",
        _paths(
            "cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it[mknod-pipe]",
            "cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it[chown-pipe]",
        ),
    ),
    Defence(
        "what fills a volume changes the times of no link's target",
        "linux/trees.py",
        "os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)",
        "os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target)",
        _paths(
            "cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it[chown-link]",
            "cve_2026_41326_a_volume_is_filled_with_nothing_outside_of_it[open-file]",
        ),
    ),
    Defence(
        "a container in a user namespace is in its group",
        "runtime/init.py",
        "        cgroups.join(self.cgroup_fds)\n",
        '        if "user" not in self.namespaces.own:\n            cgroups.join(self.cgroup_fds)\n',
        _leaks("cve_2025_47291_a_container_in_a_user_namespace_is_in_its_group"),
    ),
    Defence(
        "what is executed in a container is in its group",
        "runtime/exec.py",
        "        cgroups.join(self.cgroup_fds)\n",
        "        if not self.joins & namespaces.NEWUSER:\n            cgroups.join(self.cgroup_fds)\n",
        _leaks("cve_2025_47291_a_container_in_a_user_namespace_is_in_its_group"),
    ),
    Defence(
        "what is measured may be as deep as it likes",
        "linux/usage.py",
        "            if len(way) > _LONG_WAY:",
        "            if False:",
        _engines("directories_nested_without_end_do_not_stop_the_engine"),
    ),
    Defence(
        "a volume that is removed may be as deep as it likes",
        "volumes/local.py",
        "        await asyncio.to_thread(remove_directory, aside)",
        '        await asyncio.to_thread(__import__("shutil").rmtree, aside)',
        _engines("directories_nested_without_end_do_not_stop_the_engine"),
    ),
)
