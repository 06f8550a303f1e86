"""Write the finished model's folder: the model in every form that is served, card and picture.

The folder appears whole or not at all.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from sweeps.final_model.int8_net import Int8Net
from sweeps.final_model.mlflow_flavor import write_mlflow_model
from sweeps.final_model.outcome import ServedModel
from sweeps.final_model.served_latency import ServedLatency, measure_served
from sweeps.planning.plan import Plan
from trainables.export.candidates import VARIANT
from trainables.export.mirror_mark import MIRRORS
from trainables.export.openvino_format import OPENVINO_FILE, check_openvino, write_openvino
from trainables.export.portable_formats import check, trace, write_onnx, write_program
from trainables.export.timm_format import write_timm
from trainables.export.variant_graphs import graph_of
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import load_model
from trainables.machine import available_cores
from trainables.models import variants
from trainables.models.mirrored import MirrorAveraged
from trainables.profiling.onnx_latency import open_net
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.storage.replacing import replacing_folder
from trainables.transforms.eval_transform import EvalTransform


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What the exported files take, and the quantised one gives."""

    served_latency: ServedLatency
    int8: Int8Net | None


def write_model(
    folder: Path,
    plan: Plan,
    served_model: ServedModel,
    store: Store,
    *,
    card: Callable[[Exported], str],
    picture: Path,
    temperature: float | None = None,
    quantise: Callable[[Path], Int8Net] | None = None,
) -> Exported:
    """Write ``folder`` with the forms for timm, ONNX Runtime, plain PyTorch and MLflow, and a card.

    With ``--openvino`` that for OpenVINO is there too.

    Args:
        card: makes the model card, Markdown, from what the files take; it shows ``picture`` by
            its name.
        temperature: what the MLflow model divides logits by for its probabilities; None: nothing.
        quantise: writes the form in eight bits beside the ONNX file; None: it is not wanted.

    Raises:
        SweepError: a form does not give the logits that the net itself gives.
    """
    trunk = served_model.cell.trunk
    state = adapted_state(store, trunk.key, served_model.cell.key, served_model.arm)
    transform = served_model.cell.spec.transform
    net = load_model(trunk, state, len(plan.classes))
    mirrors = ARMS[served_model.arm].mirrors
    model: nn.Module = MirrorAveraged(net).eval() if mirrors else net
    with replacing_folder(folder) as new_folder:
        write_timm(
            new_folder,
            state,
            variant=trunk.variant,
            classes=plan.classes,
            train_res=trunk.train_res,
            transform=transform,
            temperature=temperature,
            mirrors=mirrors,
        )
        onnx, program = new_folder / "model.onnx", new_folder / "model.pt2"
        traced = trace(model, transform.test_res)
        graph = graph_of(model, trunk.variant, transform.test_res, traced)
        write_onnx(onnx, graph, _metadata(plan, trunk.variant, transform, mirrors=mirrors))
        write_program(program, traced)
        check(onnx, program, model, transform.test_res)
        if plan.spec.output.openvino:
            write_openvino(new_folder / OPENVINO_FILE, onnx)
            check_openvino(new_folder / OPENVINO_FILE, open_net(onnx, available_cores()).run)
        exported = Exported(
            served_latency=measure_served(onnx, plan.spec.latency),
            int8=quantise(onnx) if quantise else None,
        )
        (new_folder / picture.name).write_bytes(picture.read_bytes())
        write_text(new_folder / "README.md", card(exported))
        write_mlflow_model(
            new_folder,
            example=_example_image(),
            cache_side=plan.spec.images.cache_side,
            whites=plan.whites,
        )
    return exported


def _metadata(
    plan: Plan, variant: str, transform: EvalTransform, *, mirrors: bool
) -> dict[str, str]:
    """Collect what a user of the ONNX file must know beside its graph."""
    preprocessing = variants.preprocessing(variants.get(variant))
    return {
        VARIANT: variant,
        "labels": json.dumps(plan.classes),
        "mean": json.dumps(preprocessing.mean),
        "std": json.dumps(preprocessing.std),
        "crop_pct": str(transform.crop_pct),
        "interpolation": transform.interpolation,
    } | ({MIRRORS: "true"} if mirrors else {})


def _example_image() -> bytes:
    """Make a PNG of colour gradients; a user's own image must not be published in an example."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None, :], ramp[::-1, None]), axis=-1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
