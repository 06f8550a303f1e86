"""Write the finished net in formats that need neither timm nor this package to run.

``model.onnx`` is for ONNX Runtime and whatever else reads ONNX, ``model.pt2`` for PyTorch alone.
Both take normalised pixels (N, 3, R, R) float32 for any N >= 1 and give logits (N, C) float32. The
same net gives the same bytes in any process and folder, and they hold no path of the machine.
"""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from onnxscript import ir
from onnxscript.ir.passes.common import ClearMetadataAndDocStringPass
from torch import nn

from trainables.errors import SweepError
from trainables.models.folding import fold_batch_norms
from trainables.storage.replacing import replacing

# Otherwise ONNX Runtime calls its makers, and keeps an id of the device in the home folder.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

PIXELS, LOGITS, BATCH = "pixels", "logits", "N"  # names in the ONNX graph
# Protobuf cannot read 2 GiB or more; the rest is left for the graph itself. L2 with ImageNet's
# classes has 1.92 GB of weights.
MAX_SINGLE_FILE_BYTES = 2**31 - 2**26
MIN_EXTERNAL_BYTES = 1024  # smaller tensors stay in the graph: readers look for axes there
CHECK_BATCHES = (3, 1)


def trace(model: nn.Module, res: int) -> torch.export.ExportedProgram:
    """Trace ``model`` in eval mode for any batch size: (N, 3, res, res) -> (N, C), float32.

    All formats are written from one trace, which takes longer than to write them. Batch norms are
    folded into convolutions first: as nodes of their own they take twice as long to export, and an
    exporter folds them at last.

    Args:
        model: on any device, in any memory format; it is left as it is.
        res: px.

    Returns:
        The program, without stack traces and example inputs.
    """
    program = torch.export.export(
        folded(model),
        (torch.zeros(2, 3, res, res),),  # with one image, N would be taken for the constant 1
        dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None
    return program


def export_onnx(program: torch.export.ExportedProgram) -> ir.Model:
    """Turn a net into an ONNX graph: "pixels" (N, 3, res, res) -> "logits" (N, C), float32.

    Weights have the names that they have in the folded net.

    Args:
        program: from :func:`trace`; it is left as it is.
    """
    exported = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[PIXELS],
        output_names=[LOGITS],
    )
    assert exported is not None
    graph = exported.model
    ClearMetadataAndDocStringPass()(graph)  # holds class names, files and line numbers
    _tidy_values(graph.graph)
    return graph


def write_onnx(path: Path, graph: ir.Model, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file.

    It is one file, but for a net of more than MAX_SINGLE_FILE_BYTES, whose weights lie beside it
    in ``<name>.data``.

    Args:
        graph: with all of its weights.
        metadata: the file's metadata properties.
    """
    graph.metadata_props.update(metadata)
    weights = (value.const_value for value in graph.graph.initializers.values())
    if sum(tensor.nbytes for tensor in weights if tensor is not None) > MAX_SINGLE_FILE_BYTES:
        ir.external_data.unload_from_model(
            graph, path.parent, f"{path.name}.data", size_threshold_bytes=MIN_EXTERNAL_BYTES
        )
    with replacing(path) as temporary:
        temporary.write_bytes(ir.to_proto(graph).SerializeToString(deterministic=True))


def write_program(path: Path, program: torch.export.ExportedProgram) -> None:
    """Write a net as a torch.export program: (N, 3, res, res) -> (N, C), float32.

    ``torch.export.load(path).module()(pixels)`` runs it. The file holds no pickle: weights are raw
    bytes, the graph is JSON, and there are no example inputs (which would be pickled). Nevertheless
    torch.export.load is for trusted files: it unpickles what other files hold, and evaluates
    expressions of shapes.

    Args:
        program: from :func:`trace`; it is left as it is.
    """
    archive = io.BytesIO()  # a file's name would become part of the bytes
    torch.export.save(program, archive)
    with replacing(path) as temporary:
        temporary.write_bytes(archive.getbuffer())


def check(
    path_onnx: Path, path_program: Path, model: nn.Module, res: int, tolerance: float = 1e-4
) -> float:
    """Compare the files' logits with the model's, for batches of 3 and 1, on the CPU.

    Args:
        path_onnx: from :func:`write_onnx`.
        path_program: from :func:`write_program`; only a trusted file, see there.

    Returns:
        The largest difference, in units of the largest logit, or absolute where none exceeds 1:
        float32 keeps about 7 digits of a sum, however large it is.

    Raises:
        SweepError: the difference is above ``tolerance``, or the logits are not finite.
    """
    reference = _plain_copy(model)
    written: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        path_onnx.name: _onnx_runner(path_onnx),
        path_program.name: torch.export.load(path_program).module(),
    }
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for batch in CHECK_BATCHES:
        pixels = torch.randn(batch, 3, res, res, generator=generator)
        with torch.inference_mode():
            expected = reference(pixels)
            for name, run in written.items():
                difference = _difference(run(pixels), expected)
                if not difference <= tolerance:  # also where it is NaN
                    raise SweepError(
                        f"{name} does not give the net's logits: they differ by {difference:.2g} "
                        f"(at most {tolerance:.2g} is rounding)."
                    )
                largest = max(largest, difference)
    return largest


def _difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _onnx_runner(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Load the file into ONNX Runtime; the function takes pixels and gives logits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([LOGITS], {PIXELS: pixels.numpy()})
        return torch.from_numpy(np.asarray(logits))

    return run


def folded(model: nn.Module) -> nn.Module:
    """Copy the model as it is written: on the CPU, in eval mode, its batch norms folded."""
    plain = _plain_copy(model)
    fold_batch_norms(plain)
    return plain


def _plain_copy(model: nn.Module) -> nn.Module:
    """Copy the model to the CPU, in eval mode, without gradients, with contiguous strides.

    ``to(memory_format=...)`` would leave 1 x 1 convolutions with the strides of channels last,
    which are written into the files. Activations in place would be taken apart into comparisons of
    symbolic shapes, which takes four fifths of an export's time and ends in the same nodes.
    """
    plain = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for tensor in [*plain.parameters(), *plain.buffers()]:
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return plain


def _tidy_values(graph: ir.Graph) -> None:
    """Name the batch dimension for people, and drop the exporter's notes on values."""
    shape = graph.inputs[0].shape
    assert shape is not None
    symbol = shape[0]
    outputs = (output for node in graph for output in node.outputs)
    for value in [*graph.inputs, *graph.initializers.values(), *outputs]:
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape([BATCH if size == symbol else size for size in value.shape])
