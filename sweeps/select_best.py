#!/usr/bin/env python3
"""Choose from what a sweep has found, by other limits, without training anything.

    python sweeps/select_best.py --sweep OUT --max-gmacs 1.0 --max-latency-ms 12
    python sweeps/select_best.py --sweep OUT --max-gmacs 0.1 --write small-model
    python sweeps/select_best.py --sweep OUT --export-candidates DIR
    python sweeps/select_best.py --sweep OUT --latency latency.json --max-latency-ms 12

Reads the leaderboard of a finished or a running sweep, from its folder, an object store or MLflow.
Changes nothing in it but for latencies that were not measured on this device yet and, with --write,
the record of what was read of the test split. An installed package brings it as ``fixres-select``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

if not __package__:  # run as a script: its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from sweeps.planning.checks.validation import check_latency, check_serving
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.planning.options.words import option
from sweeps.planning.spec import with_options
from trainables.errors import UserError, exit_code
from trainables.evaluation.class_metrics import Metric
from trainables.storage.full_disk import full_disk_told


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """Choose from what a sweep has found, by other limits, without training anything."""

    sweep: str
    """A sweep's folder; its place in an object store (s3://...); runs:/ID of it in MLflow."""
    tracking_uri: str | None = None
    """MLflow, for runs:/ID, which needs it or MLFLOW_TRACKING_URI."""
    metric: Metric | None = None
    """What val decides by: top1, balanced_accuracy or macro_f1. Left out: what the sweep did by."""
    latency: tuple[Path, ...] | None = None
    """File of fixres-latency: choose by it. Without one: measure here, as --max-latency-ms does."""
    export_candidates: Path | None = None
    """Write an ONNX file of each net, with random weights, into this folder, for fixres-latency."""
    write: Path | None = None
    """Write the chosen model into this folder; reads the test split for it."""
    serving: ServingOptions = field(default_factory=ServingOptions)
    measuring: LatencyOptions = field(default_factory=LatencyOptions)


def main(argv: list[str], prog: str = "select_best.py") -> int:
    """Choose and print; return the exit code: 0 done, 1 a fault of ours, 2 bad input."""
    return exit_code(lambda: _tell_or_say_why(argv, prog), with_options)


def _tell_or_say_why(argv: list[str], prog: str) -> None:
    asked = tyro.cli(
        SelectOptions,
        args=argv,
        prog=prog,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    with full_disk_told(asked.write):
        _tell(asked)


def _check_tracking(asked: SelectOptions) -> None:
    """Check that it is known which MLflow has the sweep: MLflow itself would make up a new one.

    Raises:
        UserError: it is not.
    """
    given = asked.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if asked.sweep.startswith("runs:/") and not given:
        raise UserError(
            f"--sweep {asked.sweep} is a run in MLflow, and it is not said in which: give "
            "--tracking-uri (http://HOST:PORT, or sqlite:////OUT/mlflow.db for that in a sweep's "
            "folder) or set MLFLOW_TRACKING_URI."
        )


def _tell(asked: SelectOptions) -> None:
    check_serving(asked.serving)
    _check_tracking(asked)
    check_latency(asked.measuring)
    file = _latency_file(asked)
    # Imported after the check, so that bad options fail at once: these import torch.
    from sweeps.final_model.wording import optimism_in_words
    from sweeps.reselect import (
        check_new_folder,
        check_target,
        export_candidates,
        load_sweep,
        with_known_latencies,
        write_other_choice,
    )
    from sweeps.selection.choice import known_costs
    from sweeps.selection.from_store import choose_from_store
    from sweeps.terminal.console import PlainConsole, Terminal
    from sweeps.terminal.result_tables import pareto_table

    if asked.write is not None:
        check_target(asked.sweep, asked.write)
    if asked.export_candidates is not None:
        check_new_folder(asked.export_candidates)
    with load_sweep(asked.sweep, asked.tracking_uri) as found:
        console = PlainConsole(highlight=False)
        terminal = Terminal(console)
        if asked.export_candidates is not None:
            export_candidates(found, asked.export_candidates, terminal)
        measuring = asked.latency is not None or asked.serving.max_latency_ms is not None
        rows, latency = with_known_latencies(
            found, file, asked.measuring if measuring else None, terminal
        )
        metric = asked.metric or found.record.spec.evaluation.metric
        rows, choice = choose_from_store(rows, asked.serving, found.store, metric, latency)
        console.print(pareto_table(rows, known_costs(rows), choice.row, choice.metric))
        console.print(f"chosen   {choice.reason}", markup=False, soft_wrap=True)
        console.print(f"optimism {optimism_in_words(choice)}", markup=False, soft_wrap=True)
        if asked.write is not None:
            write_other_choice(
                found, rows, choice, asked.serving, latency, asked.measuring, asked.write, terminal
            )


def _latency_file(asked: SelectOptions) -> Path | None:
    """Return the file of latencies; None: there is none.

    Raises:
        UserError: there are several, or options for measuring beside it.
    """
    if not asked.latency:
        return None
    if len(asked.latency) > 1:
        raise UserError(f"--latency {' '.join(map(str, asked.latency))}: give one file.")
    for name, value in vars(asked.measuring).items():
        if value != getattr(LatencyOptions(), name):
            raise UserError(
                f"{option(name)} {value} says how to measure here, and --latency "
                f"{asked.latency[0]} was measured before: leave one of them out."
            )
    return asked.latency[0]


def console_main() -> int:
    """Run the installed command ``fixres-select``."""
    return main(sys.argv[1:], prog="fixres-select")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
