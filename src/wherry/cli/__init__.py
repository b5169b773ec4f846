"""The `wherry` command: Docker's command line for the engine. `main` finds the verb, `verbs/` holds one module per verb.

Every module on the path of `wherry run` keeps its imports few: no `re`, `enum`, `typing`, `json`, `socket`, `argparse` (a test holds this), since the
interpreter's start and these imports are most of what a user waits for.
"""
