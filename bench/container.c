/* One container by the system calls that a container through wherry's shim makes, and nothing else: what the kernel itself takes.

   container LOWER WORK FILTER PROGRAM CGROUP...

   LOWER    a root file system, the lower layer of an overlay; WORK: a directory for its other ones
   FILTER   a file with a compiled seccomp filter
   PROGRAM  a path inside, run without arguments
   CGROUP   the directory that the container's group is to be made in: one for each hierarchy of cgroup v1, or the one of v2

   For every line on standard input it makes a container, waits for its end, removes everything, and prints how many microseconds that took.

   The order is runtime/init.py's. Left out, because the kernel has no part in it or is not asked for it: the request and its answers
   (a JSON document of 4 to 18 KB), passwd and group of the image, the log, listening for an engine. On v2 the filter for devices (eBPF) is
   left out as well. The network namespace is the caller's: the engine takes one that is there already. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <grp.h>

#define INERT (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)
#define GROUPS 32

static char *lower, *work, *program, **parents;
static int hierarchies, is_v2, root;
static struct sock_filter filter[4096];
static struct sock_fprog fprog = {0, filter};
static char groups[GROUPS][512];
static int joins[GROUPS], views[GROUPS];

static int check(long result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "container: %s: %s\n", what, strerror(errno));
        _exit(1);
    }
    return result;
}

static int in_root(const char *path, int flags)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    return syscall(SYS_openat2, root, path, &how, sizeof how);
}

static void write_file(int directory, const char *path, const char *text)
{
    int fd = check(openat(directory, path, O_WRONLY | O_CLOEXEC), path);
    check(write(fd, text, strlen(text)), path);
    close(fd);
}

/* options: "key=value" or "key" */
static int filesystem(const char *type, const char **options, unsigned attributes)
{
    int context = check(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC), type);
    for (; options && *options; options++) {
        char key[1024];
        snprintf(key, sizeof key, "%s", *options);
        char *value = strchr(key, '=');
        if (value)
            *value++ = 0;
        check(syscall(SYS_fsconfig, context, value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, key, value, 0), *options);
    }
    check(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0), type);
    int mount = check(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes), type);
    close(context);
    return mount;
}

static void set_attributes(int fd, unsigned set, unsigned propagation, int recursive)
{
    struct mount_attr attr = {.attr_set = set, .propagation = propagation};
    check(syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr), "mount_setattr");
}

static void attach(int mount, int target)
{
    check(syscall(SYS_move_mount, mount, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount");
}

static int target_of(const char *path)
{
    struct statfs fs;
    int target = in_root(path, O_PATH | O_DIRECTORY);
    if (target < 0) { /* below /dev */
        int dev = check(in_root("/dev", O_PATH | O_DIRECTORY), "/dev");
        check(mkdirat(dev, strrchr(path, '/') + 1, 0755), path);
        close(dev);
        target = check(in_root(path, O_PATH | O_DIRECTORY), path);
    }
    check(fstatfs(target, &fs), path);
    return target;
}

/* Leaves the mount open. */
static int mount_new(const char *path, const char *type, const char **options, unsigned attributes)
{
    int target = target_of(path), mount = filesystem(type, options, attributes);
    attach(mount, target);
    close(target);
    return mount;
}

static void mount_cgroups(void)
{
    const char *options[] = {"mode=0755", NULL};
    if (is_v2) {
        close(mount_new("/sys/fs/cgroup", "cgroup2", NULL, INERT | MOUNT_ATTR_RDONLY));
        return;
    }
    int base = mount_new("/sys/fs/cgroup", "tmpfs", options, INERT);
    for (int i = 0; i < hierarchies; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        check(mkdirat(base, name, 0755), name);
        int point = check(openat(base, name, O_PATH | O_DIRECTORY | O_CLOEXEC), name);
        attach(views[i], point);
        close(point);
    }
    set_attributes(base, MOUNT_ATTR_RDONLY, 0, 0);
    close(base);
}

static void make_devices(void)
{
    static const struct { const char *name; int major, minor; } nodes[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
    static const char *links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}};
    int dev = check(in_root("/dev", O_PATH | O_DIRECTORY), "/dev");
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++)
        check(mknodat(dev, nodes[i].name, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)), nodes[i].name);
    for (unsigned i = 0; i < sizeof links / sizeof *links; i++)
        check(symlinkat(links[i][0], dev, links[i][1]), links[i][1]);
    close(dev);
}

