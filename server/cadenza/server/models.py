"""The models that are served: what is loaded, under which name, and what is still to come."""

import dataclasses

from cadenza.server.chat import ChatTemplate
from cadenza.server.dispatch import Dispatcher
from cadenza.server.errors import InvalidRequestError, ModelLoadingError, ModelNotFoundError, Reason
from cadenza.server.repository import Artifact
from cadenza.server.tokenizer import Tokenizer

MAX_CHOICES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class ServedModel:
    """One loaded model: how its prompts become tokens, and the engine that completes them."""

    artifact: Artifact
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_context: int
    """Most tokens of prompt and completion together: the model's, or what the KV cache holds."""
    max_choices: int
    """Most choices of one request: 16, or fewer where the engine does not run so many sequences."""
    dispatcher: Dispatcher

    @property
    def name(self) -> str:
        """The name that requests give."""
        return self.artifact.name


class ModelTable:
    """Finds the model that a request means."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel | None] = {}

    def expect(self, name: str) -> None:
        """Announces a model that is being loaded."""
        self._models[name] = None

    def add(self, model: ServedModel) -> None:
        """Serves a loaded model from now on."""
        self._models[model.name] = model

    def loaded(self) -> list[ServedModel]:
        """The models that are loaded, by name."""
        return [model for _, model in sorted(self._models.items()) if model is not None]

    def resolve(self, name: str) -> ServedModel:
        """The model of that name; the only one where the name is empty.

        Raises ModelNotFoundError, ModelLoadingError, or InvalidRequestError for no name among several.
        """
        if not name and len(self._models) == 1:
            (name,) = self._models
        if not name:
            raise InvalidRequestError(
                Reason.MISSING_FIELD,
                "model",
                f"several models are served; name one of: {', '.join(sorted(self._models))}",
            )
        if name not in self._models:
            raise ModelNotFoundError(name, sorted(self._models))
        model = self._models[name]
        if model is None:
            raise ModelLoadingError(name)
        return model
