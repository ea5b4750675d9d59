"""Loads a server and says how it did: TTFT, TPOT, ITL, latency, throughput, goodput.

`cadenza load` is the command; from Python:

    records = await closed_loop("localhost:8500", prompts, concurrency=32, options={"max_tokens": 64})
    print_summary(summarise(records))
"""

from cadenza.load._closed_loop import closed_loop
from cadenza.load._connection import LoadError
from cadenza.load._objectives import Objectives
from cadenza.load._percentiles import Percentiles, percentiles
from cadenza.load._record import MessageTime, MessageTimes, RequestRecord
from cadenza.load._summary import Goodput, Summary, Window, summarise
from cadenza.load._table import print_summary, summary_table
from cadenza.load._workload import LoadPrompt

__all__ = [
    "Goodput",
    "LoadError",
    "LoadPrompt",
    "MessageTime",
    "MessageTimes",
    "Objectives",
    "Percentiles",
    "RequestRecord",
    "Summary",
    "Window",
    "closed_loop",
    "percentiles",
    "print_summary",
    "summarise",
    "summary_table",
]
