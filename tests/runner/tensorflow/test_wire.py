"""What travels between the server and a device's process arrives as it was, and nothing else arrives."""

import os
import pickle
from array import array

import pytest

from cadenza.server.engine.request import GREEDY, SamplingParams, TokenLogprob
from cadenza.server.errors import ArtifactError, StartupError
from cadenza.server.runner.base import BlockCopy, RunnerError, SequenceSlice, StepBatch, StepResult
from cadenza.server.runner.tensorflow.wire import Compiled, Found, Probe, Raised, pack, unpack

DRAWN = SamplingParams(temperature=0.7, top_k=5, seed=2**64 - 1, logit_bias=((3, -1.5),), logprobs=2)
TOKENS = array("i", [5, 6, 7])
MESSAGES = [
    StepBatch([]),
    StepBatch(
        [
            SequenceSlice(TOKENS, 32, array("i", [4, 2]), DRAWN, history=TOKENS, prompt_length=2),
            SequenceSlice([9], 0, (1,), GREEDY, targets=[1], target_alternatives=3),
        ],
        [BlockCopy(3, 1)],
    ),
    StepResult([5, -1], {0: [TokenLogprob(5, -0.25, ((5, -0.25), (9, -3.5)))]}),
    Probe("auto"),
    Found("gpu", 8, 80 << 30),
    Compiled(),
    Raised("ValueError", "no"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was(message: object) -> None:
    assert unpack(pack(message)) == message


@pytest.mark.parametrize("error", [ValueError("a"), RunnerError("b"), StartupError("c")])
def test_an_error_arrives_with_its_type_and_text(error: Exception) -> None:
    arrived = unpack(pack(Raised.of(error))).error()
    assert (type(arrived), str(arrived)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ArtifactError("x"), StartupError), (UnicodeError("x"), ValueError), (OSError("x"), RunnerError)],
)
def test_an_error_of_another_type_arrives_as_the_nearest(error: Exception, kind: type[Exception]) -> None:
    assert type(unpack(pack(Raised.of(error))).error()) is kind


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("content", [_Harm(), os.system, ValueError("a"), {1: range(3)}])
def test_what_names_any_other_type_is_refused(content: object) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is no type that travels"):
        unpack(pickle.dumps(content, 5))
