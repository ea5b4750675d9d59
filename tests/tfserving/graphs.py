"""saved_model.pb with the signatures of real artifacts and nothing behind them."""

from pathlib import Path
from typing import Any

from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tests.server.artifacts import write_artifact, write_sums

from cadenza.export.signatures import SIGNATURES, Tensors


def write_served_artifact(root: Path) -> Path:
    """The small artifact of the server's tests, with signatures."""
    write_artifact(root)
    (root / "saved_model.pb").write_bytes(saved_model().SerializeToString())
    write_sums(root)
    return root


def saved_model() -> Any:
    """A SavedModel of one graph for serving, without nodes."""
    model = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    graph = model.meta_graphs.add()
    graph.meta_info_def.tags.append("serve")
    for name, signature in SIGNATURES.items():
        graph.signature_def[name].CopyFrom(
            meta_graph_pb2.SignatureDef(
                inputs=_tensors(name, signature.inputs),
                outputs=_tensors("StatefulPartitionedCall", signature.outputs),
                method_name="tensorflow/serving/predict",
            )
        )
    return model


def _tensors(prefix: str, tensors: Tensors) -> dict[str, Any]:
    infos = {}
    for name, (dtype, rank) in tensors.items():
        info = meta_graph_pb2.TensorInfo(name=f"{prefix}_{name}:0", dtype=dtype.as_datatype_enum)
        for _ in range(rank):
            info.tensor_shape.dim.add(size=-1)
        infos[name] = info
    return infos
