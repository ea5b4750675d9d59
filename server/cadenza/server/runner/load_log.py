"""What the log says when a CPU runner is loaded: how many lanes and why, and what memory it took."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from cadenza.server.runner.memory import process_memory
from cadenza.server.runner.topology import Topology

_log = structlog.get_logger(__name__)


def log_lanes(model: str, runner: str, lanes: int, topology: Topology, *, asked: bool) -> None:
    """`runner` as --runner says it; `asked`: --lanes said how many, else the rule."""
    _log.info(
        "lanes",
        model=model,
        runner=runner,
        lanes=lanes,
        chosen_by="--lanes" if asked else "rule",
        cores_by_numa_node=topology.node_cores,
        cpu_quota=None if math.isinf(topology.cpu_quota) else topology.cpu_quota,
    )


def warn_of_unused_nodes(topology: Topology) -> None:
    """Warns where another server could use cores that this one does not."""
    if len(topology.node_cores) > 1:
        _log.warning(
            "numa_nodes_not_used_well",
            numa_nodes=len(topology.node_cores),
            advice="run one server for each node: numactl --cpunodebind=N --membind=N cadenza-server ...",
        )


@contextmanager
def logged_memory(model: str, kv_cache_bytes: int) -> Iterator[None]:
    """Logs what memory the block brings into use. `kv_cache_bytes` is what the cache takes once it is full.

    What other threads do meanwhile, such as an unload, is counted too.
    """
    before = process_memory()
    yield
    after = process_memory()
    if before is not None and after is not None:
        grown = after - before
        _log.info(
            "model_memory",
            model=model,
            mapped_bytes=grown.mapped,
            own_bytes=grown.anonymous,
            most_kv_cache_bytes=kv_cache_bytes,
        )
