"""Load a finished or running sweep, and write the model of another choice from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps.final_model.held_out import read_here, score_choice
from sweeps.final_model.outcome import served_as_swept
from sweeps.final_model.wording import latency_conditions_in_words
from sweeps.output.location import BOARD, recorded_store
from sweeps.output.retention import check_not_pruned
from sweeps.output.sweep_record import SPEC, SweepRecord, read_sweep_record
from sweeps.planning import building
from sweeps.planning.checks.validation import looks_like_uri
from sweeps.planning.dataset import check_extra_test_sets, find_near_duplicates, open_images
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.report.carded_model import write_carded_model
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice, known_costs
from sweeps.selection.leaderboard import Row
from sweeps.selection.row_latency import (
    nets_of,
    setting_from,
    with_latencies,
    with_latencies_of_file,
)
from sweeps.terminal.console import Terminal
from sweeps.terminal.result_tables import held_out_lines, latency_lines
from sweeps.tracking.download import download_sweep
from trainables.errors import UserError
from trainables.export.candidates import write_candidates
from trainables.fixres.arms import ARMS
from trainables.profiling.latency import Conditions
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import is_uri, remote_path
from trainables.storage.replacing import replacing_folder
from trainables.storage.retry import first_line
from trainables.training.trunk import read_trunk_spec


def check_target(sweep: str, target: Path) -> None:
    """Check that a model of another choice can be written from ``sweep`` to ``target``.

    Raises:
        UserError: the sweep is only in MLflow, or ``target`` would replace something else.
    """
    if sweep.startswith("runs:/"):
        raise UserError(
            f"--write needs the sweep's folder or its URI in an object store, and --sweep {sweep} "
            "is neither: name one of them, or choose without --write."
        )
    if looks_like_uri(target):
        raise UserError(f"--write {target} is a folder of this machine: give a path.")
    if target.exists() and not (target / "model.safetensors").exists():
        raise UserError(f"--write {target} exists and is no model's folder: name a new one.")


def check_new_folder(folder: Path) -> None:
    """Check that candidates can be written into ``folder``.

    Raises:
        UserError: it holds something.
    """
    if looks_like_uri(folder):
        raise UserError(f"--export-candidates {folder} is a folder of this machine: give a path.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--export-candidates {folder} exists and is not empty: name a new folder.")


def export_candidates(sweep: LoadedSweep, folder: Path, terminal: Terminal) -> None:
    """Write an ONNX file with random weights of each net of the sweep's rows into ``folder``."""
    nets = nets_of(_val_rows(sweep))
    classes = len(sweep.record.classes)
    with replacing_folder(folder) as new_folder:
        for variant in dict.fromkeys(variant for variant, _ in nets):
            resolutions = [res for name, res in nets if name == variant]
            write_candidates(new_folder, variant, resolutions, classes)
    terminal.say(
        f"candidates {folder}: {len(nets)} nets, {classes} classes, random weights; on the machine "
        f"that serves: fixres-latency {folder.name} --out latency.json"
    )


def with_known_latencies(
    sweep: LoadedSweep, file: Path | None, measuring: LatencyOptions | None, terminal: Terminal
) -> tuple[list[Row], Conditions | None]:
    """Return the sweep's rows on val with latencies, as far as known, and their conditions.

    Args:
        file: of fixres-latency; None: those that the sweep has, unless it is to be measured here.
        measuring: how to measure here; None: not at all.
    """
    rows, classes = _val_rows(sweep), len(sweep.record.classes)
    latency: Conditions | None
    if file is not None:
        rows, latency = with_latencies_of_file(rows, classes, file)
    elif measuring is not None:
        progress = terminal.counting("latency: nets measured")
        setting = setting_from(measuring)
        rows, latency = with_latencies(rows, classes, sweep.store, setting, progress)
    else:
        latency = leaderboard.read_latency_conditions(sweep.folder / BOARD)
    if "latency_ms" in known_costs(rows):
        terminal.say(f"latency  median; {latency_conditions_in_words(latency)}")
    return rows, latency


