"""Spreads the parts of a bulk run over a Ray cluster: an actor for each device, parts back to the process that asked.

Workers write nothing: finished parts come back through Ray, so that only the bundle has to be on every machine. A
process or a machine that dies costs its parts under way, which Ray gives to another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from himar_kernels import EngineError, HimarError
from himar_kernels.shared.interruptions import check_interruption

from .run import BulkRun
from .worker import PartMaker

LOCAL = "local"
_SECONDS_TO_CONNECT = 5
_MOST_BLOCKS = 4096  # Ray keeps account of each


class ClusterError(HimarError):
    """A Ray cluster cannot be reached, has no room, or lost what it was given."""


@dataclass(frozen=True)
class Pool:
    """Who works: `size` actors, each with a device of its own.

    device: "cpu", or "cuda" for a GPU each, which Ray chooses; threads: CPU threads of one actor, or None for what is
    usual beside a GPU.
    """

    size: int
    device: str
    threads: int | None

    @property
    def resources(self) -> dict[str, Any]:
        """What Ray keeps free for one actor."""
        return {"num_cpus": self.threads} if self.device == "cpu" else {"num_cpus": 1, "num_gpus": 1}


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect this process to the cluster of HOST:PORT; "local" starts one here, "auto" finds one that runs here.

    Raises ClusterError where there is none.
    """
    _require_listener(address)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our own reports to nobody
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    at_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise _no_cluster(address, str(error).splitlines()[0]) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, at_sigterm)  # where Ray puts a handler of its own
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray reports what dies, whatever log_to_driver says
            yield
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise ClusterError where nobody listens at HOST:PORT, which Ray would need two minutes to find out."""
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise ClusterError(f"--ray is {address!r}; give HOST:PORT of the cluster's head, auto, or {LOCAL}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, getattr(error, "strerror", None) or str(error)) from error


def _no_cluster(address: str, reason: str) -> ClusterError:
    return ClusterError(
        f"there is no Ray cluster at {address!r} ({reason}); start one with `ray start --head`, or give --ray {LOCAL} "
        f"for this machine alone."
    )


def choose_pool(device: str, threads: int | None, actors: int | None) -> Pool:
    """Return a pool that a connected cluster has room for: an actor per GPU, or per `threads` CPUs of a machine.

    threads: on CPUs 1 if None. actors: how many; None for as many as there is room for.

    Raises ClusterError where there is no room for one, or for so many.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device != "cpu":
        room = int(sum(node.get("GPU", 0) for node in nodes))
        if not room:
            raise ClusterError(f"the cluster's {len(nodes)} machines have no GPU; give --device cpu.")
        return Pool(_fitting(actors, room), "cuda", threads)
    each = threads or 1
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    room = sum(cpu // each for cpu in cpus)
    if not room:
        raise ClusterError(
            f"--threads is {each}, but no machine of the cluster has more than {max(cpus, default=0)} CPUs; ask for "
            f"fewer."
        )
    return Pool(_fitting(actors, room), "cpu", each)


def _fitting(actors: int | None, room: int) -> int:
    if actors is not None and actors > room:
        raise ClusterError(
            f"--actors is {actors}, but the cluster has room for {room}; ask for fewer, or leave it out."
        )
    return actors or room


def make_parts(run: BulkRun, parts: Sequence[int], pool: Pool) -> Iterator[tuple[int, Mapping[str, bytes]]]:
    """Yield parts as they are finished, in any order: the number, and the files by their names.

    Raises EngineError for what fails on a worker, ClusterError when Ray fails, KeyboardInterrupt at Ctrl-C.
    """
    for made in _parts_as_they_come(run, parts, pool):
        check_interruption()  # Ray drops a KeyboardInterrupt that is raised in a callback of its own
        yield made
    check_interruption()


def _parts_as_they_come(run: BulkRun, parts: Sequence[int], pool: Pool) -> Iterator[tuple[int, Mapping[str, bytes]]]:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    rows = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=min(len(parts), _MOST_BLOCKS))
    made = rows.map_batches(
        PartMaker,
        fn_constructor_kwargs={"run": run, "device": pool.device, "threads": pool.threads},
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pool.size, max_tasks_in_flight_per_actor=1),
        **pool.resources,
    )
    seen = set()
    try:
        for table in made.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                if row["error"] is not None:
                    raise EngineError(f"part {row['part']} failed {row['error']}")
                if row["part"] not in seen:
                    seen.add(row["part"])
                    yield row["part"], dict(zip(row["names"], row["files"], strict=True))
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a worker failed: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return the line that names an exception among what Ray says, which is tracebacks and advice; else the first."""
    lines = str(error).splitlines() or [type(error).__name__]
    named = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception): ", line)]
    return (named or lines)[-1 if named else 0].strip()
