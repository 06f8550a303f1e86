"""The evidence of a choice: its figures as PNG, and the report, one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sweeps.events.recorders import History
from sweeps.final_model.outcome import Outcome
from sweeps.planning.plan import Plan
from sweeps.report import heatmap
from sweeps.report.arms_plot import arms
from sweeps.report.learning_curves import curves
from sweeps.report.ledger import Ledger, ledger
from sweeps.report.page import page
from sweeps.report.pareto_plot import pareto
from sweeps.report.spending_plot import spending
from sweeps.selection.choice import COSTS
from sweeps.selection.published_comparison import compared
from trainables.profiling.latency import device_name
from trainables.storage.files import write_text


def write_evidence(
    out: Path, plan: Plan, outcome: Outcome, history: History, record: Mapping[str, Any]
) -> list[Path]:
    """``report.html`` and ``figures/*.png`` in ``out``.

    Args:
        record: what spec.json says.

    Returns:
        The figures' files.
    """
    spent = ledger(plan, history, outcome.rows, plan.spec.run.price_per_hour)
    drawn = draw(plan, outcome, history, spent)
    files = []
    for name, figure in drawn.items():
        files.append(out / "figures" / f"{name}.png")
        heatmap.save(figure, files[-1])
    text = page(
        plan,
        outcome,
        spent,
        drawn,
        compared(plan.spec, outcome.rows),
        versions=record["versions"],
        command=" ".join(record["command"]),
        device=device_name(),
    )
    write_text(out / "report.html", text)
    return files


def draw(plan: Plan, outcome: Outcome, history: History, spent: Ledger) -> dict[str, Figure]:
    """The figures by name."""
    rows, chosen = outcome.rows, outcome.choice.row
    drawn = {
        "heatmap": heatmap.heatmap(rows, plan, chosen),
        "pareto": pareto(rows, COSTS, chosen, plan.spec.serving),
        "curves": curves(list(history.trunks.values()), chosen.trunk, plan.spec.rungs),
        "arms": arms(rows),
        "spending": spending(spent),
    }
    if plan.spec.trunks.epochs == 0:
        del drawn["curves"]  # nothing was learned
    return drawn
