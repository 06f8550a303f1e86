"""Tell the result of a finished sweep, and where its files are."""

from __future__ import annotations

from sweeps.final_model.outcome import Outcome
from sweeps.output.location import SweepLocation
from sweeps.planning.spec import SweepSpec
from sweeps.selection.published_comparison import comparisons_of_recipe
from sweeps.terminal.console import Terminal
from sweeps.terminal.result_tables import summary


def show_result(
    terminal: Terminal,
    location: SweepLocation,
    outcome: Outcome,
    spec: SweepSpec,
    ui_command: str | None,
) -> None:
    """Print the summary of a finished sweep, and the places of report, model and runs.

    Args:
        ui_command: starts MLflow's UI on the sweep's runs.
    """
    out = location.out
    compared = comparisons_of_recipe(spec, outcome.rows, outcome.choice.row)
    terminal.console.print(summary(outcome, compared, limits=spec.serving))
    if outcome.screen is not None:
        terminal.say(f"screen   {outcome.screen.in_words}")
    if outcome.early_end:
        terminal.say(f"early    {outcome.early_end}")
    if outcome.cascade:
        terminal.say(f"cascade  {outcome.cascade}")
    if outcome.budgeted is not None:
        terminal.say(f"budget   {outcome.budgeted.in_words}")
    terminal.say(f"report   {out / 'report.html'}")
    terminal.say(f"model    {out / 'model'}  (timm: local-dir:{out / 'model'})")
    if location.remote is not None:
        terminal.say(f"storage  {location.remote}  (the same, with the store)")
    terminal.say(f"runs     {ui_command}")
