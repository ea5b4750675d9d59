"""Typed reading of a model's own settings (config.json, GGUF metadata), for the families.

What is absent, of the wrong type or out of bounds is refused by name.
"""

import math
from collections.abc import Iterator, Mapping

from cadenza.export.errors import UnsupportedModelError


class Settings(Mapping[str, object]):
    """Read-only settings; `origin` says in messages where they come from. None counts as absent."""

    def __init__(self, values: Mapping[str, object], origin: str) -> None:
        self._values = {name: value for name, value in values.items() if value is not None}
        self._origin = origin

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def refusal(self, name: str, allowed: str) -> UnsupportedModelError:
        """The error that names a setting, what it is and what it may be."""
        found = f"is {self._values[name]!r}" if name in self._values else "is missing"
        return UnsupportedModelError(f"{self._origin}: {name} {found}; it must be {allowed}")

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int) -> int:
        """A whole number from low to high.

        Raises:
            UnsupportedModelError: it is absent without a default, no integer, or out of bounds.
        """
        value = self._values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.refusal(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A finite positive number.

        Raises:
            UnsupportedModelError: it is absent without a default, no number, not finite or not positive.
        """
        value = self._values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refusal(name, "a positive number")
        if not math.isfinite(value) or value <= 0:
            raise self.refusal(name, "a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false.

        Raises:
            UnsupportedModelError: it is something else.
        """
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise self.refusal(name, "true or false")
        return value

    def section(self, name: str) -> "Settings":
        """The settings nested under a name; empty where there are none.

        Raises:
            UnsupportedModelError: it is no mapping.
        """
        value = self._values.get(name, {})
        if not isinstance(value, Mapping):
            raise self.refusal(name, "a mapping")
        return Settings(value, f"{self._origin}: {name}")

    def require(self, name: str, *allowed: object) -> None:
        """Refuses a setting that is there and has none of the allowed values.

        Raises:
            UnsupportedModelError: it has another value.
        """
        if name in self._values and self._values[name] not in allowed:
            raise self.refusal(name, " or ".join(repr(value) for value in allowed) + ", or absent")
