"""A cell: its spec, its arms' results, and the files that the store holds of it.

cells/<key>/spec.json                       the spec
cells/<key>/rows.json                       results of all its arms; written last
cells/<key>/delta-<arm>.safetensors         the tensors that an arm changed
cells/<key>/predictions.arrow               val's labels, the class that each arm gives, and those
                                            that classifiers give which halves of val picked
cells/<key>/logits-<arm>.arrow              val's logits by an arm; see :mod:`.predictions`
cells/<key>/{train,val,train-mild-<n>}.arrow  the features that classifiers were trained on; of a
                                            set that is streamed, of train in shards:
                                            see :mod:`.streaming.feature_shards`
cells/<key>/kept.json                       what it took from other cells: see :mod:`.reuse`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainables.evaluation.metrics import Score
from trainables.fixres.cross_fit import val_halves
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.models import backbone, variants
from trainables.models.backbone import Net, State
from trainables.models.device import pick_device
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError, unless_damaged
from trainables.storage.files import Place, read_batch, read_record, read_tensors, write_batch
from trainables.storage.hashing import added_later, content_hash
from trainables.storage.typed import checked
from trainables.training.trunk import TrunkSpec
from trainables.transforms.eval_transform import EvalTransform

PREDICTIONS = "predictions.arrow"
STAGE = "cell 2"  # raise it when the same spec would give other results


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """All that a cell depends on; the trunk by its key."""

    trunk: str  # key
    transform: EvalTransform
    arms: tuple[str, ...]
    heads: HeadGrid
    views: int  # mildly augmented ones of each train image, for the arm "fix_aug"
    batch_size: int
    seed: int
    # Where ``transform`` is not at the crop ratio of the weights: 0.1.0 tested the arm none at that
    # ratio all the same, under keys that are to mean what they meant. Nothing else reads it.
    none_in_transform: bool = added_later(False)
    # Images of a split whose maps are kept at most. A larger split is streamed (:mod:`.streaming`):
    # its features are corrected, which differs by less than a GPU's rounding. None: any number.
    prefix: int | None = added_later(None)

    @property
    def test_res(self) -> int:
        """The test resolution, in pixels."""
        return self.transform.test_res

    @property
    def key(self) -> str:
        """The name of the cell in the store."""
        return content_hash(STAGE, self)


@dataclass(frozen=True, kw_only=True)
class RefitCell(CellSpec):
    """A cell of the one chosen arm, fitted again on train and val together, with its setting."""

    images: str  # digest of train and val in one; the trunk may be of other images
    setting: HeadSetting | None  # how the arm's classifier is fitted, where it has one


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm of a cell on one split."""

    arm: str
    score: Score
    seconds: float  # without the passes that an earlier arm had run already
    head: HeadSetting | None = None
    head_tried: int = 0  # (setting, epoch) pairs the head was picked from, on val
    crossfit: dict[str, float] | None = None  # by metric, shares: what halves of val picked, on the
    # other half; None: val picked nothing, or the result was kept before that was judged
    resize: str = ""  # what resized train, as fast_resize.Kernel; empty: Pillow, or it saw none


def cell_spec_from_json(value: Mapping[str, Any]) -> CellSpec:
    """Read the spec of a cell, no refit, from its JSON; raises anything for what is no spec."""
    heads: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in value["heads"].items()
    }
    nested = {
        "transform": checked(EvalTransform(**value["transform"])),
        "arms": tuple(value["arms"]),
        "heads": checked(HeadGrid(**heads)),
    }
    return checked(CellSpec(**{**value, **nested}))


def arm_result_from_json(value: Mapping[str, Any]) -> ArmResult:
    """Read a result from its JSON; raises anything for what is no result."""
    head = checked(HeadSetting(**value["head"])) if value["head"] else None
    nested = {"score": checked(Score(**value["score"])), "head": head}
    return checked(ArmResult(**{**value, **nested}))


def recorded_results(store: Store, key: str) -> list[ArmResult] | None:
    """Read a finished cell's results; None where it is not finished, or they are damaged."""

    def results_from_json(rows: list[dict[str, Any]]) -> list[ArmResult]:
        return [arm_result_from_json(row) for row in rows]

    path = store.cell(key) / "rows.json"
    return unless_damaged(lambda: read_record(path, results_from_json))


