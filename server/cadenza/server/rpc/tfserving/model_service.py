"""tensorflow.serving.ModelService: where the versions of a model stand."""
# ruff: noqa: N802, ARG002  the names and the signatures are grpc's

from typing import Any, NoReturn

from cadenza.server.errors import ModelNotFoundError
from cadenza.server.models import ModelTable
from cadenza.server.rpc.intake import Context
from cadenza.server.rpc.tfserving.errors import NotServedError, VersionsNotFoundError
from cadenza.server.rpc.tfserving.messages import get_model_status_pb2
from cadenza.server.rpc.tfserving.model_spec import read_model_spec
from cadenza.server.versions import VersionStatus

_OK, _UNKNOWN = 0, 2
"""Of tensorflow.error.Code."""


class ModelServicer:
    """Answers from a table of models. Errors are raised as RequestError."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models

    async def GetModelStatus(self, request: Any, context: Context) -> Any:
        """The states of a version, or of all that are known of a model, the newest first."""
        spec = read_model_spec(request)
        version = spec.version.value if spec.HasField("version") else None
        statuses = [one for one in self._statuses(spec.name) if version in (None, one.version)]
        if not statuses:
            raise VersionsNotFoundError(spec.name, version)
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in reversed(statuses):
            _add(status, response)
        return response

    async def HandleReloadConfigRequest(self, request: Any, context: Context) -> NoReturn:
        """Is not served."""
        raise NotServedError(
            "HandleReloadConfigRequest is not served: put versions into the folder of --models, or take "
            "them out"
        )

    def _statuses(self, name: str) -> list[VersionStatus]:
        try:
            return self._models.statuses(name) if name else []
        except ModelNotFoundError:
            return []


def _add(status: VersionStatus, response: Any) -> None:
    one = response.model_version_status.add(version=status.version, state=int(status.state))
    one.status.error_code = _OK if status.error is None else _UNKNOWN
    one.status.error_message = status.error or ""
