"""Volumes: directories that outlive containers.

`Volumes` is the way in. Runs in wherryd.
"""

from wherry.volumes.local import Volumes

__all__ = ["Volumes"]
