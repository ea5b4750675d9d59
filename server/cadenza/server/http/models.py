"""GET /v1/models: what may be asked for."""

import time
from typing import Any

from cadenza.server.http.calls import Incoming
from cadenza.server.http.sending import Answer
from cadenza.server.models import ModelTable, ServedModel


class Models:
    """Lists the models of a table."""

    def __init__(self, models: ModelTable) -> None:
        self._models = models
        self._created = int(time.time())

    async def list(self, _incoming: Incoming, answer: Answer) -> None:
        """All models that are loaded, by name."""
        data = [self._model(model.name, model) for model in self._models.newest()]
        await answer.whole({"object": "list", "data": data})

    async def get(self, incoming: Incoming, answer: Answer) -> None:
        """One model, under the name it is asked for. Raises what `ModelTable.resolve` does."""
        name = incoming.path_params["model"]
        await answer.whole(self._model(name, self._models.resolve(name)))

    def _model(self, name: str, model: ServedModel) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "cadenza",
            "root": model.name,
            "version": model.version,
            "max_model_len": model.max_context,
        }
