#!/usr/bin/env python3
"""Measure, on the machine that is to serve, what the nets of a sweep take.

    python sweeps/measure_latency.py DIR --out latency.json

DIR has been written by ``select_best.py --export-candidates DIR``, which then chooses by the
result: ``select_best.py --latency latency.json``. A finished model's folder does too. ONNX Runtime
is all that has to be installed, or OpenVINO for ``--runtime openvino``. An installed package brings
it as ``fixres-latency``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run as a script: its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainables.errors import UserError, exit_code, printable
from trainables.export.mirror_mark import MIRRORS
from trainables.machine import available_cores
from trainables.profiling.latency import Conditions, Setting, measure_in_turns
from trainables.profiling.latency_file import LatencyFile, NetLatency, write_latency_file

if TYPE_CHECKING:
    from trainables.export.openvino_format import OpenvinoNet
    from trainables.profiling.onnx_latency import OnnxNet

    OpenNet = Callable[[Path, int], OnnxNet | OpenvinoNet]

MAX_WEIGHTS_BYTES = 2e9  # of all files that are loaded at a time


def main(argv: list[str], prog: str = "measure_latency.py") -> int:
    """Measure, print and write; return the exit code: 0 done, 1 a fault of ours, 2 bad input."""
    return exit_code(lambda: _measure(_parser(prog).parse_args(argv)), str)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure what nets take in a runtime on this machine's CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("models", type=Path, help="folder of ONNX files (--export-candidates)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, JSON")
    parser.add_argument(
        "--runtime", choices=("onnx", "openvino"), default="onnx", help="what is to serve"
    )
    parser.add_argument(
        "--threads", type=int, default=available_cores(), help="CPU threads to compute with"
    )
    parser.add_argument("--batch", type=int, default=1, help="images of one request")
    parser.add_argument(
        "--throughput-batch",
        type=int,
        default=32,
        help="images at a time for images/s, at most; slow nets take fewer",
    )
    return parser


def _measure(asked: argparse.Namespace) -> None:
    for name in ("threads", "batch", "throughput_batch"):
        if getattr(asked, name) < 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} {getattr(asked, name)} is out of bounds: give at least 1.")
    files = _files(asked.models)
    _check_out(asked.out)
    setting = Setting(
        runtime=asked.runtime,
        threads=asked.threads,
        batch=asked.batch,
        throughput_batch=asked.throughput_batch,
    )
    conditions, open_net = _reader(setting)
    print(f"latency  median (10th to 90th percentile); {conditions}", flush=True)
    nets: list[NetLatency] = []
    for group in _groups(files):
        for net in _measured(group, setting, open_net):
            latency = net.latency
            print(
                f"{net.variant:8} {net.test_res:4} px  {latency.latency_ms:8.3f} ms "
                f"({latency.low_ms:.3f} to {latency.high_ms:.3f}, {latency.runs} runs), "
                f"{latency.images_s:.1f} images/s",
                flush=True,
            )
            nets.append(net)
    measured = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_latency_file(
        asked.out, LatencyFile(conditions=conditions, measured=measured, nets=tuple(nets))
    )
    print(f"written  {asked.out}")


def _reader(setting: Setting) -> tuple[Conditions, OpenNet]:
    """Give what is measured with, and what loads a file.

    A runtime is imported once options are checked, so that bad ones fail at once, and --help
    without it; and only the one that is asked for.

    Raises:
        UserError: the runtime is not installed.
    """
    if setting.runtime == "openvino":
        from trainables.export import openvino_format
        from trainables.profiling import openvino_latency

        return openvino_latency.conditions(setting), openvino_format.open_net
    from trainables.profiling import onnx_latency

    return onnx_latency.conditions(setting), onnx_latency.open_net


def _files(folder: Path) -> list[Path]:
    """List the ONNX files of a folder.

    Raises:
        UserError: it is no folder, or has none.
    """
    if not folder.is_dir():
        raise UserError(
            f"{printable(str(folder))} is no folder: give that of select_best.py "
            "--export-candidates."
        )
    files = sorted(folder.glob("*.onnx"))
    if not files:
        raise UserError(
            f"{printable(str(folder))} has no ONNX files: give the folder of select_best.py "
            "--export-candidates."
        )
    return files


def _check_out(out: Path) -> None:
    """Check, before minutes are spent, that the result can be written."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file.")
    if not out.resolve().parent.is_dir():
        raise UserError(f"--out {out} is in no folder that exists: make it first.")


def _groups(files: list[Path]) -> Iterator[list[Path]]:
    """Divide the files, in order, into groups that are loaded together: of 2 GB, or of one."""
    group: list[Path] = []
    weights = 0
    for path in files:
        data = path.with_name(f"{path.name}.data")  # weights of more than 2 GB lie beside
        own = path.stat().st_size + (data.stat().st_size if data.exists() else 0)
        if group and weights + own > MAX_WEIGHTS_BYTES:
            yield group
            group, weights = [], 0
        group.append(path)
        weights += own
    yield group


def _measured(files: list[Path], setting: Setting, open_net: OpenNet) -> list[NetLatency]:
    """Measure the files in turns.

    Raises:
        UserError: one is no net of a sweep.
    """
    nets = {path: open_net(path, setting.threads) for path in files}
    named = {path: _variant(path, net.metadata) for path, net in nets.items()}
    latencies = measure_in_turns(nets, setting.batch, setting.throughput_batch)
    return [
        NetLatency(
            variant=named[path],
            test_res=net.res,
            classes=net.classes,
            latency=latencies[path],
            mirrors=MIRRORS in net.metadata,
        )
        for path, net in nets.items()
    ]


def _variant(path: Path, metadata: Mapping[str, str]) -> str:
    if "variant" not in metadata:
        raise UserError(
            f"{path} does not say which variant it is: write it with select_best.py "
            "--export-candidates."
        )
    return metadata["variant"]


def console_main() -> int:
    """Run the installed command ``fixres-latency``."""
    return main(sys.argv[1:], prog="fixres-latency")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
