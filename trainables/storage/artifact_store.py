"""Lay out a sweep's store: where each kind of result lies, by its key.

    weights/<variant>-<digest>.safetensors      pretrained weights as the sweep loaded them
    trunks/<key>/{spec,result}.json, state.pt, trunk.safetensors, work.jsonl,
                                                rung-<epoch>.arrow
    probes/<key>.safetensors                    a linear probe that trunks start from
    activations/<key>.json                      quantiles of a trunk's pooled activations
    cells/<key>/{spec,rows,kept}.json, delta-<arm>.safetensors,
                {train,val,predictions}.arrow, logits-<arm>.arrow
    latency/<key>.json                          a net's latency on a device
    readings/<key>.{json,arrow}                 one reading of the test split or an extra test set
    readings.jsonl                              every reading, in order
    journal.jsonl                               what the driver decided, in order
    forecast.json                               what the sweep was predicted to take, at its begin
    spending.jsonl                              what its commands have spent

In an object store each line of a .jsonl file is an object: <name>.lines/<number>.json.

A key is a digest of all that the result depends on: where it is there, it need not be made again.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Generic, cast

from typing_extensions import TypeVar

from trainables.errors import UserError
from trainables.storage.files import Place

P = TypeVar("P", bound=Place, covariant=True, default=Place)


@dataclasses.dataclass(frozen=True)
class Store(Generic[P]):
    """A sweep's store, in a folder or an object store that the driver and every worker reach."""

    root: P

    def _at(self, *names: str) -> P:
        path: Place = self.root
        for name in names:
            # Names come from files too, such as another's leaderboard: none may lead elsewhere.
            if not re.fullmatch(r"\w[\w. -]*", name):
                raise UserError(f"{name!r} is no key of a store: {self.root} is not read with it.")
            path = path / name
        return cast(P, path)

    @property
    def journal(self) -> P:
        """The file of the driver's decisions."""
        return self._at("journal.jsonl")

    @property
    def forecast(self) -> P:
        """The file of what the sweep was predicted to take when it began."""
        return self._at("forecast.json")

    @property
    def spending(self) -> P:
        """The file of what the commands of the sweep have spent."""
        return self._at("spending.jsonl")

    @property
    def readings(self) -> P:
        """The file that lists every reading of a held-out set."""
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
        """Locate the file of pretrained weights."""
        return self._at("weights", f"{name}.safetensors")

    def trunk(self, key: str) -> P:
        """Locate the folder of one trunk."""
        return self._at("trunks", key)

    def cell(self, key: str) -> P:
        """Locate the folder of one cell."""
        return self._at("cells", key)

    def probe(self, key: str) -> P:
        """Locate the file of a linear probe that trunks start from."""
        return self._at("probes", f"{key}.safetensors")

    def activations(self, key: str) -> P:
        """Locate the file of quantiles of a trunk's pooled activations."""
        return self._at("activations", f"{key}.json")

    def latency(self, key: str) -> P:
        """Locate the file of one measured latency."""
        return self._at("latency", f"{key}.json")

    @property
    def readings_folder(self) -> P:
        """The folder of all readings of held-out sets."""
        return self._at("readings")

    def reading(self, key: str) -> P:
        """Locate the file of one reading of a held-out set."""
        return self._at("readings", f"{key}.json")
