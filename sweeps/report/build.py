"""Write the evidence of a choice: tables, figures as PNG, and the report, one HTML file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure

from sweeps.events.recorders import History
from sweeps.final_model.class_results import write_class_results
from sweeps.final_model.outcome import Outcome
from sweeps.final_model.wording import latency_conditions_in_words
from sweeps.output.sweep_record import SweepRecord
from sweeps.planning.options.prices import prices_of
from sweeps.planning.plan import Plan
from sweeps.planning.serving.costs import SERVING_COSTS
from sweeps.report import heatmap
from sweeps.report.arms_plot import plot_arms
from sweeps.report.chosen_net.confusion_plot import plot_confusions
from sweeps.report.chosen_net.reliability_plot import plot_reliability
from sweeps.report.learning_curves import plot_learning_curves
from sweeps.report.ledger import Ledger, build_ledger
from sweeps.report.page import render_page
from sweeps.report.pareto_plot import plot_pareto_fronts
from sweeps.report.spending_plot import plot_spending
from sweeps.selection.published_comparison import comparisons_of_recipe
from trainables.storage.files import write_text


def write_evidence(
    out: Path, plan: Plan, outcome: Outcome, history: History, record: SweepRecord
) -> list[Path]:
    """Write ``report.html``, ``figures/*.png`` and the files of classes into ``out``.

    Args:
        record: supplies package versions and the command.

    Returns:
        The figures' files, the heat map first.
    """
    if outcome.predictions:
        write_class_results(out, outcome.predictions, plan.classes)
    price = _price(plan, history)
    ledger = build_ledger(plan, history, outcome.rows, outcome.read_s, outcome.refit_s, price)
    figures = draw_figures(plan, outcome, history, ledger)
    files = []
    for name, figure in figures.items():
        files.append(out / "figures" / f"{name}.png")
        heatmap.save_png(figure, files[-1])
    page = render_page(
        plan,
        outcome,
        ledger,
        figures,
        comparisons_of_recipe(plan.spec, outcome.rows, outcome.choice.row),
        versions=record.versions,
        command=" ".join(record.last_command),
        latency=latency_conditions_in_words(outcome.latency),
    )
    write_text(out / "report.html", page)
    return files


def _price(plan: Plan, history: History) -> float | None:
    """Find the price of the device that most trunks were trained on; None: it has none."""
    devices = Counter(r.device for trunk in history.trunks.values() for r in trunk.reports)
    prices = prices_of(plan.spec.budget.price_per_hour)
    return prices.of(devices.most_common(1)[0][0] if devices else "")


def draw_figures(
    plan: Plan, outcome: Outcome, history: History, ledger: Ledger
) -> dict[str, Figure]:
    """Draw the figures, by name, as far as there is something to draw."""
    rows, chosen, metric = outcome.rows, outcome.choice.row, outcome.choice.metric
    costs = [cost.field for cost in SERVING_COSTS]
    figures = {
        "heatmap": heatmap.plot_heatmaps(rows, plan, chosen, metric),
        "pareto": plot_pareto_fronts(rows, costs, chosen, plan.spec.serving, metric),
    }
    if history.trunks and plan.spec.trunks.epochs > 0:
        trunks = list(history.trunks.values())
        ends = {plan.spec.trunks.epochs, *(t.trunk.recipe.epochs for t in trunks)}
        rungs = sorted({rung for end in ends for rung in plan.rungs_to(end)})
        figures["curves"] = plot_learning_curves(trunks, chosen.trunk, rungs, metric)
    figures |= {"arms": plot_arms(rows, metric), "spending": plot_spending(ledger)}
    if outcome.predictions:
        figures["confusions"] = plot_confusions(outcome.predictions, plan.classes)
    if outcome.calibration is not None:
        figures["reliability"] = plot_reliability(outcome.predictions, outcome.temperature)
    return figures
