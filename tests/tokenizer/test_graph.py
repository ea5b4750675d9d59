"""The tokenizer as a SavedModel: standard operations, any batch, TensorFlow alone, clear failures."""

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.python.framework import op_def_registry  # the list of operations that TensorFlow has
from tests.tokenizer import rules
from tests.tokenizer.graphs import family, pair

from cadenza.export.text.compile import compile_tokenizer
from cadenza.export.text.graph import GraphTokenizer

_LOAD_ALONE = """
import sys
sys.modules["cadenza"] = sys.modules["tokenizers"] = sys.modules["tensorflow_text"] = None
import tensorflow as tf
module = tf.saved_model.load(sys.argv[1])
print(module.round_trip(tf.constant(["Hello  e\\u0301t\\u00e9<|im_end|>", "", "it's 12"])).numpy().tolist())
"""


class Model(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.graph = GraphTokenizer(compile_tokenizer(rules.qwen2().to_str()), 50_300, None)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
    def round_trip(self, text: tf.Tensor) -> tf.Tensor:
        return self.graph.detokenize(self.graph.tokenize(text), special=True)


def test_saved_tokenizer_needs_tensorflow_alone(tmp_path: Path) -> None:
    tf.saved_model.save(Model(), str(tmp_path))
    command = [sys.executable, "-c", _LOAD_ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    assert done.stdout.decode().strip() == str(["Hello  été<|im_end|>".encode(), b"", b"it's 12"])


def test_graph_holds_operations_of_tensorflows_registry_only() -> None:
    model = Model()
    graph = model.round_trip.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    names = {node.op for node in nodes} - {function.signature.name for function in graph.library.function}
    assert len(names) > 30
    assert [name for name in names if op_def_registry.get(name) is None] == []
    assert [name for name in names if "PyFunc" in name] == []


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "strange_tokens"])
def test_empty_batches_and_empty_texts_have_no_ids(name: str) -> None:
    tested = family(name)
    assert tested.ids([]) == []
    assert tested.ids(["", ""]) == [[], []]
    assert tested.detokenize(tested.tokenize([]), True) == []
    assert tested.detokenize(tested.tokenize(["", "a"]), True) == ["", "a"]


def test_beginning_token_goes_before_every_text() -> None:
    tokenizer = rules.gpt2()
    tested = pair(tokenizer, bos=50_256)
    assert tested.ids(["hello", ""]) == [[50_256, *tokenizer.encode("hello").ids], [50_256]]
    assert tested.ids([]) == []


def test_ids_that_the_tokenizer_lacks_have_no_text_and_ids_out_of_range_fail() -> None:
    tested = family("gpt2")
    last = tested.vocabulary_size - 1
    assert tested.detokenize(tf.ragged.constant([[last, 39]], tf.int32, row_splits_dtype=tf.int64), True) == [
        "H"
    ]
    for wrong in (-1, last + 1):
        ids = tf.ragged.constant([[39, wrong]], tf.int32, row_splits_dtype=tf.int64)
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"token ids must be from 0 to {last}"):
            tested.detokenize(ids, True)
