"""Run sweeps from Python, by the code of the command, and look at what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.fixres_grid import parse_settings, run_spec
from sweeps.planning.spec import SweepSpec, with_options
from trainables.errors import IncompleteError, SweepError, UserError

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from sweeps.final_model.outcome import Outcome
    from sweeps.selection.leaderboard import Row


def sweep_spec(**options: Any) -> SweepSpec:
    """Make a spec of options as they are on the command line, with underscores.

    An option that is left out has its default there: without ``data`` that of the built-in digits.

    Args:
        options: numbers, texts, paths, lists of them, and True or False for switches.

    Raises:
        UserError: one of them is no option, or has a value that it cannot have.
    """
    try:
        return parse_settings({name: _as_json(value) for name, value in options.items()})
    except SystemExit:  # What is wrong with a value is on stderr, as for the command.
        raise UserError(f"The options {options} cannot be read: see the message above.") from None


def run_sweep(spec: SweepSpec | None = None, *, quiet: bool = False, **options: Any) -> SweepResult:
    """Run a sweep, or continue it: as the command does, with the same folder and results.

    Args:
        spec: all options; or give them by name, as for :func:`sweep_spec`.
        quiet: print nothing.

    Returns:
        What it came to. Where trunks or cells of it failed, ``failures`` of its outcome has them.

    Raises:
        UserError: the sweep cannot be run with these options.
        SweepError: it can, but came to nothing.
    """
    if spec is None:
        spec = sweep_spec(**options)
    elif options:
        raise UserError(f"Both a spec and options are given ({', '.join(options)}): give one.")
    if spec.run.dry_run:
        raise UserError("dry_run makes no result: give the command --dry-run.")
    try:
        with suppress(IncompleteError):  # The results are there.
            run_spec(spec, quiet=quiet)
    except (UserError, SweepError) as error:
        raise type(error)(with_options(str(error))) from error
    return open_result(spec.output.out)


def open_result(out: str | Path) -> SweepResult:
    """Open what a finished sweep has written to its folder.

    Raises:
        UserError: there is none, or it is not finished.
    """
    from sweeps.final_model.outcome import read_outcome
    from sweeps.output.sweep_record import read_sweep_record

    folder = Path(out).expanduser().absolute()
    record = read_sweep_record(folder)
    outcome = read_outcome(folder, record.spec.extra_test_sets) if record else None
    if record is None or outcome is None:
        raise UserError(f"{out} holds no finished sweep: run it, or name its folder.")
    return SweepResult(out=folder, spec=record.spec, outcome=outcome)


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """What a sweep came to."""

    out: Path
    """Its folder."""
    spec: SweepSpec
    outcome: Outcome
    """The choice, what it is worth on held-out sets, and all rows."""

    @property
    def best(self) -> Row:
        """The row that was chosen: variant, resolutions, crop, arm, and its val score."""
        return self.outcome.choice.row

    @property
    def reason(self) -> str:
        """Why it was chosen, in a sentence."""
        return self.outcome.choice.reason

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """All rows, a line for each cell, arm and split, as in leaderboard.parquet."""
        import pandas as pd

        from sweeps.output.location import BOARD

        return pd.read_parquet(self.out / BOARD)

    @property
    def report(self) -> Path:
        """The report, an HTML page."""
        from sweeps.output.location import REPORT

        return self.out / REPORT

    def model(self) -> nn.Module:
        """Open the finished net through timm, for evaluation.

        Returns:
            A net that takes normalised pixels, (N, 3, R, R) float32, and gives logits (N, C).
            ``timm.data.resolve_model_data_config(net, use_test_size=True)`` has its transform.
        """
        import timm

        from trainables.export.timm_format import needs_mirror
        from trainables.models.mirrored import MirrorAveraged

        folder = self.out / "model"
        net: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
        return (MirrorAveraged(net) if needs_mirror(folder) else net).eval()


def _as_json(value: Any) -> Any:
    """Write a value of Python as one of a file of options."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return str(value) if isinstance(value, Path) else value
