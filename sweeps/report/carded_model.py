"""Write the model's folder together with its card, which says what the written model takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sweeps.final_model.int8_net import Int8Net
from sweeps.final_model.model_folder import Exported, write_model
from sweeps.final_model.outcome import Outcome, ServedModel
from sweeps.planning.plan import Plan
from sweeps.report import heatmap
from sweeps.report.model_card import model_card
from trainables.storage.artifact_store import Store


def write_carded_model(
    folder: Path,
    plan: Plan,
    outcome: Outcome,
    served_model: ServedModel,
    store: Store,
    versions: Mapping[str, str],
    quantise: Callable[[Path], Int8Net] | None = None,
) -> Outcome:
    """Write ``folder``, the heat map and the card in it.

    Args:
        versions: package versions by name.
        quantise: writes the form in eight bits beside the ONNX file; None: it is not wanted.

    Returns:
        The outcome, with what the exported files take.

    Raises:
        SweepError: a form does not give the logits that the net itself gives.
    """
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / "heatmap.png"
        choice = outcome.choice
        figure = heatmap.plot_heatmaps(outcome.rows, plan, choice.row, choice.metric)
        heatmap.save_png(figure, picture)

        def with_exported(exported: Exported) -> Outcome:
            return replace(outcome, served_latency=exported.served_latency, int8=exported.int8)

        exported = write_model(
            folder,
            plan,
            served_model,
            store,
            card=lambda exported: model_card(plan, with_exported(exported), versions, picture.name),
            picture=picture,
            temperature=outcome.temperature,
            quantise=quantise,
        )
    return with_exported(exported)
