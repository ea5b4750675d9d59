"""The server has TensorFlow Serving's messages without TensorFlow, which can still be had beside them."""

import subprocess
import sys

import pytest

FIRST = "from cadenza.server.rpc.tfserving import messages"
LOADED = "loaded = [name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'keras')]"
USE = """
import numpy as np, tensorflow as tf
assert int(tf.constant(1) + 1) == 2
proto = tf.make_tensor_proto(np.array([1.5], np.float32))
assert type(proto) is messages.tensor_pb2.TensorProto
request = messages.predict_pb2.PredictRequest()
request.inputs["x"].CopyFrom(proto)
assert tf.make_ndarray(request.inputs["x"]).tolist() == [1.5]
print("used")
"""


def _run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys\n{program}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_messages_are_imported_without_tensorflow() -> None:
    assert _run(f"{FIRST}\n{LOADED}\nprint(loaded)") == "[]"


@pytest.mark.parametrize("program", [f"{FIRST}\n{USE}", f"import tensorflow\n{FIRST}\n{USE}"])
def test_tensorflow_works_whether_it_is_imported_before_or_after_the_messages(program: str) -> None:
    assert _run(program) == "used"
