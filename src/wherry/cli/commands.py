"""All verbs: the path that a user types, the module that carries it out, one line on what it does."""

from __future__ import annotations

COMMON = "Common Commands"
MANAGEMENT = "Management Commands"
OTHER = "Commands"

GROUPS: dict[str, str] = {
    "container": "Manage containers",
    "image": "Manage images",
    "image trust": "Show and set which images the engine lets in",
    "manifest": "Manage manifests and indexes of images in registries",
    "network": "Inspect networks",
    "registry": "Run a registry",
    "system": "Inspect and manage the engine",
    "volume": "Manage volumes",
}

# path → (module in wherry.cli.verbs, summary). Aliases follow in ALIASES.
VERBS: dict[str, tuple[str, str]] = {
    "attach": ("attach", "Connect the terminal to a running container"),
    "commit": ("commit", "Make an image from a container and its changes"),
    "create": ("create", "Create a container without starting it"),
    "diff": ("diff", "List the changes to a container's file system"),
    "doctor": ("doctor", "Check whether this machine can run containers, and say how to fix what is missing"),
    "events": ("events", "Stream events from the engine"),
    "exec": ("exec", "Run a command in a running container"),
    "export": ("export", "Write a container's file system as a tar archive"),
    "history": ("history", "Show the layers of an image"),
    "images": ("images", "List images"),
    "import": ("import_", "Make an image from an archive of a root file system"),
    "info": ("info", "Show information about the engine"),
    "inspect": ("inspect", "Show details of objects as JSON"),
    "kill": ("kill", "Send a signal to running containers (SIGKILL by default)"),
    "load": ("load", "Load images from an archive"),
    "login": ("login", "Log in to a registry"),
    "logout": ("logout", "Log out of a registry"),
    "logs": ("logs", "Show the output of a container"),
    "pause": ("pause", "Pause all processes in containers"),
    "ping": ("ping", "Check that the engine answers"),
    "port": ("port", "List the published ports of a container"),
    "ps": ("ps", "List containers"),
    "pull": ("pull", "Fetch an image from a registry"),
    "push": ("push", "Send an image to a registry"),
    "rename": ("rename", "Rename a container"),
    "restart": ("restart", "Stop and start containers"),
    "rm": ("rm", "Remove containers"),
    "rmi": ("rmi", "Remove images"),
    "run": ("run", "Create and run a container from an image"),
    "save": ("save", "Write images to an archive"),
    "search": ("search", "Search a registry for images"),
    "start": ("start", "Start stopped containers"),
    "stats": ("stats", "Show live resource usage of containers"),
    "stop": ("stop", "Stop running containers"),
    "tag": ("tag", "Give an image another name, keeping the first"),
    "top": ("top", "List the processes in a container"),
    "unpause": ("unpause", "Resume paused containers"),
    "version": ("version", "Show the versions of the client and the engine"),
    "wait": ("wait", "Wait until containers stop, then print their exit codes"),
    "container attach": ("attach", ""),
    "container commit": ("commit", ""),
    "container create": ("create", ""),
    "container diff": ("diff", ""),
    "container exec": ("exec", ""),
    "container export": ("export", ""),
    "container inspect": ("container_inspect", "Show details of containers as JSON"),
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
    "image inspect": ("image_inspect", "Show details of images as JSON"),
    "image keygen": ("image_keygen", "Make a pair of keys to sign images with"),
    "image load": ("load", ""),
    "image ls": ("images", "List images"),
    "image prune": ("image_prune", "Remove unused images"),
    "image pull": ("pull", ""),
    "image push": ("push", ""),
    "image rm": ("rmi", "Remove images"),
    "image save": ("save", ""),
    "image sign": ("image_sign", "Sign an image in its registry"),
    "image tag": ("tag", ""),
    "image trust set": ("image_trust_set", "Set a rule of the trust policy's file"),
    "image trust show": ("image_trust_show", "Show the engine's trust policy, or the rule for an image"),
    "image verify": ("image_verify", "Verify the signatures of an image in its registry"),
    "manifest annotate": ("manifest_annotate", "Set what a list says of a manifest's platform"),
    "manifest create": ("manifest_create", "Make a list of manifests, to be pushed as an index"),
    "manifest inspect": ("manifest_inspect", "Show a manifest or an index"),
    "manifest push": ("manifest_push", "Push a list to a registry as an index"),
    "manifest rm": ("manifest_rm", "Remove lists of manifests that are kept here"),
    "network inspect": ("network_inspect", "Show details of networks as JSON"),
    "network ls": ("network_ls", "List networks"),
    "registry serve": ("registry_serve", "Serve images and other artifacts: an OCI registry in this process"),
    "system df": ("system_df", "Show disk usage"),
    "system events": ("events", ""),
    "system fsck": ("system_fsck", "Verify the store, and mend it"),
    "system info": ("info", ""),
    "system ping": ("ping", ""),
    "system prune": ("system_prune", "Remove unused data"),
    "volume create": ("volume_create", "Create a volume"),
    "volume inspect": ("volume_inspect", "Show details of volumes as JSON"),
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
        "node",
        "plugin",
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
        (MANAGEMENT, [(name, text) for name, text in GROUPS.items() if " " not in name]),
        (OTHER, [(path, summary(path)) for path in others]),
    ]


def group(name: str) -> list[tuple[str, str]]:
    """The verbs of a group: [(name, summary)]."""
    prefix = name + " "
    inner = [(path[len(prefix) :], text) for path, text in GROUPS.items() if path.startswith(prefix)]
    verbs = [(path[len(prefix) :], summary(path)) for path in VERBS if path.startswith(prefix)]
    return sorted([*inner, *((words, text) for words, text in verbs if " " not in words)])


def synonyms(path: str) -> list[str]:
    """All paths that lead to the same verb, the path itself among them."""
    module = VERBS[path][0]
    names = [other for other, (home, _) in VERBS.items() if home == module]
    names += [alias for alias, target in ALIASES.items() if target in names]
    return sorted(names)
