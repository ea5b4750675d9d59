"""Figures of completions, by formulas that are the same for every engine."""

from collections.abc import Sequence

from tests.bench.rivals.driver import Completion


def throughput(completions: Sequence[Completion]) -> float:
    """Tokens per second of all together: tokens / the time of the last one."""
    tokens = sum(len(completion.times) for completion in completions)
    return tokens / max(completion.times[-1] for completion in completions)


def time_to_first_token(completions: Sequence[Completion]) -> float:
    """Seconds until the first token of any."""
    return min(completion.times[0] for completion in completions)


def decode_throughput(completions: Sequence[Completion]) -> float:
    """Tokens per second while all sequences decode and none has to be begun or has ended.

    The window is from the last of the first tokens to the first of the last ones; the figure is the tokens in
    it / its length. Raises ValueError where there is no such time.
    """
    begin = max(completion.times[0] for completion in completions)
    end = min(completion.times[-1] for completion in completions)
    if end <= begin:
        raise ValueError("a sequence had ended before all had begun: there is no window to measure")
    tokens = sum(begin < at <= end for completion in completions for at in completion.times)
    return tokens / (end - begin)


def same_answer(expected: Sequence[int], found: Sequence[int], end_tokens: Sequence[int]) -> bool:
    """Whether two greedy continuations are equal as far as the expected one's end token, if it has one."""
    ends = [index for index, token in enumerate(expected) if token in end_tokens]
    length = ends[0] + 1 if ends else len(expected)
    return list(expected[:length]) == list(found[:length])
