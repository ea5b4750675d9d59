"""Keeps what is served equal to what is wanted: loads versions, swaps them in, unloads what they replace.

All of it belongs to the loop and happens one version at a time; only the loading itself runs in a thread. A
version that replaces another is loaded beside it, takes the requests from one moment on, and the other
finishes those it has before its memory is given back.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog

from cadenza.server.errors import ArtifactError, MemoryShortError, StartupError
from cadenza.server.freeing import free_unused_memory
from cadenza.server.metrics import Metrics
from cadenza.server.model_factory import LoadedModel, ModelFactory
from cadenza.server.models import ModelTable, ServedModel
from cadenza.server.repository import ModelVersion
from cadenza.server.sources import ModelSource
from cadenza.server.versions import VersionState

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class VersionManager:
    """Loads and unloads the versions of a table as their source wants it."""

    def __init__(
        self,
        source: ModelSource,
        factory: ModelFactory,
        table: ModelTable,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        poll_seconds: float,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """`poll_seconds` 0 looks only when `look_now` is called. `on_change` is awaited after every round."""
        self._source = source
        self._factory = factory
        self._table = table
        self._metrics = metrics
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._asked = asyncio.Event()
        self._askers: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._unloading: dict[tuple[str, int], asyncio.Task[None]] = {}
        """By name and version."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="versions")
        """One for all that takes time: what a thread frees, its own next allocations use again."""
        self._stopped = False
        self.is_loading = False
        """A thread is loading a version; nothing can interrupt it."""

    async def find(self) -> None:
        """The first look: expects the models that are there.

        Raises ArtifactError where there is none and nobody would look again.
        """
        wanted = await self._in_thread(self._source.wanted, {}, settled=False)
        if not any(wanted.values()) and not self._poll_seconds:
            raise ArtifactError("no version of a model is there to be served: export one to NAME/VERSION")
        for version in _all(wanted):
            self._expect(version)

    async def load(self) -> None:
        """Serves every model that is there, waiting for a first one where there is none.

        Raises StartupError where a model is there and none of its versions can be loaded.
        """
        await self._round(settled=False)
        if not self._table.names():
            _log.warning("no_models_yet", poll_seconds=self._poll_seconds)
        while not self._table.names():
            askers = await self._wait()
            await self._round(settled=False)
            self._answer(askers)
        failed = [name for name in self._table.names() if not self._table.served(name)]
        if failed:
            raise StartupError("; ".join(map(self._why_not, failed)))
        await self._in_thread(free_unused_memory)

    def start(self) -> None:
        """Begins to look for changes."""
        self._task = asyncio.create_task(self._keep_up())

    def look_now(self) -> asyncio.Future[None]:
        """Looks at once, and gives versions that could not be loaded another try.

        The future is done when what was found is served or refused; requests may still be finished elsewhere.
        """
        asker = asyncio.get_running_loop().create_future()
        if self._stopped:
            asker.cancel()
        else:
            self._askers.append(asker)
            self._asked.set()
        return asker

    async def stop(self) -> None:
        """Looks no more. Versions that finish their requests go on doing so."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        for asker in self._askers:
            asker.cancel()
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, functools.partial(work, *args, **kwargs))

    async def _keep_up(self) -> None:
        problem = ""
        while True:
            askers = await self._wait()
            if askers:
                self._source.forgive()
            try:
                await self._round(settled=not askers)
                problem = ""
            except ArtifactError as error:
                if str(error) != problem:
                    _log.error("models_not_found", error=str(error))
                problem = str(error)
            except Exception as error:  # noqa: BLE001 what is served goes on being served
                _log.exception("looking_for_models_failed", exc_info=error)
            for name in self._table.names():
                self._table.forget(name)
            self._answer(askers)

    def _answer(self, askers: list[asyncio.Future[None]]) -> None:
        for asker in askers:
            self._askers.remove(asker)
            if not asker.done():
                asker.set_result(None)

    async def _wait(self) -> list[asyncio.Future[None]]:
        """For the next look; returns those who asked for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds or None):
                await self._asked.wait()
        self._asked.clear()
        return list(self._askers)

    async def _round(self, *, settled: bool) -> None:
        """Loads what is wanted and not served, then unloads what is served and not wanted.

        Where a version cannot be loaded, the source may want an older one in its place.
        """
        while True:
            served = {name: self._table.served(name).keys() for name in self._table.names()}
            wanted = await self._in_thread(self._source.wanted, served, settled=settled)
            missing = [one for one in _all(wanted) if one.version not in served.get(one.name, ())]
            for version in missing:
                self._expect(version)
            if all([await self._load(version) for version in missing]):
                break
        for name in self._table.names():
            self._retire_unwanted(name, wanted.get(name))
        await self._on_change()

    def _expect(self, version: ModelVersion) -> None:
        self._table.expect(version.name)
        self._table.note(version.name, version.version, VersionState.START)

    async def _load(self, version: ModelVersion) -> bool:
        """Returns whether the version is served now; if not, everything else is as it was."""
        begin = self._clock()
        try:
            self._serve(await self._load_when_it_fits(version))
        except Exception as error:  # noqa: BLE001 whatever a version does, the others are served
            self._refuse(version, error)
            return False
        seconds = round(self._clock() - begin, 3)
        _log.info("version_available", model=version.name, version=version.version, seconds=seconds)
        return True

    async def _load_when_it_fits(self, version: ModelVersion) -> LoadedModel:
        """Waits for versions that are being unloaded: for this one, and where memory is short for any."""
        if unloading := self._unloading.get((version.name, version.version)):
            await asyncio.wait((unloading,))
        while True:
            self._table.note(version.name, version.version, VersionState.LOADING)
            try:
                return await self._in_thread(self._load_in_thread, version)
            except MemoryShortError as error:
                if not self._unloading:
                    raise
                _log.info("version_waits", model=version.name, version=version.version, why=str(error))
            self._table.note(version.name, version.version, VersionState.START)
            await asyncio.wait(self._unloading.values(), return_when=asyncio.FIRST_COMPLETED)

    def _load_in_thread(self, version: ModelVersion) -> LoadedModel:
        self.is_loading = True
        try:
            loaded = self._factory.load(version)
            if self._stopped:
                loaded.close()
            return loaded
        finally:
            self.is_loading = False

    def _serve(self, loaded: LoadedModel) -> None:
        model = self._factory.serve(loaded)
        self._table.serve(model)
        self._metrics.version_serves(model.name, model.version, model.info, memory_bytes=model.memory_bytes)
        self._metrics.loads.labels(model.name, "loaded").inc()

    def _refuse(self, version: ModelVersion, error: Exception) -> None:
        self._source.refuse(version)
        self._table.note(version.name, version.version, VersionState.END, str(error) or repr(error))
        result = "no_memory" if isinstance(error, MemoryShortError) else "failed"
        self._metrics.loads.labels(version.name, result).inc()
        trace = None if isinstance(error, StartupError) else error
        serving = sorted(self._table.served(version.name))
        _log.error(
            "version_refused",
            model=version.name,
            version=version.version,
            error=str(error) or repr(error),
            serving=serving,
            exc_info=trace,
        )

    def _why_not(self, name: str) -> str:
        errors = [status.error for status in self._table.statuses(name) if status.error]
        return "; ".join(errors) or f"the folder of model {name} went away while it was loaded"

    def _retire_unwanted(self, name: str, wanted: list[ModelVersion] | None) -> None:
        """What is served stays where nothing can take its place, unless the whole model is gone (None)."""
        if wanted == []:
            return
        keep = {version.version for version in wanted or ()}
        for number, model in self._table.served(name).items():
            if number not in keep:
                self._retire(model)
        if wanted is None:
            self._table.forget(name)

    def _retire(self, model: ServedModel) -> None:
        self._table.retire(model)
        _log.info("version_unloading", model=model.name, version=model.version)
        key = model.name, model.version
        self._unloading[key] = asyncio.create_task(self._unload(model))
        self._unloading[key].add_done_callback(lambda _: self._unloading.pop(key))

    async def _unload(self, model: ServedModel) -> None:
        """Lets the version finish, for as long as its requests take: their length is bounded."""
        name, version, begin = model.name, model.version, self._clock()
        await model.dispatcher.drain(math.inf)
        self._table.drop(model)
        self._metrics.version_ended(name, version)
        if not any(other.name == name for other in self._table.loaded()):
            self._metrics.model_ended(name)
        del model
        if not self._stopped:
            await self._in_thread(free_unused_memory)
        self._table.note(name, version, VersionState.END)
        _log.info("version_ended", model=name, version=version, seconds=round(self._clock() - begin, 3))


def _all(wanted: Mapping[str, list[ModelVersion]]) -> list[ModelVersion]:
    return [version for versions in wanted.values() for version in versions]
