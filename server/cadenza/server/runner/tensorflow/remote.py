"""The runner that the engine has: every step is done by the process of its device."""

from cadenza.server.runner.base import RunnerLimits, StepBatch, StepResult
from cadenza.server.runner.tensorflow.process import DeviceProcess
from cadenza.server.runner.tensorflow.wire import Warm


class RemoteRunner:
    """Implements runner.base.Runner in another process."""

    def __init__(self, process: DeviceProcess) -> None:
        """Waits until the process, which was told to load a model, is warm.

        Raises what it raises while it loads, and RunnerError where it ends.
        """
        self._process = process
        self._limits = process.wait(Warm).limits

    @property
    def limits(self) -> RunnerLimits:
        """What the runner can hold; constant."""
        return self._limits

    def step(self, batch: StepBatch) -> StepResult:
        """Runs one step. Raises ValueError for a batch that no model could answer.

        Raises RunnerError where the device cannot, or where its process has ended; then every step raises it.
        """
        return self._process.ask(batch, StepResult)

    def close(self) -> None:
        """Ends the process; all memory it had is free when this returns."""
        self._process.close()
