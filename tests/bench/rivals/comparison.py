"""How Cadenza stands to the best of the others, point by point: quotients of medians, above 1 where ahead."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from tests.bench.rivals.contestants import Division
from tests.bench.rivals.results import Plan, Result, median


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One of ours against the rival of its division that is best at one point."""

    division: Division
    ours: str
    point: str
    rival: str
    quotient: float

    def __str__(self) -> str:
        return f"{self.ours}, {self.point}: {self.quotient:.2f} x {self.rival}"


def comparisons(results: Sequence[Result], plan: Plan) -> Iterator[Comparison]:
    """Every point that one of ours and at least one rival of its division have a value for."""
    for name, value in _points(plan):
        for ours in results:
            if not ours.contestant.ours or (own := value(ours)) is None:
                continue
            rivals = [
                (found, other.contestant.name)
                for other in results
                if not other.contestant.ours
                and other.contestant.division is ours.contestant.division
                and (found := value(other)) is not None
            ]
            if rivals:
                best, rival = max(rivals)
                yield Comparison(ours.contestant.division, ours.contestant.name, name, rival, own / best)


def _points(plan: Plan) -> Sequence[tuple[str, Callable[[Result], float | None]]]:
    """What is compared, as a value of which more is better."""
    throughputs = [(f"{count} concurrent", _speed(count)) for count in plan.concurrency]
    return [*throughputs, ("TTFT", _per_ttft), ("long context", lambda result: median(result.long_decode))]


def _speed(count: int) -> Callable[[Result], float | None]:
    return lambda result: result.speed(count)


def _per_ttft(result: Result) -> float | None:
    ttft = median(result.ttft)
    return 1 / ttft if ttft else None
