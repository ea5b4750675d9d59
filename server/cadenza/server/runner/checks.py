"""What every runner refuses before it computes anything: slices that no model could answer."""

from collections.abc import Sequence

from cadenza.server.runner.base import MOST_ALTERNATIVES, SequenceSlice


def check_alternatives(count: int) -> int:
    """The number itself. Raises ValueError where it is out of range."""
    if not 0 <= count <= MOST_ALTERNATIVES:
        raise ValueError(f"{count} alternatives were asked for; from 0 to {MOST_ALTERNATIVES} can be had")
    return count


def check_token_ids(what: str, token_ids: Sequence[int], vocabulary: int) -> None:
    """Raises ValueError where one is not of the vocabulary; `what` says whose they are."""
    if not 0 <= min(token_ids) <= max(token_ids) < vocabulary:
        raise ValueError(
            f"{what} of tokens {min(token_ids)} to {max(token_ids)}: token ids lie in 0..{vocabulary - 1}"
        )


def check_biases(pairs: Sequence[tuple[int, float]], vocabulary: int) -> None:
    """Raises ValueError where a token is not of the vocabulary, or named twice."""
    token_ids = [token_id for token_id, _ in pairs]
    check_token_ids("biases", token_ids, vocabulary)
    if len(set(token_ids)) < len(token_ids):
        raise ValueError("a token has more than one bias")


def check_history(part: SequenceSlice) -> int:
    """How long the slice's history is. Raises ValueError where it is not whole."""
    length = part.start + len(part.token_ids)
    if len(part.history) != length:
        raise ValueError(f"penalties need all {length} tokens up to the last; given: {len(part.history)}")
    return length
