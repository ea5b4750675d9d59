"""Which version of a model a request's ModelSpec means."""

from typing import Any

from cadenza.server.errors import ModelLoadingError, ModelNotFoundError, Reason, VersionNotFoundError
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.rpc.tfserving.errors import ServableNotFoundError, invalid, missing


def read_model_spec(request: Any) -> Any:
    """The request's ModelSpec. Raises InvalidRequestError where it has none."""
    if not request.HasField("model_spec"):
        raise missing("model_spec", "Missing ModelSpec")
    return request.model_spec


def find_model(models: ModelTable, spec: Any) -> ServedModel:
    """The version that is meant by number, by label, or by neither: the newest.

    Raises ServableNotFoundError, or InvalidRequestError for no name and for a label that is not known.
    """
    if not spec.name:
        raise missing("model_spec.name", "ModelSpec has no name specified.")
    version = _version(models, spec)
    try:
        return models.resolve_version(spec.name, version, None)
    except (ModelNotFoundError, VersionNotFoundError, ModelLoadingError) as error:
        raise ServableNotFoundError(spec.name, version, error) from error


def _version(models: ModelTable, spec: Any) -> int | None:
    match spec.WhichOneof("version_choice"):
        case "version":
            number: int = spec.version.value
            return number
        case "version_label":
            labels = models.labels(spec.name)
            if spec.version_label not in labels:
                raise invalid(
                    "model_spec.version_label",
                    f"Unrecognized servable version label: {spec.version_label}",
                    Reason.VERSION_NOT_FOUND,
                )
            return labels[spec.version_label]
        case _:
            return None
