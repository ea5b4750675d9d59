"""How many lanes a CPU runner has where --lanes does not say.

    cores = physical cores, of the NUMA node that has the most of them; at most the CPU quota, whole CPUs
    lanes = cores, less one where there are 8 or more; at most as many as have work in the runner's steps

One node, because lanes meet in every layer and read the same weights: across nodes both would wait for the
interconnect. Physical cores, because one lane's vector instructions fill a core. The numbers follow from
measurements on a Zen 4 with SmolLM2; docs/performance.md has them, and what larger machines get.
"""

from cadenza.server.runner.topology import Topology

_ROWS_OF_A_LANE = 8
"""With so many rows a lane computes for as long as it reads weights: with fewer it mostly reads.

rows = operations a second * bytes of a weight / (2 * bytes read a second), of one core; neither the model's
size nor, nearly, the precision matters. Measured: 4.6 ms to read int8 weights, 0.6 ms a row.
"""
_LEAST_CORES_WITH_ONE_SPARE = 8
"""From so many on, a core is left to the RPC loop, which takes about 2.5 % of a core for each busy lane.

A step is as long as its slowest lane. Lanes on all n cores lose 0.025 n, what the loop takes of one of them;
one lane less loses 1 / n, which is less from n = 7 on.
"""


def choose_lanes(topology: Topology, most: int) -> int:
    """The rule above. `most` is how many lanes have work: one of the functions below."""
    cores = int(min(max(topology.node_cores), topology.cpu_quota))
    spare = 1 if cores >= _LEAST_CORES_WITH_ONE_SPARE else 0
    return max(1, min(cores - spare, most))


def most_lanes_by_rows(max_step_tokens: int) -> int:
    """For a runner that cuts a step's rows into one range a lane, each of which reads all weights."""
    return max_step_tokens // _ROWS_OF_A_LANE


def most_lanes_of_a_team(hidden_size: int, panel: int) -> int:
    """For a runner whose lanes share every matrix by panels of so many outputs: panels of the smallest."""
    return -(-hidden_size // panel)
