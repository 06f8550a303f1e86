"""Hand over a choice: what it is worth on unseen images, and the model in every form that is
served, its card and its picture, in a folder that appears whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sweeps.execution import resources
from sweeps.final_model.held_out import score_held_out_sets
from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.final_model.outcome import Outcome, ServedModel
from sweeps.planning.plan import Plan
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from trainables.data.decode import Progress
from trainables.data.image_set import ImageSet
from trainables.data.view_cache import ViewCache
from trainables.export.portable_formats import check, write_onnx, write_program
from trainables.export.timm_format import write_timm
from trainables.fixres.adapted_net import adapted_state, serving_transform
from trainables.fixres.cell import load_model
from trainables.fixres.held_out_score import cells_tested_on
from trainables.models import variants
from trainables.storage.artifact_store import Store
from trainables.storage.files import replacing_folder, write_text
from trainables.training.trunk import read_trunk_spec
from trainables.transforms.eval_transform import EvalTransform


def score_choice(
    plan: Plan,
    choice: Choice,
    served: ServedModel,
    rows: Sequence[Row],
    images: ImageSet,
    store: Store,
    progress: Progress,
) -> Outcome:
    """Read the sets that nothing was chosen on for what is served; ``rows`` are those of val."""
    place = ViewCache(images=images, cache=plan.spec.cache, threads=resources.driver_threads())
    unseen, gains = score_held_out_sets(plan, served, store, place, progress)
    return Outcome(
        rows=[*rows, *unseen],
        choice=choice,
        gains=gains,
        refit=served.refit,
        test_cells=len(cells_tested_on(store, "test")),
    )


def write_model(
    folder: Path, plan: Plan, served: ServedModel, store: Store, *, card: str, picture: Path
) -> None:
    """Write ``folder``: for timm, ONNX Runtime, PyTorch alone, MLflow, and a reader.

    Args:
        card: Markdown, which shows ``picture`` by its name.

    Raises:
        SweepError: a form does not give the logits that the net itself gives.
    """
    trunk = read_trunk_spec(store, served.trunk)
    state = adapted_state(store, served.trunk, served.cell.key, served.arm)
    transform = serving_transform(trunk, served.cell, served.arm)
    model = load_model(trunk, state, len(plan.classes))
    with replacing_folder(folder) as fresh:
        write_timm(
            fresh,
            state,
            variant=trunk.variant,
            classes=plan.classes,
            train_res=trunk.train_res,
            transform=transform,
        )
        onnx, program = fresh / "model.onnx", fresh / "model.pt2"
        write_onnx(onnx, model, transform.test_res, _metadata(plan, trunk.variant, transform))
        write_program(program, model, transform.test_res)
        check(onnx, program, model, transform.test_res)
        (fresh / picture.name).write_bytes(picture.read_bytes())
        write_text(fresh / "README.md", card)
        write_mlflow_model(fresh, example=_example(), cache_side=plan.spec.images.cache_side)


def _metadata(plan: Plan, variant: str, transform: EvalTransform) -> dict[str, str]:
    """What an ONNX file's reader must know beside the graph."""
    preprocessing = variants.preprocessing(variants.get(variant))
    return {
        "labels": json.dumps(plan.classes),
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "crop_pct": str(transform.crop_pct),
        "interpolation": transform.interpolation,
    }


def _example() -> bytes:
    """An image that shows nothing: nobody's picture leaves the house in a model's example."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
