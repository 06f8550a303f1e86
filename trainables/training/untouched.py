"""Put a net into the store as a trunk, as its weights come."""

from __future__ import annotations

from trainables.models import backbone, variants
from trainables.models.weights import stored_state
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors
from trainables.training.trunk import TrunkSpec, TrunkStatus


def write_untouched(spec: TrunkSpec, classes: int, store: Store) -> None:
    """Write the trunk of an untouched net, unless the store holds it.

    Its classifier is that of the weights where it is of as many classes, else zero: cells fit one.

    Args:
        classes: their number.

    Raises:
        DamagedFileError: the weights are damaged or missing.
    """
    assert spec.is_untouched
    folder = store.trunk(spec.key)
    if (folder / "result.json").exists():
        return
    state = stored_state(spec.weights, store)
    assert state is not None, "a random net is no point of a sweep"
    model = backbone.build(variants.get(spec.variant), classes)
    backbone.load_trunk(model, state)
    write_json(folder / "spec.json", spec)
    write_tensors(folder / "trunk.safetensors", model.state_dict())
    write_json(folder / "result.json", {"why": TrunkStatus.FINISHED, "reports": []})
