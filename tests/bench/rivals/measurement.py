"""What a contestant does in its turns: the same prompts and lengths for all, other ones at every turn."""

import dataclasses
from collections.abc import Sequence
from typing import Final

from tests.bench.rivals.contestants import Contestant, Division
from tests.bench.rivals.driver import Completion, TokenIds
from tests.bench.rivals.figures import decode_throughput, throughput, time_to_first_token
from tests.bench.rivals.process import EngineProcess
from tests.bench.rivals.quality import ANSWER_TOKENS, Exam
from tests.bench.rivals.results import Plan, Result
from tests.bench.workload import CONCURRENCY, LONG_PROMPT_TOKENS, NEW_TOKENS, PROMPT_TOKENS, SEED, prompts

MAX_SEQUENCES: Final = max(CONCURRENCY)
LONG_SEQUENCES: Final = 8
LONG_NEW_TOKENS: Final = 48
MAX_CONTEXT: Final = 4352
"""Tokens of the longest sequence that any plan asks for. vLLM compiles anew for another one."""
_VOCABULARY: Final = 49_152
_WARM_UP_TOKENS: Final = 4
_WARM_UP: Final = 99
"""The warm-up's number among the rounds."""
_SECONDS: Final = 400.0
"""The longest that one task may take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """The turns of one plan. Every method adds to a result, and raises EngineError where the engine fails."""

    plan: Plan
    exam: Exam

    def kv_tokens(self, contestant: Contestant) -> int:
        """Tokens that its KV cache has to hold for all that is asked of it."""
        if contestant.long_context:
            return LONG_SEQUENCES * (self.plan.context + 4 * LONG_NEW_TOKENS)
        return 4 * MAX_SEQUENCES * (PROMPT_TOKENS + NEW_TOKENS)

    def warm_up(self, process: EngineProcess, contestant: Contestant) -> None:
        """Everything once that rounds do, shorter."""
        for count in self._concurrency(contestant):
            _complete(process, _prompts(_WARM_UP, count, PROMPT_TOKENS), _WARM_UP_TOKENS)
        _complete(process, _prompts(_WARM_UP, 1, LONG_PROMPT_TOKENS), 1)

    def round(self, number: int, process: EngineProcess, result: Result) -> None:
        """Throughput at each concurrency, and the time to the first token of a long prompt."""
        for count in self._concurrency(result.contestant):
            done = _complete(process, _prompts(number, count, PROMPT_TOKENS), self.plan.new_tokens)
            result.throughput.setdefault(count, []).append(throughput(done))
        done = _complete(process, _prompts(number, 1, LONG_PROMPT_TOKENS), 1)
        result.ttft.append(time_to_first_token(done))

    def fill(self, process: EngineProcess, result: Result) -> None:
        """Prefills long prompts, whose KV cache the engine keeps."""
        _complete(process, self._long_prompts(), 1)

    def long_decode(self, process: EngineProcess, result: Result) -> None:
        """Decode behind the long prompts, all at once, for they are there already."""
        done = _complete(process, self._long_prompts(), LONG_NEW_TOKENS)
        result.long_decode.append(decode_throughput(done))

    def judge(self, process: EngineProcess, result: Result) -> None:
        """Likelihood of the texts, and answers to the questions."""
        for name, token_ids in self.exam.texts.items():
            result.nll[name] = process.mean_nll(token_ids, timeout=_SECONDS)
        chats = self.exam.chats
        for begin in range(0, len(chats), MAX_SEQUENCES):
            done = _complete(process, chats[begin : begin + MAX_SEQUENCES], ANSWER_TOKENS)
            result.answers += [completion.token_ids for completion in done]

    def _concurrency(self, contestant: Contestant) -> Sequence[int]:
        return (1,) if contestant.division is Division.SPECULATING else self.plan.concurrency

    def _long_prompts(self) -> Sequence[TokenIds]:
        return _prompts(0, LONG_SEQUENCES, self.plan.context)


def _complete(process: EngineProcess, batch: Sequence[TokenIds], new_tokens: int) -> Sequence[Completion]:
    return process.complete(batch, new_tokens, timeout=_SECONDS)


def _prompts(round_number: int, count: int, length: int) -> Sequence[TokenIds]:
    """Never the same in two turns, so that no engine finds them in a cache."""
    return prompts(count, length, _VOCABULARY, seed=SEED + 1_000_000 * round_number + 100 * length + count)
