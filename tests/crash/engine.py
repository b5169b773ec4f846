"""wherryd with `points` in it: `python -m tests.crash.engine ARGUMENTS`, as wherryd's own command line."""

from __future__ import annotations

import os
import sys
from typing import Any

from tests.crash import points
from wherry.core import db, unpackers
from wherry.daemon.main import main


def _install() -> None:
    path, end = os.environ["WHERRY_POINTS"], os.environ.get("WHERRY_POINTS_END", "kill")
    points.Counter(path).set_engine(os.getpid())
    point = points.install(path, end)
    transact = db.Database._transact

    def counted(self: db.Database, transaction: Any) -> Any:
        point()
        answer = transact(self, transaction)
        point()
        return answer

    db.Database._transact = counted  # type: ignore[method-assign]
    first = f"from tests.crash import points; points.install({path!r}, {end!r}); "
    unpackers._START = unpackers._START.replace("from wherry", first + "from wherry", 1)


if __name__ == "__main__":
    _install()
    sys.exit(main())
