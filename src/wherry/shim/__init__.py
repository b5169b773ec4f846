"""The processes between wherryd and the containers: one zygote, and a shim per container that outlives the engine.

`zygote` forks, `supervisor` owns a container from start to exit, `stdio` and `jsonfile` carry its output, `external` drives another OCI
runtime, `copyup` fills fresh volumes. `launch` is wherryd's side: how it starts a zygote. docs/flows/shim.md has the states and messages.

**Invariants**: the standard library only, and little of it (every import is memory in every shim); one thread; after the fork nothing is
imported; every wait is in one epoll. Imported as a package by nothing but the zygote, except `launch`.
"""