def recorded_spec(store: Store, key: str) -> CellSpec | None:
    """Read the spec of a cell, no refit; None where there is none of this key, or it is damaged."""
    path = store.cell(key) / "spec.json"

    def of_cell(value: dict[str, Any]) -> CellSpec | None:
        spec = None if "images" in value else cell_spec_from_json(value)  # a refit's has them
        return spec if spec is not None and spec.key == key else None

    return unless_damaged(lambda: read_record(path, of_cell))


def delta_path(store: Store, cell: str, arm: str) -> Place:
    """Give the path of the tensors that an arm changed; there is none where it changed none."""
    return store.cell(cell) / f"delta-{arm}.safetensors"


def read_delta(store: Store, cell: str, arm: str) -> State:
    """Read the tensors that an arm changed.

    Raises:
        DamagedFileError: they are damaged or missing.
    """
    path = delta_path(store, cell, arm)
    try:
        return read_tensors(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "it is missing") from None


def load_model(spec: TrunkSpec, state: State, classes: int) -> Net:
    """Build the trunk's net with these weights, in eval mode, on the device.

    Args:
        classes: their number.

    Raises:
        RuntimeError: the weights are not those of such a net.
    """
    model = backbone.build(variants.get(spec.variant), classes)
    model.load_state_dict(state)
    return backbone.to_device(model, pick_device()).eval()


def recorded_hits(store: Store, key: str, arm: str) -> np.ndarray:
    """Read which images of val count for an arm's rank: (n,) bool.

    They are those that the arm classifies correctly; where val picked its classifier, those that
    are right when cross-fitted (:mod:`.cross_fit`), unless the cell is of a former version.

    Raises:
        DamagedFileError: the cell's predictions are damaged or missing, or not of this arm.
    """
    labels, judged = judged_classes(store, key, arm)
    hits: np.ndarray = judged == labels
    return hits


def judged_classes(store: Store, key: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Read val's labels, and the classes that count for an arm's rank: (n,) int64 each.

    Raises:
        DamagedFileError: the cell's predictions are damaged or missing, or not of this arm.
    """
    batch = _read_predictions(store.cell(key) / PREDICTIONS, arm)
    column = crossfit_column(arm) if crossfit_column(arm) in batch.schema.names else arm
    return batch["label"].to_numpy(), batch[column].to_numpy()


def read_hits(path: Place, arm: str) -> np.ndarray:
    """Read which images an arm, as it is kept, classifies correctly: (n,) bool.

    Args:
        path: what :func:`write_predictions` wrote.

    Raises:
        DamagedFileError: it is damaged or missing, or not of this arm.
    """
    batch = _read_predictions(path, arm)
    hits: np.ndarray = batch[arm].to_numpy() == batch["label"].to_numpy()
    return hits


def _read_predictions(path: Place, arm: str) -> pa.RecordBatch:
    try:
        batch = read_batch(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "it is missing") from None
    if not {arm, "label"} <= set(batch.schema.names):
        raise DamagedFileError(path, f"it has no column {arm}")
    return batch


def crossfit_column(arm: str) -> str:
    """Name the column of the classes that picks of halves of val give."""
    return f"crossfit_{arm}"


def write_predictions(
    path: Place,
    labels: torch.Tensor,
    by_arm: Mapping[str, torch.Tensor],
    crossfit: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write an Arrow file: the label of each image, and the class that each arm gives it.

    Where val picked the classifiers of arms, it also has the half of val that each image is in
    (``val_half``, 0 or 1), and for each such arm the class that the pick of the other half gives
    (``crossfit_<arm>``).

    Args:
        labels: (n,) int64.
        by_arm: (n,) int64 each.
        crossfit: (n,) int64 each, of arms whose classifier val picked.
    """
    columns = {"label": pa.array(labels.numpy())}
    columns |= {arm: pa.array(predicted.numpy()) for arm, predicted in by_arm.items()}
    if crossfit:
        columns["val_half"] = pa.array(val_halves(labels).numpy())
        columns |= {crossfit_column(arm): pa.array(p.numpy()) for arm, p in crossfit.items()}
    write_batch(path, pa.record_batch(columns))
