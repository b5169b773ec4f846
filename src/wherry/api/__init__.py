"""The Engine API's HTTP edge, in wherryd: one module per resource; the backends are the Protocols of `backend`."""