static void protect(void)
{
    static const char *readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    static const char *masked[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"};
    static const char *options[] = {"mode=0755", "size=4k", "nr_inodes=2", NULL};
    for (unsigned i = 0; i < sizeof readonly / sizeof *readonly; i++) {
        int target = in_root(readonly[i], O_PATH);
        if (target < 0)
            continue;
        int copy = check(syscall(SYS_open_tree, target, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE), readonly[i]);
        set_attributes(copy, MOUNT_ATTR_RDONLY, 0, 1);
        attach(copy, target);
        close(copy);
        close(target);
    }
    int null = check(in_root("/dev/null", O_PATH), "/dev/null"), empty = -1;
    for (unsigned i = 0; i < sizeof masked / sizeof *masked; i++) {
        struct stat status;
        int target = in_root(masked[i], O_PATH), first = 0, mount;
        if (target < 0)
            continue;
        check(fstat(target, &status), masked[i]);
        if (S_ISDIR(status.st_mode) && (first = empty < 0))
            mount = empty = filesystem("tmpfs", options, INERT | MOUNT_ATTR_RDONLY);
        else
            mount = check(syscall(SYS_open_tree, S_ISDIR(status.st_mode) ? empty : null, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH), masked[i]);
        attach(mount, target);
        if (!first)
            close(mount);
        close(target);
    }
    close(null);
    set_attributes(root, MOUNT_ATTR_RDONLY, 0, 0);
}

static void drop_privileges(void)
{
    static const unsigned kept = 1 << CAP_AUDIT_WRITE | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{kept, kept, kept}, {0}};
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (capability >= 32 || !(kept & 1u << capability))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    check(setgroups(0, NULL), "setgroups");
    check(setresgid(0, 0, 0), "setresgid");
    check(setresuid(0, 0, 0), "setresuid");
    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    check(syscall(SYS_capset, &header, data), "capset");
}

static void become_container(int null, int out, int error, int channel)
{
    static const char *dev[] = {"mode=755", "size=65536k", NULL}, *pts[] = {"newinstance", "ptmxmode=0666", "mode=0620", "gid=5", NULL}, *shm[] = {"mode=1777", "size=65536k", NULL};
    char *argv[] = {program, NULL}, *envp[] = {"PATH=/bin", "HOME=/root", NULL};
    struct mount_attr private = {.propagation = 1 << 18};
    dup2(null, 0);
    dup2(out, 1);
    dup2(error, 2);
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    for (int i = 0; i < hierarchies && !is_v2; i++)
        check(write(joins[i], "0", 1), "tasks");
    check(unshare(CLONE_NEWCGROUP), "cgroup namespace");
    syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, NULL, 0, 0);
    check(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &private, sizeof private), "private /");
    check(syscall(SYS_move_mount, root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH), "root");
    int proc = mount_new("/proc", "proc", NULL, INERT);
    close(mount_new("/dev", "tmpfs", dev, MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME));
    close(mount_new("/dev/pts", "devpts", pts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
    close(mount_new("/dev/shm", "tmpfs", shm, INERT));
    close(mount_new("/dev/mqueue", "mqueue", NULL, INERT));
    close(mount_new("/sys", "sysfs", NULL, INERT | MOUNT_ATTR_RDONLY));
    mount_cgroups();
    make_devices();
    check(sethostname("container", 9), "sethostname");
    protect();
    write_file(proc, "self/oom_score_adj", "0");
    check(fchdir(root), "root");
    check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(syscall(SYS_umount2, ".", 2 /* MNT_DETACH */), "umount");
    check(chdir("/"), "/");
    syscall(SYS_close_range, 3, channel - 1, 0);
    syscall(SYS_close_range, channel + 1, ~0U, 0);
    drop_privileges();
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    check(write(channel, "X", 1), "channel");
    check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &fprog), "seccomp");
    check(execve(program, argv, envp), program);
}

static void copy_file(const char *from, const char *to, const char *name)
{
    char path[1024], text[256];
    snprintf(path, sizeof path, "%s/%s", from, name);
    int fd = check(open(path, O_RDONLY | O_CLOEXEC), path);
    int length = check(read(fd, text, sizeof text - 1), path);
    text[length] = 0;
    close(fd);
    snprintf(path, sizeof path, "%s/%s", to, name);
    write_file(AT_FDCWD, path, text);
}

