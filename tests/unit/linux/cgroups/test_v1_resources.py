"""v1's files for limits of controllers that few machines have mounted, on directories that stand for groups."""

from pathlib import Path

import pytest

from wherry.errors import FailedPrecondition
from wherry.linux.cgroups import v1_resources
from wherry.spec.oci import Resources


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    for controller, names in {
        "hugetlb": ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.rsvd.limit_in_bytes"], "net_cls": ["net_cls.classid"],
        "net_prio": ["net_prio.ifpriomap"], "rdma": ["rdma.max"], "cpu": ["cpu.rt_period_us", "cpu.rt_runtime_us"],
        "memory": ["memory.kmem.limit_in_bytes", "memory.kmem.tcp.limit_in_bytes", "memory.use_hierarchy"],
        "blkio": ["blkio.weight", "blkio.weight_device", "blkio.leaf_weight", "blkio.leaf_weight_device", "blkio.throttle.write_bps_device"],
    }.items():  # fmt: skip
        (tmp_path / controller).mkdir()
        for name in names:
            (tmp_path / controller / name).touch()
    return {path.name: str(path) for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("resources", "file", "text"),
    [
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb/hugetlb.2MB.limit_in_bytes", str(4 << 20)),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", str(4 << 20)),
        ({"network": {"classID": 0x100001}}, "net_cls/net_cls.classid", str(0x100001)),
        ({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}, "net_prio/net_prio.ifpriomap", "eth0 5"),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}}, "rdma/rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ({"cpu": {"realtimePeriod": 1000000}}, "cpu/cpu.rt_period_us", "1000000"),
        ({"cpu": {"realtimeRuntime": 5000}}, "cpu/cpu.rt_runtime_us", "5000"),
        ({"memory": {"kernel": 1 << 20}}, "memory/memory.kmem.limit_in_bytes", str(1 << 20)),
        ({"memory": {"kernelTCP": 1 << 20}}, "memory/memory.kmem.tcp.limit_in_bytes", str(1 << 20)),
        ({"memory": {"useHierarchy": True}}, "memory/memory.use_hierarchy", "1"),
        ({"blockIO": {"weight": 500}}, "blkio/blkio.weight", "500"),
        ({"blockIO": {"leafWeight": 300}}, "blkio/blkio.leaf_weight", "300"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 20}]}}, "blkio/blkio.weight_device", "8:0 20"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 30}]}}, "blkio/blkio.leaf_weight_device", "8:0 30"),
        ({"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}}, "blkio/blkio.throttle.write_bps_device", "8:0 7"),
    ],
)  # fmt: skip
def test_value_in_its_file(paths: dict[str, str], tmp_path: Path, resources: Resources, file: str, text: str) -> None:
    v1_resources.apply(paths, resources, update=False)
    assert (tmp_path / file).read_text() == text


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, "hugetlb cgroup controller is not mounted"),
        ({"network": {"classID": 1}}, "network.classID: the net_cls"),
        ({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}, "network.priorities: the net_prio"),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "rdma cgroup controller"),
        ({"pids": {"limit": 0}}, "pids.limit"),
    ],
)
def test_a_controller_that_is_not_mounted_is_named(resources: Resources, named: str) -> None:
    with pytest.raises(FailedPrecondition, match=named):
        v1_resources.apply({}, resources, update=False)
