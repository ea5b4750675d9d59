"""From tokens to text that is safe to show.

A token is some bytes, not always whole characters, and a stop string may begin in one token and end in
another; what may still change is held back until it cannot.
"""

import codecs
from collections.abc import Sequence


class StopMatcher:
    """Looks for stop strings in text that arrives in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """Takes new text and returns what can be shown; sets `matched` when a stop string is complete.

        After a match the text before the stop string is returned, and nothing more ever is.
        """
        text = self._held + text
        starts = [start for stop in self._stops if (start := text.find(stop)) >= 0]
        if starts:
            self.matched = True
            self._held = ""
            return text[: min(starts)]
        safe = min((_possible_start(text, stop) for stop in self._stops), default=len(text))
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """Returns what was held back: no more text comes, so no stop string can complete."""
        held, self._held = self._held, ""
        return held


def _possible_start(text: str, stop: str) -> int:
    """The first index from which `text` is a proper beginning of `stop`; len(text) where there is none."""
    index = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while index >= 0:
        if stop.startswith(text[index:]):
            return index
        index = text.find(stop[0], index + 1)
    return len(text)


class TextAssembler:
    """The text of one completion, from token bytes, up to its first stop string."""

    def __init__(self, token_bytes: Sequence[bytes], stops: Sequence[str]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops) if stops else None

    @property
    def stopped(self) -> bool:
        """Whether a stop string is complete."""
        return self._matcher is not None and self._matcher.matched

    def append(self, token_id: int) -> str:
        """Takes the next token and returns the text that became safe to show."""
        return self._match(self._decoder.decode(self._token_bytes[token_id]))

    def flush(self) -> str:
        """Returns the rest: held-back text, and a replacement character for bytes that are no character."""
        if self.stopped:
            return ""
        text = self._match(self._decoder.decode(b"", final=True))
        if self._matcher is None or self._matcher.matched:
            return text
        return text + self._matcher.flush()

    def _match(self, text: str) -> str:
        return text if self._matcher is None else self._matcher.feed(text)