static void make_groups(void)
{
    static const char *devices[] = {"c *:* m", "b *:* m", "c 136:* rwm", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 10:200 rwm"};
    char path[1024];
    for (int i = 0; i < hierarchies; i++) {
        snprintf(groups[i], sizeof groups[i], "%s/in-c", parents[i]);
        check(mkdir(groups[i], 0755), groups[i]);
        if (is_v2)
            continue;
        if (strstr(parents[i], "/cpuset")) {
            copy_file(parents[i], groups[i], "cpuset.cpus");
            copy_file(parents[i], groups[i], "cpuset.mems");
        }
        if (strstr(parents[i], "/devices")) {
            snprintf(path, sizeof path, "%s/devices.deny", groups[i]);
            write_file(AT_FDCWD, path, "a");
            snprintf(path, sizeof path, "%s/devices.allow", groups[i]);
            int fd = check(open(path, O_WRONLY | O_CLOEXEC), path);
            for (unsigned k = 0; k < sizeof devices / sizeof *devices; k++)
                check(write(fd, devices[k], strlen(devices[k])), path);
            close(fd);
        }
        views[i] = check(syscall(SYS_open_tree, AT_FDCWD, groups[i], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), groups[i]);
        set_attributes(views[i], INERT | MOUNT_ATTR_RDONLY, 1 << 18, 0);
        snprintf(path, sizeof path, "%s/tasks", groups[i]);
        joins[i] = check(open(path, O_WRONLY | O_CLOEXEC), path);
    }
}

static void one_container(void)
{
    char lowerdir[600], upper[600], workdir[600], exit_file[600], finished[600], text[256];
    const char *options[] = {lowerdir, upper, workdir, NULL};
    int out[2], error[2], channel[2], pidfd = -1, status, count = 0;
    snprintf(lowerdir, sizeof lowerdir, "lowerdir=%s", lower);
    snprintf(upper, sizeof upper, "upperdir=%s/upper", work);
    snprintf(workdir, sizeof workdir, "workdir=%s/work", work);
    int null = check(open("/dev/null", O_RDONLY | O_CLOEXEC), "/dev/null");
    check(pipe2(out, O_CLOEXEC), "pipe");
    check(pipe2(error, O_CLOEXEC), "pipe");
    root = filesystem("overlay", options, 0);
    set_attributes(root, 0, 1 << 18, 1);
    make_groups();
    check(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel), "socketpair");
    int cgroup = is_v2 ? check(open(groups[0], O_PATH | O_DIRECTORY | O_CLOEXEC), groups[0]) : -1;
    struct clone_args arguments = {
        .flags = CLONE_PIDFD | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_CLEAR_SIGHAND | (is_v2 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (unsigned long)&pidfd, .exit_signal = SIGCHLD, .cgroup = is_v2 ? cgroup : 0,
    };
    int pid = check(syscall(SYS_clone3, &arguments, sizeof arguments), "clone3");
    if (!pid)
        become_container(null, out[1], error[1], channel[1]);
    close(channel[1]);
    close(out[1]);
    close(error[1]);
    while (read(channel[0], text, sizeof text) > 0)
        ;
    for (int i = 0; i < hierarchies && !is_v2; i++) {
        close(joins[i]);
        close(views[i]);
    }
    struct pollfd wait = {pidfd, POLLIN, 0};
    poll(&wait, 1, -1);
    check(waitpid(pid, &status, 0), "waitpid");
    while (read(out[0], text, sizeof text) > 0 || read(error[0], text, sizeof text) > 0)
        count++;
    snprintf(exit_file, sizeof exit_file, "%s/exit.new", work);
    snprintf(finished, sizeof finished, "%s/exit", work);
    int fd = check(open(exit_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), exit_file);
    check(write(fd, text, snprintf(text, sizeof text, "{\"status\": %d}", WEXITSTATUS(status))), exit_file);
    close(fd);
    check(rename(exit_file, finished), finished);
    for (int i = 0; i < hierarchies; i++)
        while (rmdir(groups[i]) < 0 && errno == EBUSY)
            sched_yield();
    int fds[] = {null, out[0], error[0], channel[0], pidfd, root, cgroup};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (status) {
        fprintf(stderr, "container: the program ended with status %#x\n", status);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    char line[16];
    if (argc < 6 || argc - 5 > GROUPS)
        return 2;
    lower = argv[1], work = argv[2], program = argv[4], parents = argv + 5, hierarchies = argc - 5;
    is_v2 = hierarchies == 1;
    int fd = check(open(argv[3], O_RDONLY | O_CLOEXEC), argv[3]);
    fprog.len = check(read(fd, filter, sizeof filter), argv[3]) / sizeof *filter;
    close(fd);
    while (fgets(line, sizeof line, stdin)) {
        struct timespec begin, end;
        clock_gettime(CLOCK_MONOTONIC, &begin);
        one_container();
        clock_gettime(CLOCK_MONOTONIC, &end);
        printf("%ld\n", (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000);
        fflush(stdout);
    }
    return 0;
}
