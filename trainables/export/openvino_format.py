"""Write the finished net for OpenVINO, Intel's runtime for CPUs, and open nets in it.

OpenVINO is an optional package. It computes in float32 here: by itself it takes bfloat16 on CPUs
that have it in hardware, which moves logits by percents.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainables.errors import SweepError, UserError
from trainables.storage.replacing import replacing

OPENVINO_FILE = "model.xml"  # the graph; the weights are beside it, in model.bin
TOLERANCE = 1e-4  # of logits, in units of the largest: what may be rounding
CHECK_BATCHES = (3, 1)
# Where the graph keeps the metadata properties of an ONNX file.
_METADATA = "framework"
# Names that nodes get from a counter of the process, which would make each writing's bytes others.
_COUNTED = re.compile(r".*_\d+")


def check_installed(wanted_by: str) -> None:
    """Check that OpenVINO is installed, without importing it.

    Args:
        wanted_by: the option that asks for it, for the message.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("openvino") is None:
        raise UserError(
            f"{wanted_by} needs OpenVINO, which is not installed: pip install '.[openvino]', or "
            "openvino alone."
        )


def import_openvino() -> Any:
    """Import OpenVINO so that it calls nobody.

    Its import alone would tell its makers, by the package openvino-telemetry that comes with it,
    and leave an id of the user in the home folder. Without that package it passes over this.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as import reads it
    import openvino

    return openvino


@dataclass(frozen=True)
class OpenvinoNet:
    """A net that OpenVINO has read: makes the calls that run so many images."""

    metadata: Mapping[str, str]
    """What the ONNX file says of itself."""
    res: int
    """Side of its images, px."""
    classes: int
    _core: Any = field(repr=False)
    _net: Any = field(repr=False)
    _threads: int = field(repr=False)

    def __call__(self, batch: int) -> Callable[[], object]:
        """Make the call that runs ``batch`` black images; what they show costs no time."""
        request = self._compiled(batch)
        images = np.zeros((batch, 3, self.res, self.res), dtype=np.float32)
        return lambda: request.infer([images], share_inputs=True)

    def run(self, images: np.ndarray) -> np.ndarray:
        """Give the logits of normalised images: (N, 3, R, R) float32 -> (N, C) float32."""
        request = self._compiled(len(images))
        request.infer([images])
        return np.array(request.get_output_tensor(0).data)

    def _compiled(self, batch: int) -> Any:
        """Compile the net for a fixed number of images, as whoever serves one at a time does."""
        net = self._net.clone()
        net.reshape([batch, 3, self.res, self.res])
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self._threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return self._core.compile_model(net, "CPU", settings).create_infer_request()


def open_net(path: Path, threads: int) -> OpenvinoNet:
    """Read an ONNX file or ``model.xml`` of images (N, 3, R, R) float32 -> logits (N, C).

    Raises:
        UserError: it is none, or OpenVINO cannot read it.
    """
    core = import_openvino().Core()
    try:
        net = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{path} is no net that OpenVINO {version()} can read ({reason}): write it again."
        ) from None
    shapes = [side.get_partial_shape() for side in (*net.inputs, *net.outputs)]
    ranks = [len(shape) for shape in shapes]
    fixed = ranks == [4, 2] and all(shapes[0][i].is_static for i in (1, 2, 3))
    sides = [shapes[0][i].get_length() for i in (1, 2, 3)] if fixed else []
    if not fixed or sides[0] != 3 or sides[1] != sides[2]:
        raise UserError(f"{path} takes no images of a fixed size (N, 3, R, R): give another.")
    known = net.get_rt_info([_METADATA]).value if net.has_rt_info([_METADATA]) else {}
    return OpenvinoNet(
        metadata={str(name): str(value) for name, value in known.items()},
        res=sides[1],
        classes=shapes[1][1].get_length(),
        _core=core,
        _net=net,
        _threads=threads,
    )


def version() -> str:
    """Name the installed version, without the build's number."""
    return str(import_openvino().__version__).partition("-")[0]


def write_openvino(path: Path, onnx_file: Path) -> None:
    """Write the net of an ONNX file for OpenVINO: ``path`` (.xml) and its weights beside it (.bin).

    Weights stay float32. The same net gives the same bytes in any process and folder.

    Raises:
        UserError: OpenVINO is not installed.
    """
    check_installed("this form of the net")
    openvino = import_openvino()
    net = openvino.Core().read_model(onnx_file)
    for number, node in enumerate(net.get_ordered_ops()):
        if _COUNTED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{number}")
    with tempfile.TemporaryDirectory(prefix="fixres-openvino-", dir=path.parent) as folder:
        written = Path(folder) / path.name
        openvino.save_model(net, written, compress_to_fp16=False)
        for name in (path.with_suffix(".bin").name, path.name):  # the graph last: it names the file
            with replacing(path.with_name(name)) as temporary:
                written.with_name(name).replace(temporary)


def check_openvino(
    path: Path, reference: Callable[[np.ndarray], np.ndarray], tolerance: float = TOLERANCE
) -> float:
    """Compare a written net's logits with those of another runtime, for batches of 3 and 1.

    Args:
        path: from :func:`write_openvino`.
        reference: gives the logits of normalised images in that runtime, as
            :meth:`OpenvinoNet.run`.

    Returns:
        The largest difference, in units of the largest logit, or absolute where none exceeds 1.

    Raises:
        SweepError: the difference is above ``tolerance``, or the logits are not finite.
    """
    net = open_net(path, threads=1)
    rng = np.random.default_rng(0)
    largest = 0.0
    for batch in CHECK_BATCHES:
        images = rng.standard_normal((batch, 3, net.res, net.res), dtype=np.float32)
        expected, found = reference(images), net.run(images)
        difference = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        if not difference <= tolerance:  # also where it is NaN
            raise SweepError(
                f"{path.name} does not give the net's logits: they differ by {difference:.2g} "
                f"(at most {tolerance:.2g} is rounding)."
            )
        largest = max(largest, difference)
    return largest
