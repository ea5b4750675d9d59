"""The models that are served: which versions are loaded, under which names, and what is still to come."""

import dataclasses
from collections.abc import Mapping

from cadenza.server.chat import ChatTemplate
from cadenza.server.dispatch import Dispatcher
from cadenza.server.errors import (
    InvalidRequestError,
    ModelLoadingError,
    ModelNotFoundError,
    Reason,
    VersionNotFoundError,
)
from cadenza.server.repository import Artifact
from cadenza.server.tokenizer import Tokenizer
from cadenza.server.versions import VersionBook, VersionState, VersionStatus

MAX_CHOICES = 16
_LONGEST_VERSION = 18
"""Digits; a longer number is no int64."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedModel:
    """One loaded version: how its prompts become tokens, and the engine that completes them."""

    artifact: Artifact
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    max_context: int
    """Most tokens of prompt and completion together: the model's, or what the KV cache holds."""
    max_choices: int
    """Most choices of one request: 16, or fewer where the engine does not run so many sequences."""
    precision: str
    """Number format of the weights that the engine computes with: int8, float32 or bfloat16."""
    memory_bytes: int
    """Of the fullest device: weights, and the KV cache as large as it may become."""
    dispatcher: Dispatcher

    @property
    def name(self) -> str:
        """The name that requests give."""
        return self.artifact.name

    @property
    def version(self) -> int:
        """The version that requests may give."""
        return self.artifact.version

    @property
    def info(self) -> dict[str, str]:
        """What operators see of it, for cadenza_model_info."""
        return {"family": self.artifact.manifest.family, "precision": self.precision}


class ModelTable:
    """Finds the version of a model that a request means, and says where every version stands.

    A version that is found may be unloaded at any later time: whoever wants its engine enters the dispatcher
    before anything is awaited. From then on the request is finished whatever happens to the version.
    """

    def __init__(self, labels: Mapping[tuple[str, str], int] | None = None) -> None:
        """`labels` are versions by model name and label."""
        self._labels = dict(labels or {})
        self._models: dict[str, dict[int, ServedModel]] = {}
        """What takes requests, by name and version; a name without a version is still to come."""
        self._unloading: list[ServedModel] = []
        self._book = VersionBook()

    def expect(self, name: str) -> None:
        """Announces a model whose first version is being loaded."""
        self._models.setdefault(name, {})

    def note(self, name: str, version: int, state: VersionState, error: str | None = None) -> None:
        """Takes down where a version stands that takes no requests."""
        self._book.write(VersionStatus(name, version, state, error))

    def serve(self, model: ServedModel) -> None:
        """Requests go to the version from now on: those that name it, or none where it is the newest."""
        self._models.setdefault(model.name, {})[model.version] = model
        self.note(model.name, model.version, VersionState.AVAILABLE)

    def retire(self, model: ServedModel) -> None:
        """New requests go elsewhere from now on; the version finishes those it has."""
        del self._models[model.name][model.version]
        self._unloading.append(model)
        self.note(model.name, model.version, VersionState.UNLOADING)

    def drop(self, model: ServedModel) -> None:
        """A retired version has finished."""
        self._unloading.remove(model)

    def forget(self, name: str) -> None:
        """A model without versions is no longer expected."""
        if not self._models.get(name, True):
            del self._models[name]

    def served(self, name: str) -> dict[int, ServedModel]:
        """The versions of a model that take requests; none for a name that is not known."""
        return dict(self._models.get(name, {}))

    def names(self) -> list[str]:
        """The models that are served or expected, in order."""
        return sorted(self._models)

    def newest(self) -> list[ServedModel]:
        """Of every model the version that answers requests without one, by name."""
        return [versions[max(versions)] for _, versions in sorted(self._models.items()) if versions]

    def loaded(self) -> list[ServedModel]:
        """Every version that has an engine, those that only finish what they have too."""
        return [model for versions in self._models.values() for model in versions.values()] + self._unloading

    def labels(self, name: str) -> dict[str, int]:
        """The versions of a model by label, whether they are loaded or not."""
        return {label: version for (model, label), version in self._labels.items() if model == name}

    def statuses(self, name: str) -> list[VersionStatus]:
        """Where the versions of a model stand, in order; those that ended are remembered for a while.

        Raises ModelNotFoundError where nothing is known of the model.
        """
        name = name or self._only_name()
        statuses = self._book.statuses(name)
        if not statuses and name not in self._models:
            raise ModelNotFoundError(name, self.names())
        return statuses

    def resolve(self, name: str) -> ServedModel:
        """What MODEL, MODEL@VERSION or MODEL@LABEL means; MODEL may be empty where there is only one.

        Raises what `resolve_version` does.
        """
        model, at, which = name.partition("@")
        if not at:
            return self.resolve_version(model, None, None)
        if which.isascii() and which.isdecimal() and len(which) <= _LONGEST_VERSION:
            return self.resolve_version(model, int(which), None)
        return self.resolve_version(model, None, which)

    def resolve_version(self, name: str, version: int | None, label: str | None) -> ServedModel:
        """The version of a model by its number or its label (not both), the newest where both are None.

        Raises ModelNotFoundError, VersionNotFoundError, ModelLoadingError, or InvalidRequestError for no name
        among several.
        """
        name = name or self._only_name()
        if name not in self._models:
            raise ModelNotFoundError(name, self.names())
        if label is not None:
            version = self._labeled(name, label)
        versions = self._models[name]
        if version is None and versions:
            version = max(versions)
        if version in versions:
            return versions[version]
        if version is None or self._is_coming(name, version):
            raise ModelLoadingError(name if version is None else f"{name}@{version}")
        raise self._not_found(name, str(version))

    def _only_name(self) -> str:
        if len(self._models) > 1:
            raise InvalidRequestError(
                Reason.MISSING_FIELD,
                "model",
                f"several models are served; name one of: {', '.join(self.names())}",
            )
        if not self._models:
            raise ModelNotFoundError("", [])
        return next(iter(self._models))

    def _labeled(self, name: str, label: str) -> int:
        labels = self.labels(name)
        if label not in labels:
            raise self._not_found(name, label)
        return labels[label]

    def _is_coming(self, name: str, version: int) -> bool:
        status = self._book.status(name, version)
        return status is not None and status.state in (VersionState.START, VersionState.LOADING)

    def _not_found(self, name: str, which: str) -> VersionNotFoundError:
        return VersionNotFoundError(name, which, sorted(self._models[name]), sorted(self.labels(name)))
