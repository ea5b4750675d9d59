"""Results as a table for people, as JSON and as a picture."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.table import Table
from tests.bench.rivals import bars
from tests.bench.rivals.comparison import Comparison, comparisons
from tests.bench.rivals.contestants import Division
from tests.bench.rivals.figures import same_answer
from tests.bench.rivals.measurement import LONG_SEQUENCES
from tests.bench.rivals.quality import ANSWER_TOKENS, Exam
from tests.bench.rivals.results import Plan, Result, median
from tests.bench.workload import LONG_PROMPT_TOKENS, PROMPT_TOKENS

REFERENCES: Final = ("transformers float32", "Cadenza float32")
"""Float32 contestants by preference: the first that ran is the reference."""


@dataclasses.dataclass(frozen=True, slots=True)
class Quality:
    """How far a contestant is from the float32 reference."""

    nll_cost: float | None
    """Mean over the texts of its negative log-likelihood per token less the reference's, nats."""
    same_answers: int | None
    """How many answers are the reference's."""


class Report:
    """All that was found."""

    def __init__(self, header: Mapping[str, Any], plan: Plan, exam: Exam, results: Sequence[Result]) -> None:
        self._header = header
        self._plan = plan
        self._exam = exam
        self._results = results

    @property
    def reference(self) -> Result | None:
        """Whose answers and likelihoods the others' are held against; None before it ran."""
        judged = {result.contestant.name: result for result in self._results if self._is_judged(result)}
        return next((judged[name] for name in REFERENCES if name in judged), None)

    def quality(self, result: Result) -> Quality:
        """Nothing where the contestant was not judged or there is no reference."""
        reference = self.reference
        if reference is None or not self._is_judged(result):
            return Quality(None, None)
        costs = [result.nll[name] - reference.nll[name] for name in self._exam.texts]
        pairs = zip(reference.answers, result.answers, strict=True)
        same = sum(same_answer(expected, found, [self._exam.end_token]) for expected, found in pairs)
        return Quality(statistics.mean(costs), same)

    def table(self, division: Division) -> Table:
        """A row for each contestant, medians of the rounds."""
        table = Table(title=f"{division.value}: tokens/s in all, medians of {self._plan.rounds} rounds")
        table.add_column("engine")
        table.add_column("precision")
        counts = self._concurrency(division)
        for count in counts:
            table.add_column(str(count), justify="right")
        for column in (
            f"TTFT of {LONG_PROMPT_TOKENS}, ms",
            f"{LONG_SEQUENCES} at {self._plan.context}",
            "NLL cost",
            f"same answers of {len(self._exam.chats)}",
            "peak MB",
        ):
            table.add_column(column, justify="right")
        for result in self._of(division):
            table.add_row(*self._row(result, counts))
        return table

    def comparisons(self) -> Sequence[Comparison]:
        """Ours against the best rival of the division, point by point."""
        return list(comparisons(self._results, self._plan))

    def failures(self) -> Sequence[str]:
        """A line for each that could not be installed or did not last."""
        return [f"{result.contestant.name}: {result.failure}" for result in self._results if result.failure]

    def json(self) -> str:
        """Everything, every round's values included."""
        content = {
            **self._header,
            "workload": {
                "prompt_tokens": PROMPT_TOKENS,
                "long_prompt_tokens": LONG_PROMPT_TOKENS,
                "long_sequences": LONG_SEQUENCES,
                "answer_tokens": ANSWER_TOKENS,
                **dataclasses.asdict(self._plan),
            },
            "reference": self.reference.contestant.name if self.reference else None,
            "comparisons": [
                dataclasses.asdict(one) | {"division": one.division.value} for one in self.comparisons()
            ],
            "results": [self._entry(result) for result in self._results],
        }
        return json.dumps(content, indent=1) + "\n"

    def write_plots(self, folder: Path) -> None:
        """One picture for each division that ran."""
        for division in Division:
            if rows := [result for result in self._of(division) if result.throughput]:
                counts = self._concurrency(division)
                panels = [f"{count} concurrent, tokens/s" for count in counts]
                drawn = [
                    bars.Bar(
                        result.contestant.name,
                        [result.speed(count) for count in counts],
                        result.contestant.ours,
                    )
                    for result in rows
                ]
                path = folder / f"rivals-{division.name.lower()}.svg"
                path.write_text(bars.svg(division.value, panels, drawn), encoding="utf-8")

    def _concurrency(self, division: Division) -> Sequence[int]:
        """Those that anyone of the division was measured with."""
        measured = {count for result in self._of(division) for count in result.throughput}
        return [count for count in self._plan.concurrency if count in measured]

    def _is_judged(self, result: Result) -> bool:
        return len(result.answers) == len(self._exam.chats)

    def _of(self, division: Division) -> Sequence[Result]:
        return [result for result in self._results if result.contestant.division is division]

    def _row(self, result: Result, counts: Sequence[int]) -> Sequence[str]:
        quality, ttft = self.quality(result), median(result.ttft)
        return (
            result.contestant.name,
            result.contestant.precision,
            *(_cell(result.speed(count), ".0f") for count in counts),
            _cell(None if ttft is None else 1000 * ttft, ".0f"),
            _cell(median(result.long_decode), ".0f"),
            _cell(quality.nll_cost, ".4f"),
            _cell(quality.same_answers, "d"),
            _cell(result.peak_bytes / 1e6 if result.peak_bytes else None, ".0f"),
        )

    def _entry(self, result: Result) -> dict[str, Any]:
        entry = dataclasses.asdict(result)
        entry["contestant"]["division"] = result.contestant.division.value
        return entry | dataclasses.asdict(self.quality(result))


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
