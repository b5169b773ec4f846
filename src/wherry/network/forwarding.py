"""IPv4 forwarding of the host: switched on for the bridge, and off again when we had switched it on and nobody else seems to need it.

Runs in wherryd. Whether it was we is kept in a file of the exec root, which does not outlive the boot, as the switch itself does not.

**Invariant**: a machine that was no router before does not become one between its hardware interfaces: as long as the file is there, the table's
`router` chain is (see `rules`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from wherry.linux.rtnetlink import Link
from wherry.network.bridge import is_forwarding, write_sysctl


class ForwardingSwitch:
    def __init__(self, exec_root: str) -> None:
        self._mark = os.path.join(exec_root, "ip_forward.was_off")
        self.is_on = False

    def switch_on(self) -> bool:
        """Sets ip_forward. → whether it was off before this instance came. `is_on` tells the outcome."""
        if is_forwarding() is False:
            with open(self._mark, "w", encoding="ascii"):
                pass
            if not write_sysctl("ipv4/ip_forward", "1"):
                os.unlink(self._mark)
        self.is_on = is_forwarding() is True
        return os.path.exists(self._mark)

    def switch_back(self, remaining: Iterable[Link]) -> None:
        """Clears ip_forward if this instance set it and no bridge, veth, tunnel or other made interface is left that might need it."""
        if not os.path.exists(self._mark):
            return
        if not any(link.kind and link.up for link in remaining):
            write_sysctl("ipv4/ip_forward", "0")
            os.unlink(self._mark)
