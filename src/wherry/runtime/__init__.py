"""The OCI runtime: as a library that the shim uses in-process (`container`), and as the command line `wherry-runc`
(`cli`). Runs no asyncio and no logging.
"""
