"""Write the model of another choice than the one that a sweep came to."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweeps.final_model.model_folder import judge, write_model
from sweeps.final_model.served import as_swept
from sweeps.loaded_sweep import Found
from sweeps.output.retention import check_there
from sweeps.planning import plan as planning
from sweeps.planning.dataset import open_images
from sweeps.planning.spec import ServingOptions, spec_of
from sweeps.report import heatmap
from sweeps.report.model_card import card
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.terminal.console import Terminal
from sweeps.terminal.result_tables import unseen_lines
from trainables.errors import UserError
from trainables.fixres.arms import ARMS
from trainables.training.trunk import finished_trunk


def check_target(sweep: str, target: Path) -> None:
    """Raises:
    UserError: the model cannot be written from there, or would replace something else.
    """
    if sweep.startswith("runs:/"):
        raise UserError(
            f"--write needs the sweep's folder or its URI in an object store, and --sweep {sweep} "
            "is neither: name one of them, or choose without --write."
        )
    if target.exists() and not (target / "model.safetensors").exists():
        raise UserError(f"--write {target} exists and is no model's folder: name a new one.")


def rewrite(
    found: Found,
    rows: Sequence[Row],
    choice: Choice,
    serving: ServingOptions,
    target: Path,
    terminal: Terminal,
) -> None:
    """Read the sets that nothing was chosen on for the choice, and write its model.

    Args:
        found: the sweep, finished or running.
        rows: of val.
        serving: the limits that the choice was made by.

    Raises:
        UserError: the images are not what they were, or the checkpoints were pruned.
    """
    record, store, row = found.record, found.store, choice.row
    check_there(store, row, changes=bool(ARMS[row.arm].changes))
    spec = replace(spec_of(record["spec"]), serving=serving)
    images, _ = open_images(spec, terminal)
    if images.digest != record["identity"]["images"]:
        raise UserError(f"--data {spec.images.data} holds other images than the sweep saw.")
    trunk, _ = finished_trunk(store, row.trunk)
    plan = planning.make(spec, images, [trunk.weights])
    served, counting = as_swept(plan, row), terminal.counting("decoding images")
    outcome = judge(plan, choice, served, rows, images, store, counting)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "heatmap.png"
        heatmap.save(heatmap.heatmap(outcome.rows, plan, row), picture)
        text = card(plan, outcome, record["versions"], picture.name)
        write_model(target, plan, served, store, card=text, picture=picture)
    for line in unseen_lines(outcome):
        terminal.console.print(line, soft_wrap=True)
    terminal.say(f"model    {target.resolve()}")
