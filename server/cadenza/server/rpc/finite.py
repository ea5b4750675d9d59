"""Log-probabilities as JSON can hold them: it has no infinity."""

_LEAST = -9999.0


def finite(logprob: float) -> float:
    """The log-probability, or a very small one in place of minus infinity."""
    return max(logprob, _LEAST)
