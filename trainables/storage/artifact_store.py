"""The layout of a sweep's store: where trunks, cells and readings lie."""

from __future__ import annotations

import dataclasses
from typing import Generic, cast

from typing_extensions import TypeVar

from trainables.storage.files import Place

P = TypeVar("P", bound=Place, covariant=True, default=Place)


@dataclasses.dataclass(frozen=True)
class Store(Generic[P]):
    """Where things are kept: seen by the driver and by every worker."""

    root: P

    def _at(self, *names: str) -> P:
        place: Place = self.root
        for name in names:
            place = place / name
        return cast(P, place)

    @property
    def journal(self) -> P:
        return self._at("journal.jsonl")

    @property
    def readings(self) -> P:
        return self._at("readings.jsonl")

    @property
    def trunks(self) -> P:
        """The folder of all trunks."""
        return self._at("trunks")

    @property
    def cells(self) -> P:
        """The folder of all cells."""
        return self._at("cells")

    def weights(self, name: str) -> P:
        return self._at("weights", f"{name}.safetensors")

    def trunk(self, key: str) -> P:
        return self._at("trunks", key)

    def cell(self, key: str) -> P:
        return self._at("cells", key)

    def activations(self, key: str) -> P:
        return self._at("activations", f"{key}.json")

    def latency(self, key: str) -> P:
        return self._at("latency", f"{key}.json")

    def reading(self, key: str) -> P:
        return self._at("readings", f"{key}.json")
