"""The real docker CLI pulls through the engine from our own registry, and from a cache of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import images
from tests.e2e.harness import Engine
from tests.images import image_id
from tests.registry import skopeo_copy, wherry_registry

pytestmark = pytest.mark.requires("skopeo")


def test_an_image_comes_from_our_registry_and_from_its_cache(engine: Engine, tmp_path: Path) -> None:
    spec = images.busybox_spec(Cmd=["echo", "from the registry"])
    images.write_oci_layout(str(tmp_path / "layout"), spec)
    with wherry_registry(tmp_path / "one") as served, wherry_registry(tmp_path / "two", "--proxy", served.url) as cache:
        skopeo_copy(f"oci:{tmp_path}/layout:latest", f"docker://{served.host}/team/app:1")
        for host in (served.host, cache.host):
            engine.docker("pull", "-q", f"{host}/team/app:1")
            assert engine.output("images", "-q", "--no-trunc", f"{host}/team/app") == image_id(spec)
            assert engine.output("run", "--rm", f"{host}/team/app:1") == "from the registry"
            engine.docker("rmi", f"{host}/team/app:1")
