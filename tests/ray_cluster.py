"""A Ray cluster of several nodes on this machine, for tests: in its own folder, at free ports, reporting to nobody."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


class Nodes:
    """A head and workers, one CPU each."""

    def __init__(self, folder: str, workers: int) -> None:
        from ray._private.utils import get_ray_address_file
        from ray.cluster_utils import Cluster

        # Where Ray notes the newest cluster; on a machine on which none has run yet the folder is missing.
        Path(get_ray_address_file(None)).parent.mkdir(parents=True, exist_ok=True)
        each = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        # A node that was killed is missed after some seconds, not after half a minute.
        config = {"health_check_period_ms": 1000, "health_check_failure_threshold": 5}
        head = {**each, "temp_dir": folder, "_system_config": config}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        # Addresses of their own, so that a process that connects is bound to the head, the node of this machine.
        self._workers = [
            self._cluster.add_node(**each, node_ip_address=f"127.0.0.{number}") for number in range(2, 2 + workers)
        ]

    @property
    def address(self) -> str:
        return self._cluster.address

    def kill_node(self) -> None:
        """Kill every process of a worker node."""
        self._cluster.remove_node(self._workers.pop(), allow_graceful=False)

    def kill_worker(self, name: str) -> None:
        """Kill a process of these nodes that has the actor `name`."""
        raylets = {node.all_processes["raylet"][0].process.pid for node in self._cluster.list_all_nodes()}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().decode(errors="replace")
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
            if parent in raylets and command.startswith("ray::") and name in command:
                return os.kill(int(process.name), signal.SIGKILL)
        raise AssertionError(f"no process of the cluster has an actor {name}")

    def close(self) -> None:
        self._cluster.shutdown()


@contextmanager
def ray_nodes(workers: int) -> Iterator[Nodes]:
    """Start a cluster. Its folder has a short name, as sockets need."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    before: dict[str, Any] = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    nodes = None
    try:
        nodes = Nodes(folder, workers)
        yield nodes
    finally:
        if nodes is not None:
            nodes.close()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)
