"""The program `wherryd`: imports everything else, and until the engine has handlers of its own lets SIGINT end the process as SIGTERM does,
without the traceback of an import that was interrupted.
"""

import signal


def start() -> int:
    """The exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from wherry.daemon.main import main

    return main()
