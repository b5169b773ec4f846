"""The kernel: system calls by ctypes' C half, and what they mean together (mounts, namespaces, cgroups, capabilities,
seccomp, netlink, terminals). The standard library only; effects happen here and are named in every error.
"""
