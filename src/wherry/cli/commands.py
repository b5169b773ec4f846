"""All verbs: the path that a user types, the module that carries it out, one line on what it does."""

from __future__ import annotations

COMMON = "Common Commands"
MANAGEMENT = "Management Commands"
OTHER = "Commands"

GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "image": "Manage images",
    "network": "Look at networks",
    "registry": "Run a registry",
    "system": "Look at and manage the engine",
    "volume": "Manage volumes",
}

# path → (module in wherry.cli.verbs, summary). Aliases follow in ALIASES.
VERBS: dict[str, tuple[str, str]] = {
    "attach": ("attach", "Connect the terminal to a running container"),
    "commit": ("commit", "Make an image of a container and its changes"),
    "create": ("create", "Create a container without starting it"),
    "diff": ("diff", "List what a container has changed in its file system"),
    "doctor": ("doctor", "Say what this machine offers to containers, and how to mend what is missing"),
    "events": ("events", "Show what happens in the engine, as it happens"),
    "exec": ("exec", "Run a command in a running container"),
    "export": ("export", "Write a container's file system as a tar archive"),
    "history": ("history", "Show the layers of an image"),
    "images": ("images", "List images"),
    "import": ("import_", "Make an image from the archive of a root file system"),
    "info": ("info", "Show what the engine is and has"),
    "inspect": ("inspect", "Show everything about objects, as JSON"),
    "kill": ("kill", "Send a signal to running containers (SIGKILL)"),
    "load": ("load", "Load images from an archive"),
    "logs": ("logs", "Show what a container has written"),
    "pause": ("pause", "Freeze all processes of containers"),
    "ping": ("ping", "Ask whether the engine answers"),
    "port": ("port", "List the published ports of a container"),
    "ps": ("ps", "List containers"),
    "pull": ("pull", "Fetch an image from a registry"),
    "rename": ("rename", "Give a container another name"),
    "restart": ("restart", "Stop and start containers"),
    "rm": ("rm", "Remove containers"),
    "rmi": ("rmi", "Remove images"),
    "run": ("run", "Create and run a container from an image"),
    "start": ("start", "Start stopped containers"),
    "stats": ("stats", "Show what containers use of the machine, live"),
    "stop": ("stop", "Stop running containers"),
    "tag": ("tag", "Give an image one more name"),
    "top": ("top", "List the processes of a container"),
    "unpause": ("unpause", "Thaw paused containers"),
    "version": ("version", "Show the versions of client and engine"),
    "wait": ("wait", "Wait until containers stop, and print their exit codes"),
    "container attach": ("attach", ""),
    "container commit": ("commit", ""),
    "container create": ("create", ""),
    "container diff": ("diff", ""),
    "container exec": ("exec", ""),
    "container export": ("export", ""),
    "container inspect": ("container_inspect", "Show everything about containers, as JSON"),
    "container kill": ("kill", ""),
    "container logs": ("logs", ""),
    "container ls": ("ps", "List containers"),
    "container pause": ("pause", ""),
    "container port": ("port", ""),
    "container prune": ("container_prune", "Remove all stopped containers"),
    "container rename": ("rename", ""),
    "container restart": ("restart", ""),
    "container rm": ("rm", ""),
    "container run": ("run", ""),
    "container start": ("start", ""),
    "container stats": ("stats", ""),
    "container stop": ("stop", ""),
    "container top": ("top", ""),
    "container unpause": ("unpause", ""),
    "container wait": ("wait", ""),
    "image history": ("history", ""),
    "image import": ("import_", ""),
    "image inspect": ("image_inspect", "Show everything about images, as JSON"),
    "image load": ("load", ""),
    "image ls": ("images", "List images"),
    "image prune": ("image_prune", "Remove unused images"),
    "image pull": ("pull", ""),
    "image rm": ("rmi", "Remove images"),
    "image tag": ("tag", ""),
    "network inspect": ("network_inspect", "Show everything about networks, as JSON"),
    "network ls": ("network_ls", "List networks"),
    "registry serve": ("registry_serve", "Serve images and other artifacts: an OCI registry in this process"),
    "system df": ("system_df", "Show what takes how much disk"),
    "system events": ("events", ""),
    "system info": ("info", ""),
    "system ping": ("ping", ""),
    "system prune": ("system_prune", "Remove what is not used"),
    "volume create": ("volume_create", "Create a volume"),
    "volume inspect": ("volume_inspect", "Show everything about volumes, as JSON"),
    "volume ls": ("volume_ls", "List volumes"),
    "volume prune": ("volume_prune", "Remove unused volumes"),
    "volume rm": ("volume_rm", "Remove volumes"),
}

ALIASES: dict[str, str] = {
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
    "image list": "image ls",
    "image remove": "image rm",
    "network list": "network ls",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

# What Docker's command line has and wherry does not have (yet): refused by name.
ABSENT = frozenset(
    [
        "bake",
        "build",
        "builder",
        "buildx",
        "checkpoint",
        "compose",
        "config",
        "context",
        "cp",
        "login",
        "logout",
        "manifest",
        "node",
        "plugin",
        "push",
        "save",
        "search",
        "secret",
        "service",
        "stack",
        "swarm",
        "trust",
        "update",
    ]
)

_FIRST = ("run", "exec", "ps", "pull", "images", "logs", "version", "info", "doctor")


def summary(path: str) -> str:
    """The line about a verb; `container run` has that of `run`."""
    return VERBS[path][1] or VERBS[path.split(" ", 1)[1]][1]


def sections() -> list[tuple[str, list[tuple[str, str]]]]:
    """What `wherry --help` lists: (heading, [(name, summary)])."""
    others = sorted(path for path in VERBS if " " not in path and path not in _FIRST)
    return [
        (COMMON, [(path, summary(path)) for path in _FIRST]),
        (MANAGEMENT, list(GROUPS.items())),
        (OTHER, [(path, summary(path)) for path in others]),
    ]


def group(name: str) -> list[tuple[str, str]]:
    """The verbs of a group: [(name, summary)]."""
    prefix = name + " "
    return [(path[len(prefix) :], summary(path)) for path in VERBS if path.startswith(prefix)]


def synonyms(path: str) -> list[str]:
    """All paths that lead to the same verb, the path itself among them."""
    module = VERBS[path][0]
    names = [other for other, (home, _) in VERBS.items() if home == module]
    names += [alias for alias, target in ALIASES.items() if target in names]
    return sorted(names)
