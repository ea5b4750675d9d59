"""What a server says of its models."""

from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.versions import VersionStatus
from cadenza.v1 import completion_pb2 as pb


def model_message(model: ServedModel, table: ModelTable) -> pb.Model:
    """What a version says of itself, and what the table knows of its siblings."""
    manifest = model.artifact.manifest
    labels = table.labels(model.name)
    return pb.Model(
        name=model.name,
        version=model.version,
        family=manifest.family,
        precision=model.precision,
        parameter_count=manifest.parameter_count,
        vocabulary_size=manifest.decoder.vocabulary_size,
        max_context=model.max_context,
        default_max_tokens=manifest.default_max_tokens or model.max_context,
        has_chat_template=model.chat_template is not None,
        eos_token_ids=manifest.tokenizer.eos_token_ids,
        versions=[_version_message(status, labels) for status in table.statuses(model.name)],
    )


def _version_message(status: VersionStatus, labels: dict[str, int]) -> pb.ModelVersion:
    return pb.ModelVersion(
        version=status.version,
        state=pb.ModelVersionState.ValueType(status.state),
        error=status.error or "",
        labels=sorted(label for label, version in labels.items() if version == status.version),
    )
