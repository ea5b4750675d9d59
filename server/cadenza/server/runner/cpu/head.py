"""What becomes of a row of logits, as a Numba kernel: a token is chosen, or a given one judged."""

from numba import njit

from cadenza.server.runner.base import NOT_FINITE
from cadenza.server.runner.cpu.logprobs import log_probabilities
from cadenza.server.runner.cpu.memory import NO_LOGPROB
from cadenza.server.runner.cpu.penalties import add_biases, penalise
from cadenza.server.runner.cpu.sampling import argmax, sample


@njit
def finish_row(step, lane, logits, index):
    """Writes what head row `index` asks of its logits into the step's results.

    logits: [V] float32, overwritten. A row costs what it asks for itself.
    """
    head = step.heads[index]
    best = argmax(logits)
    step.chosen[index] = best
    if best == NOT_FINITE:
        return
    if head.target >= 0:
        step.chosen[index] = head.target
        _tell_probabilities(step, head, index, logits, logits[best])
        return
    highest = logits[best]
    if head.alternatives != NO_LOGPROB:
        lane.raw_logits[:] = logits
    if head.bias_begin < head.bias_end or head.history_begin < head.history_end:
        _alter(step, lane, head, logits)
        best = argmax(logits)
    step.chosen[index] = sample(
        logits, best, head.temperature, head.top_k, head.top_p, head.min_p,
        head.seed, head.choice, step.positions[head.row] + 1, lane.order,
    )  # fmt: skip
    if head.alternatives != NO_LOGPROB and step.chosen[index] != NOT_FINITE:
        _tell_probabilities(step, head, index, lane.raw_logits, highest)


@njit
def _alter(step, lane, head, logits):
    biases = slice(head.bias_begin, head.bias_end)
    add_biases(logits, step.bias_ids[biases], step.bias_values[biases])
    penalise(
        logits, step.history[head.history_begin : head.history_end],
        head.completion_begin - head.history_begin, head.repetition_penalty, head.presence_penalty,
        head.frequency_penalty, lane.counts,
    )  # fmt: skip


@njit
def _tell_probabilities(step, head, index, logits, highest):
    step.logprobs[index] = log_probabilities(
        logits, highest, step.chosen[index], head.alternatives, step.alternative_ids[index],
        step.alternative_logprobs[index],
    )  # fmt: skip