def _val_rows(sweep: LoadedSweep) -> list[Row]:
    return [r for r in leaderboard.read(sweep.folder / BOARD) if r.split == "val"]


def write_other_choice(
    sweep: LoadedSweep,
    rows: Sequence[Row],
    choice: Choice,
    serving: ServingOptions,
    latency: Conditions | None,
    options: LatencyOptions,
    target: Path,
    terminal: Terminal,
) -> None:
    """Score the choice on the held-out sets, and write its model into ``target``.

    Args:
        sweep: may be finished or running.
        rows: the sweep's rows on val.
        serving: the limits that the choice was made by.
        latency: what the latencies of the rows were measured with.
        options: how that of the written file is measured.

    Raises:
        UserError: the images are not what they were, or the checkpoints were pruned.
    """
    record, store, row = sweep.record, sweep.store, choice.row
    check_not_pruned(store, row, changes=bool(ARMS[row.arm].changes))
    spec = replace(record.spec, serving=serving, latency=options)
    images, _ = open_images(spec, terminal)
    if images.digest != record.identity["images"]:
        raise UserError(f"--data {spec.images.data} holds other images than the sweep saw.")
    near = find_near_duplicates(images, check_extra_test_sets(spec, images, terminal))
    trunk = read_trunk_spec(store, row.trunk)
    plan = building.build_plan(spec, images, [trunk.weights], near.in_words)
    served_model = served_as_swept(plan, row, store)
    progress = terminal.counting("decoding images")
    # This command starts no Ray: it reads on the machine that it is called on.
    read_all = read_here(plan, images, store)
    outcome = score_choice(
        plan, choice, served_model, rows, images, store, read_all, progress, latency
    )
    outcome = write_carded_model(target, plan, outcome, served_model, store, record.versions)
    for line in [*latency_lines(outcome, serving), *held_out_lines(outcome)]:
        terminal.console.print(line, soft_wrap=True)
    terminal.say(f"model    {target.resolve()}")


@dataclass(frozen=True, kw_only=True)
class LoadedSweep:
    """A sweep to choose from."""

    folder: Path
    """Holds the sweep's record and leaderboard; may be temporary."""
    record: SweepRecord
    store: Store


@contextmanager
def load_sweep(sweep: str, tracking_uri: str | None) -> Iterator[LoadedSweep]:
    """Load a sweep; what is not in a folder is downloaded into a temporary one.

    Args:
        sweep: a folder; a URI that pyarrow knows (s3://bucket/prefix, gs://...); or runs:/ID, the
            id of a sweep's parent run in MLflow.
        tracking_uri: address of MLflow; None: MLflow's own default.

    Raises:
        UserError: there is no such sweep, or no cell of it is done.
    """
    if not (is_uri(sweep) or sweep.startswith("runs:/")):
        folder = Path(sweep).expanduser()
        record = _read_record(folder, sweep)
        yield LoadedSweep(folder=folder, record=record, store=recorded_store(folder, record))
        return
    with tempfile.TemporaryDirectory(prefix="fixres-choice-") as name:
        folder = Path(name)
        store: Store = Store(folder / "store")
        if sweep.startswith("runs:/"):
            download_sweep(sweep.removeprefix("runs:/"), tracking_uri, folder)
        else:
            store = _download_from_store(sweep, folder)
        yield LoadedSweep(folder=folder, record=_read_record(folder, sweep), store=store)


def _read_record(folder: Path, sweep: str) -> SweepRecord:
    record = read_sweep_record(folder)
    if record is None or not (folder / BOARD).exists():
        raise UserError(
            f"--sweep {sweep} holds no leaderboard yet: name a sweep's folder, its URI in an "
            "object store or runs:/ID in MLflow, or wait for its first cell."
        )
    return record


def _download_from_store(uri: str, folder: Path) -> Store:
    remote = remote_path(uri)
    try:
        remote.check_reachable()
        for name in (SPEC, BOARD):
            if (remote / name).exists():
                (remote / name).download(folder / name)
    except OSError as error:
        raise UserError(
            f"--sweep {uri} cannot be read ({first_line(error)}): check the address and your "
            "credentials."
        ) from None
    return Store(remote / "store")
