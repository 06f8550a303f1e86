"""The story of a sweep, top to bottom: spec -> plan -> trunks -> cells -> leaderboard -> choice
-> model."""

from __future__ import annotations

import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweeps import embedded, figures, leaderboard, placement
from sweeps import plan as planning
from sweeps.card import card
from sweeps.choice import choose
from sweeps.comparison import beside
from sweeps.console import Terminal
from sweeps.director import TrunkDirector
from sweeps.environment import on_cluster
from sweeps.events import SweepBegan, Watcher, Watchers
from sweeps.leaderboard import Row
from sweeps.live_board import LiveBoard
from sweeps.outcome import Outcome, read_outcome, write_choice
from sweeps.phases import CellDesk, cells_of, run_cells, run_trunks
from sweeps.plan import Plan
from sweeps.printed import plan_view, summary
from sweeps.registry import register
from sweeps.spec import SweepSpec, differences, identity
from sweeps.timing import timed
from sweeps.tracking import Tracking, default_uri
from sweeps.unseen import read_unseen
from trainables import backbones, variants
from trainables.backbones import Weights
from trainables.cell import adapted_state, load_model, recorded_hits, serving_transform
from trainables.decode import ImageSet, prepare
from trainables.errors import SweepError, UserError
from trainables.export import write_model
from trainables.keys import digest, plain
from trainables.store import Store, make_writable, read_json, write_json, write_text
from trainables.trials import TrialContext
from trainables.trunk import finished_trunk, recorded_reports
from trainables.workplace import Workplace


def run(spec: SweepSpec, terminal: Terminal) -> None:
    """Run the sweep, or go on with it.

    Raises:
        UserError: it cannot be run as it is asked for.
    """
    out = _out(spec)
    make_writable(spec.cache, "--cache-dir")
    if spec.run.dry_run:
        images, _ = _images(spec, terminal)
        terminal.console.print(plan_view(planning.make(spec, images, ())))
        return
    made_anew = not out.exists()
    make_writable(out, "--out")
    with _locked(out):
        bare = not (out / "spec.json").exists()
        try:
            _sweep(spec, out, terminal, bare=bare)
        except UserError:
            if bare and not Store(out / "store").journal.exists():
                _undo(out, made_anew)
            raise


def _sweep(spec: SweepSpec, out: Path, terminal: Terminal, *, bare: bool) -> None:
    store = Store(out / "store")
    # Weights out of reach are known at once, not after the images have been decoded.
    weights = _weights(spec, store) if bare else []
    images, data = _images(spec, terminal)
    asked = identity(spec, images.digest)
    record = _record(out, asked)
    finished = read_outcome(out, spec.further)
    if finished is not None:
        _tell(terminal, out, finished, spec, record["ui"])
        return
    plan = planning.make(spec, images, weights or _weights(spec, store))
    record = record or _write_record(spec, out, asked, images)
    _write_rejected(out, images)
    terminal.console.print(plan_view(plan))
    uri = spec.run.tracking_uri or default_uri(out)
    tracking = Tracking(uri, spec.run.experiment, record["sweep"], out.name, store)
    try:
        board = LiveBoard(out / "leaderboard.parquet")
        rows = _trials(plan, store, data, terminal, [tracking, terminal, board])
        outcome = _conclude(plan, rows, store, images, out, tracking, terminal)
    except BaseException as error:
        with suppress(Exception):  # what went wrong matters more than how it is tracked
            tracking.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracking.close("FINISHED")
    record["ui"] = tracking.ui_command()
    write_json(out / "spec.json", record)
    write_choice(out, outcome)
    _tell(terminal, out, outcome, spec, record["ui"])


def _weights(spec: SweepSpec, store: Store) -> list[Weights]:
    return [
        backbones.find_weights(variants.get(v), spec.grid.weights, store)
        for v in spec.grid.variants
    ]


def _trials(
    plan: Plan, store: Store, data: Path, terminal: Terminal, watchers: Sequence[Watcher]
) -> list[Row]:
    """Both phases. Ray is started only if there is something left to do."""
    watcher = Watchers(watchers)
    watcher.on(SweepBegan(plan=plan))
    director = TrunkDirector(plan, store, watcher)
    placed: placement.Placement | None = None

    def places() -> placement.Placement:
        nonlocal placed
        if placed is None:
            placement.start_ray()
            placed = placement.place(plan.spec.run)
        return placed

    try:
        if not director.over:
            run_trunks(director, _context(plan, store, data, places().cpus), places())
        survivors = [(t, tuple(recorded_reports(store, t.key))) for t in director.survivors()]
        if not survivors:
            raise SweepError("No trunk could be trained: see the messages above.")
        desk = CellDesk(plan, cells_of(plan, survivors), store, watcher)
        if not desk.over:
            run_cells(desk, _context(plan, store, data, places().cpus), places())
        if not desk.rows:
            raise SweepError("No cell could be worked out: see the messages above.")
    finally:
        if placed is not None:
            placement.stop_ray()
    return desk.rows


def _context(plan: Plan, store: Store, data: Path, threads: int) -> TrialContext:
    return TrialContext(
        store=store.root,
        data=data,
        images=plan.images,
        read=plan.spec.read,
        cache=plan.spec.cache,
        threads=threads,
        rungs=plan.spec.rungs,
    )


