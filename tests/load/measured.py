"""Runs as they would have come out of a load, for what is made of them."""

from collections.abc import Sequence

from cadenza.load import MessageTime, MessageTimes, Objectives, RequestRecord, Window, summarise
from cadenza.load._compare import compare_means
from cadenza.load._measure import GeneratorUse, Measured
from cadenza.load._percentiles import percentiles
from cadenza.load._server_metrics import ServerMeans, ServerSample, ServerView

OBJECTIVES = Objectives(ttft=0.5, tpot=0.05)


def request(index: int, ttft: float, tpot: float, error: str = "") -> RequestRecord:
    """A request of three tokens, due `index` / 10 seconds after the load's begin."""
    due = index / 10
    first = due + ttft
    messages = [] if error else [MessageTime(first, 1), MessageTime(first + 2 * tpot, 2)]
    times = MessageTimes(messages)
    return RequestRecord(index, due, due + 0.001, times, first + 2 * tpot, error, 0.01, 0 if error else 7, 2)


def run(
    ttft: float = 0.2,
    tpot: float = 0.02,
    *,
    rate: float | None = 10.0,
    invalid: Sequence[str] = (),
    failed: int = 0,
    with_server: bool = True,
) -> Measured:
    """Twenty requests of these latencies, `failed` of them refused."""
    records = [request(index, ttft, tpot, "QUEUE_FULL" if index < failed else "") for index in range(20)]
    means = ServerMeans(requests=20, ttft=ttft - 0.001, tpot=tpot, latency=ttft + 2 * tpot, queue=0.01)
    samples = tuple(ServerSample(float(at), at + 1.0, 2.0 * at, at, 3 * at, 0.5) for at in range(3))
    server = ServerView(samples, means) if with_server else None
    window = Window(0.0, 2.0)
    return Measured(
        label=f"{rate} requests/s",
        rate=rate,
        summary=summarise(records, window, OBJECTIVES),
        invalid=tuple(invalid),
        generator=GeneratorUse(1, 0.04, 0.002, 0.02, percentiles([0.001, 0.002])),
        server=server,
        agreement=compare_means(records, means) if with_server else (),
        records=tuple(records),
        window=window,
    )
