"""`wherry-runc`: the OCI runtime as a command line, a drop-in for runc's. One module per verb; `main` chooses.

Every call is one short-lived process, started for each container by a daemon, so the time to import counts: nothing
here imports `json`, `re`, `enum`, `typing`, `argparse`, `signal`, `socket` or `subprocess` on the way of create,
start, run, exec, kill, delete and state (a test holds this).
"""
