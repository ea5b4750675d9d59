"""Predict: what each signature answers, against outputs that a reader computes in the head."""

from typing import Any

import numpy as np
import tensorflow as tf
from tests.server.live import Live
from tests.server.scripted_runner import END
from tests.tfserving.client import ServingClient, predict_request, sampling

from cadenza.export.signatures import SIGNATURES

INPUTS = {
    "serving_default": {"prompt": ["a"]},
    "complete": {"prompt": ["a"], **sampling(1)},
    "tokenize": {"text": ["ab"]},
    "detokenize": {"token_ids": np.array([[97]], np.int32), "length": np.array([1], np.int32)},
    "score": {"text": ["ab"]},
}


async def test_serving_default_completes_greedily_by_the_manifests_length(client: ServingClient) -> None:
    found = await client.predict("serving_default", {"prompt": ["a", "xy"]})
    assert found["completion"].tolist() == [b"bcdef", b"z"]


async def test_no_signature_name_is_serving_default_and_the_response_says_what_answered(
    client: ServingClient,
) -> None:
    response = await client.prediction.Predict(predict_request("", {"prompt": ["m"]}))
    assert response.outputs["completion"].string_val == [b"nopqr"]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("tiny", 7, "serving_default")


async def test_complete_takes_each_rows_own_parameters(client: ServingClient) -> None:
    found = await client.predict("complete", {"prompt": ["a", "x", "k"], **sampling(3, max_tokens=[3, 9, 1])})
    assert found["completion"].tolist() == [b"bcd", b"yz", b"l"]
    assert found["token_ids"].tolist() == [[98, 99, 100], [121, 122, END], [108, 0, 0]]
    assert found["token_count"].tolist() == [3, 3, 1]
    assert found["finish_reason"].tolist() == [b"length", b"stop", b"length"]


async def test_sampling_parameters_reach_the_engine_row_by_row(client: ServingClient, live: Live) -> None:
    columns: dict[str, Any] = {
        "temperature": [0.5, 0],
        "top_k": [7, 0],
        "top_p": [0.25, 1],
        "seed": [-1, 2**62],
    }
    await client.predict("complete", {"prompt": ["a", "b"], **sampling(2, max_tokens=[1, 1], **columns)})
    found = {one.token_ids[0]: one.sampling for one in live.runner.slices}
    first, second = found[ord("a")], found[ord("b")]
    assert first is not None
    assert second is not None
    assert (first.temperature, first.top_k, first.top_p, first.seed) == (0.5, 7, 0.25, 2**64 - 1)
    assert (second.temperature, second.top_k, second.top_p, second.seed) == (0, 0, 1, 2**62)


async def test_tokenize_pads_behind_each_length(client: ServingClient) -> None:
    found = await client.predict("tokenize", {"text": ["ab", "", "<|end|>"]})
    assert found["token_ids"].tolist() == [[97, 98], [0, 0], [END, 0]]
    assert found["length"].tolist() == [2, 0, 1]


async def test_detokenize_reads_as_many_ids_as_each_length_says(client: ServingClient) -> None:
    token_ids = np.array([[97, 98, 255], [END, 999, 0], [999, 0, 0]], np.int32)
    found = await client.predict(
        "detokenize", {"token_ids": token_ids, "length": np.array([3, 1, 0], np.int32)}
    )
    assert found["text"].tolist() == ["ab\ufffd".encode(), b"<|end|>", b""]


async def test_score_gives_each_tokens_log_probability_after_a_zero_for_the_first(
    client: ServingClient,
) -> None:
    found = await client.predict("score", {"text": ["abc", "z"]})
    assert found["logprob"].tolist() == [[0, -98, -99], [0, 0, 0]]
    assert found["length"].tolist() == [3, 1]


async def test_bytes_that_are_no_utf_8_count_as_replacement_characters(client: ServingClient) -> None:
    found = await client.predict("tokenize", {"text": [b"a\xff"]})
    assert found["token_ids"].tolist() == [[97, 0xEF, 0xBF, 0xBD]]


async def test_outputs_have_the_names_types_and_dimensions_of_the_signatures(client: ServingClient) -> None:
    for name, inputs in INPUTS.items():
        response = await client.prediction.Predict(predict_request(name, inputs))
        found = {
            output: (tf.dtypes.as_dtype(proto.dtype), len(proto.tensor_shape.dim))
            for output, proto in response.outputs.items()
        }
        assert found == SIGNATURES[name].outputs


async def test_output_filter_chooses_among_the_outputs(client: ServingClient) -> None:
    inputs = {"prompt": ["a"], **sampling(1)}
    found = await client.predict("complete", inputs, outputs=["token_count", "completion"])
    assert {name: value.tolist() for name, value in found.items()} == {
        "token_count": [5],
        "completion": [b"bcdef"],
    }


async def test_a_batch_of_no_rows_has_an_answer_of_no_rows(client: ServingClient) -> None:
    nothing = np.array([], object)
    assert (await client.predict("serving_default", {"prompt": _strings([])}))["completion"].size == 0
    found = await client.predict("complete", {"prompt": _strings(nothing.tolist()), **sampling(0)})
    assert found["token_ids"].shape == (0, 0)


async def test_one_value_stands_for_a_whole_batch(client: ServingClient) -> None:
    prompt = tf.make_tensor_proto(["a"])
    prompt.tensor_shape.dim[0].size = 3
    found = await client.predict("serving_default", {"prompt": prompt})
    assert found["completion"].tolist() == [b"bcdef"] * 3


def _strings(values: list[bytes]) -> object:
    return tf.make_tensor_proto(values, tf.string, [len(values)])
