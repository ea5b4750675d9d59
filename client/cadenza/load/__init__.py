"""Loads a server with concurrent streams and says how it did: TTFT, ITL, TPOT, latency and tokens/s.

records = await closed_loop("localhost:8500", prompts, concurrency=32, options={"max_tokens": 64})
print_summary(summarise(records))
"""

from cadenza.load._closed_loop import LoadPrompt, closed_loop
from cadenza.load._record import MessageTime, RequestRecord
from cadenza.load._summary import Percentiles, Summary, percentiles, summarise
from cadenza.load._table import print_summary, summary_table

__all__ = [
    "LoadPrompt",
    "MessageTime",
    "Percentiles",
    "RequestRecord",
    "Summary",
    "closed_loop",
    "percentiles",
    "print_summary",
    "summarise",
    "summary_table",
]
