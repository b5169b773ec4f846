"""A registry: the OCI distribution-spec's server, run by `wherry registry serve` as a process of its own; nothing else of wherry needs it.

    HTTP ── server → gate (who) → handlers: blobs, uploads, manifests, lists ── Repositories (what) ── Index (SQLite) · Storage (blobs by digest)

`server` carries HTTP, `gate` decides who may do what, the handlers are one module per resource, `repositories` has the operations, `index` all that
must last but the blobs, `storage` the blobs, `collector` removes what nothing needs, `cache` makes it a pull-through cache of another registry.

**Invariants**: what was answered with 201 survives a power cut. Nothing is visible before it is whole, verified and on disk. Everything that a
client sends is bounded or streamed. Deliberately absent: replication, quotas, Docker's schema 1, notifications.
"""
