"""Write the model's folder together with its card, which says what the written model takes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sweeps.final_model.model_folder import write_model
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
) -> Outcome:
    """Write ``folder``, the heat map and the card in it.

    Args:
        versions: package versions by name.

    Returns:
        The outcome, with the latency of the exported file.

    Raises:
        SweepError: a form does not give the logits that the net itself gives.
    """
    with tempfile.TemporaryDirectory() as temporary:
        picture = Path(temporary) / "heatmap.png"
        choice = outcome.choice
        figure = heatmap.plot_heatmaps(outcome.rows, plan, choice.row, choice.metric)
        heatmap.save_png(figure, picture)
        served = write_model(
            folder,
            plan,
            served_model,
            store,
            card=lambda served: model_card(
                plan, replace(outcome, served_latency=served), versions, picture.name
            ),
            picture=picture,
            temperature=outcome.temperature,
        )
    return replace(outcome, served_latency=served)
