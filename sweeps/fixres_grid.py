#!/usr/bin/env python3
"""Sweep EfficientNet variants, train and test resolutions; hand over the best FixEfficientNet.

    python sweeps/fixres_grid.py                                  the built-in digits
    python sweeps/fixres_grid.py --data DIR --out OUT --variants b0 b1 ...
    ray job submit --working-dir . -- python sweeps/fixres_grid.py ...

An installed package brings it as ``fixres-grid``. The same command again continues where it was
stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps.environment import (
    check_environment,
    interrupt_on_sigterm,
    notes,
    set_environment,
)

set_environment()

import tyro  # noqa: E402

from sweeps.planning.checks.validation import check_arm_names, check_spec  # noqa: E402
from sweeps.planning.options.config_file import (  # noqa: E402
    CONFIG,
    Value,
    as_words,
    by_field,
    in_yaml,
    read_config,
    typed_names,
)
from sweeps.planning.options.space import absorbed  # noqa: E402
from sweeps.planning.options.words import option  # noqa: E402
from sweeps.planning.recipes import RECIPES, builtin_digits  # noqa: E402
from sweeps.planning.spec import SweepSpec, options_by_name, with_options  # noqa: E402
from sweeps.tracking.access.names import check_names  # noqa: E402
from trainables.errors import UserError, exit_code  # noqa: E402

DESCRIPTION = """Find the EfficientNet variant, train resolution and test resolution that serve best
on labelled images, and write the finished FixEfficientNet with the evidence. The same command
again continues. Without --data it runs on a small built-in set of digits, with smaller defaults
than those shown here (lite0, 48 to 96 px, about two minutes on two CPU cores)."""


def parse(argv: list[str], prog: str = "fixres_grid.py") -> SweepSpec:
    """Parse options into a spec.

    An option that is left out has the recipe's value, or without ``--data`` that of the built-in
    digits.

    Raises:
        UserError: an arm is asked for that there was once, or a file of options or of the search is
            no good.
    """
    argv = _with_config(argv)
    return _with_space(_parse_options(argv, prog), argv)


def parse_settings(settings: Mapping[str, Any], prog: str = "run_sweep") -> SweepSpec:
    """Parse options that are given by name, as in a file of ``--config``; as :func:`parse`."""
    named = by_field(settings, options_by_name(SweepSpec()), f"{prog} is given")
    argv = _with_settings(named, [])
    return _with_space(_parse_options(argv, prog), argv)


def _parse_options(argv: list[str], prog: str) -> SweepSpec:
    """Parse options into a spec, in which ``--space`` is by itself; as :func:`parse`."""
    check_arm_names(_values_of("--arms", argv))
    return tyro.cli(
        SweepSpec,
        args=argv,
        prog=prog,
        description=DESCRIPTION,
        default=_defaults(argv),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _with_config(argv: list[str]) -> list[str]:
    """Put the options of ``--config`` before those of the command line that it does not have."""
    path = _value_of(CONFIG, argv)
    if not path:
        return argv
    typed = typed_names(argv)
    config = read_config(Path(path), options_by_name(SweepSpec()))
    left = {
        name: value
        for name, value in config.items()
        if not {option(name), option(f"no_{name}")} & typed
    }
    return _with_settings(left, argv)


def _with_settings(settings: Mapping[str, Value], argv: list[str]) -> list[str]:
    """Put options that are given by their fields' names before those of a command line."""
    plain = options_by_name(SweepSpec())
    # Two options decide on the defaults of the others.
    deciding = {name: plain[name] for name in ("data", "recipe")}
    defaults = options_by_name(_defaults([*as_words(settings, plain), *argv]))
    return [*as_words(settings, defaults | deciding), *argv]


def _printed(argv: list[str], prog: str) -> str:
    """Write all options as a file for ``--config``."""
    argv = _with_config(argv)
    files = {name: _value_of(option(name), argv) for name in ("space", "try_")}
    return in_yaml(_parse_options(argv, prog), {name: path for name, path in files.items() if path})


def _with_space(spec: SweepSpec, argv: list[str]) -> SweepSpec:
    """Let the entries of ``--space`` hold where options could say the same."""
    entries = spec.search.space
    if entries is None:
        return spec
    typed = typed_names(argv)
    for name in entries:
        for given in (option(name), option(f"no_{name}")):
            if given in typed:
                raise UserError(
                    f"{given} is given, and --space {_value_of('--space', argv)} has an entry "
                    f"{name}: leave one of them out."
                )
    trunks, left = absorbed(spec.trunks, entries)
    return replace(spec, trunks=trunks, search=replace(spec.search, space=left))


def _defaults(argv: list[str]) -> SweepSpec:
    """Make the values of the options that are left out, by those that decide on others."""
    recipe = _value_of("--recipe", argv)
    asks_help = bool({"-h", "--help"} & set(argv))
    if recipe in RECIPES:
        return RECIPES[recipe]()
    return SweepSpec() if asks_help or _value_of("--data", argv) is not None else builtin_digits()


def _value_of(name: str, argv: list[str]) -> str | None:
    """Find the value of an option before all options are parsed; "": the value is missing."""
    for i, word in enumerate(argv):
        if word == name:
            return "".join(argv[i + 1 : i + 2])
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _values_of(name: str, argv: list[str]) -> list[str]:
    """List the values of an option, up to the next option, before all options are parsed."""
    after = argv[argv.index(name) + 1 :] if name in argv else []
    return list(takewhile(lambda word: not word.startswith("--"), after))


def main(argv: list[str], prog: str = "fixres_grid.py") -> int:
    """Run the sweep; return the exit code.

    It is 0: done, 1: a fault of ours, 2: bad input, 3: done, but trunks or cells of it failed, 130:
    stopped, 141: nobody reads the output.
    """
    interrupt_on_sigterm()
    try:
        return exit_code(lambda: _sweep(argv, prog), with_options)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return 130


def _sweep(argv: list[str], prog: str) -> None:
    if "--print-config" in typed_names(argv):
        print(_printed(argv, prog), end="")
        return
    spec = parse(argv, prog)
    if spec.run.status is not None:
        from sweeps.terminal.status import show_status

        show_status(spec.run.status.expanduser(), print)
        return
    run_spec(spec)


def run_spec(spec: SweepSpec, *, quiet: bool = False) -> None:
    """Check all options, and run the sweep.

    Args:
        quiet: print nothing.

    Raises:
        UserError: the sweep cannot be run with these options.
        SweepError: it can, but came to nothing.
        IncompleteError: its results are written, but trunks or cells of it failed.
    """
    check_environment()
    check_spec(spec)
    check_names(spec)
    # Imported after the checks, so that bad options fail at once: these import torch, Ray and
    # MLflow.
    from sweeps.execution.ray_cluster import check_cluster
    from sweeps.sweep import run
    from sweeps.terminal.console import OutputClosedError, PlainConsole, Terminal
    from sweeps.terminal.on_end import told_at_the_end
    from trainables.storage.full_disk import full_disk_told

    check_cluster(spec.resources)
    try:
        with (
            told_at_the_end(spec.output.on_end, spec.output.out),
            full_disk_told(spec.output.out),
            Terminal(PlainConsole(quiet=True) if quiet else None) as terminal,
        ):
            for note in notes():
                terminal.say(note)
            run(spec, terminal)
    except OutputClosedError:
        print("stopped, as nobody reads the output; the same command continues", file=sys.stderr)
        raise


def console_main() -> int:
    """Run the installed command ``fixres-grid``."""
    return main(sys.argv[1:], prog="fixres-grid")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