def _conclude(
    plan: Plan,
    rows: list[Row],
    store: Store,
    images: ImageSet,
    out: Path,
    tracking: Tracking,
    terminal: Terminal,
) -> Outcome:
    """Choose, read the sets that nothing was chosen on, hand over the model and the evidence."""
    rows = timed(rows, len(plan.classes), store)
    choice = choose(rows, plan.spec.serving, lambda r: recorded_hits(store, r.cell, r.arm))
    row = choice.row
    place = Workplace(images=images, cache=plan.spec.cache, threads=placement.own_threads())
    counting = terminal.counting("decoding images")
    unseen, gains = read_unseen(plan, row, store, place, counting)
    rows = [*rows, *unseen]
    leaderboard.write(out / "leaderboard.parquet", rows)
    picture = figures.heatmap(rows, plan, row)
    figures.save(picture, out / "heatmap.png")
    trunk, _ = finished_trunk(store, row.trunk)
    cell = plan.cell(row.variant, row.trunk, row.test_res)
    state = adapted_state(store, row.trunk, row.cell, row.arm)
    write_model(
        out / "model",
        state,
        variant=row.variant,
        classes=plan.classes,
        train_res=row.train_res,
        transform=serving_transform(trunk, cell, row.arm),
        card=card(plan, choice, rows, gains),
    )
    files = [out / name for name in ("leaderboard.parquet", "spec.json")]
    tracking.finish(choice, rows, picture, files)
    model = load_model(trunk, state, len(plan.classes)).cpu()
    tags = {"variant": row.variant, "train_res": str(row.train_res), "test_res": str(row.test_res)}
    register(tracking, model, row.test_res, plan.spec.run.register_as, tags)
    return Outcome(rows=rows, choice=choice, gains=gains)


# --- the folder -------------------------------------------------------------------------------


def _out(spec: SweepSpec) -> Path:
    out = spec.run.out.expanduser()
    if on_cluster() and not out.is_absolute():
        raise UserError(
            f"--out {out} lies in the job's working copy, which is thrown away: give an absolute "
            "path that every node sees."
        )
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    names = {p.name for p in out.iterdir() if p.name[0] != "."} if out.is_dir() else set()
    strangers = sorted(names - {"store"})  # a sweep that was killed at once leaves a bare store
    if strangers and "spec.json" not in strangers:
        raise UserError(
            f"--out {out} holds other files ({strangers[0]}, ...): name a new or an empty folder."
        )
    return out


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One driver at a time."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"--out {out} is in use by another running sweep: wait for it.") from None
    try:
        yield
    finally:
        lock.release()


def _undo(out: Path, made_anew: bool) -> None:
    """Leave nothing half-written behind a refusal."""
    if made_anew:
        shutil.rmtree(out)
        return
    # A bare store stays: it may have been there, and the next sweep takes it up.
    for name in ("spec.json", "rejected.tsv"):
        (out / name).unlink(missing_ok=True)


def _record(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What spec.json says, if it is of the same sweep; empty if there is none.

    Raises:
        UserError: the folder holds another sweep.
    """
    record: dict[str, Any] = read_json(out / "spec.json") or {}
    differing = differences(record["identity"], asked) if record else []
    if differing:
        raise UserError(
            f"--out {out} holds another sweep ({'; '.join(differing)}): give the same options to "
            "continue it, or another --out."
        )
    return record


def _write_record(
    spec: SweepSpec, out: Path, asked: dict[str, Any], images: ImageSet
) -> dict[str, Any]:
    packages = ("ray", "torch", "torchvision", "timm", "mlflow", "optuna", "pillow", "numpy")
    record = {
        "sweep": uuid.uuid4().hex[:12],
        "command": ["python", "sweeps/fixres_grid.py", *sys.argv[1:]],
        "identity": asked,
        "spec": plain(spec),
        "classes": images.classes,
        "versions": {name: version(name) for name in packages},
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_json(out / "spec.json", record)
    return record


def _write_rejected(out: Path, images: ImageSet) -> None:
    if images.rejected:
        lines = [f"{r.path}\t{r.reason}\n" for r in images.rejected]
        write_text(out / "rejected.tsv", "path\treason\n" + "".join(lines))


# --- images and words -------------------------------------------------------------------------


def _images(spec: SweepSpec, terminal: Terminal) -> tuple[ImageSet, Path]:
    """The image set and its folder; the built-in one is drawn where there is no other."""
    if spec.images.data is not None:
        data = spec.images.data.expanduser().resolve()
    else:
        base = spec.cache if not on_cluster() else spec.run.out.expanduser() / ".digits"
        drawing = embedded.EmbeddedSpec(seed=spec.run.seed)
        data = base / f"digits-{digest(embedded.VERSION, drawing)}"
        embedded.make(data, drawing, terminal.counting("drawing the built-in digits"))
    images = prepare(data, spec.cache, spec.read, terminal.counting("decoding images"))
    if images.rejected:
        terminal.say(
            f"{len(images.rejected)} files cannot be read and are left out (rejected.tsv in --out "
            "names them)"
        )
    for note in images.notes:
        terminal.say(note)
    return images, data


def _tell(terminal: Terminal, out: Path, outcome: Outcome, spec: SweepSpec, ui: str) -> None:
    compared = []
    if spec.grid.recipe != "own":  # the arm none has a crop of its own, not the published one
        compared = beside([r for r in outcome.rows if r.arm != "none"])
    terminal.console.print(summary(outcome.rows, outcome.choice, outcome.gains, compared))
    terminal.say(f"model    {out / 'model'}  (timm: local-dir:{out / 'model'})")
    terminal.say(f"picture  {out / 'heatmap.png'}")
    terminal.say(f"runs     {ui}")
