"""Open nets in PyTorch for measuring their latency: as they are, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from trainables.errors import UserError
from trainables.machine import cpu_name
from trainables.models import backbone, variants
from trainables.models.device import autocast, pick_device, precision_of
from trainables.profiling.latency import Call, Conditions, Net, Setting

# A compiled forward is kept for each net and batch size: far more than are usual.
MAX_COMPILED = 100_000

NetAtRes = tuple[str, int]


def conditions(setting: Setting) -> Conditions:
    """Name what nets from :func:`open_nets` are measured with here."""
    gpu = pick_device().type == "cuda"
    return Conditions(
        runtime=setting.runtime,
        version=torch.__version__,
        device=torch.cuda.get_device_name() if gpu else cpu_name(),
        precision=precision_of(pick_device()) if gpu else "float32",
        threads=setting.threads,
        batch=setting.batch,
        throughput_batch=setting.throughput_batch,
    )


@contextmanager
def open_nets(
    nets: Sequence[NetAtRes], classes: int, setting: Setting
) -> Iterator[Mapping[NetAtRes, Net]]:
    """Build the nets as this package runs them: channels last, random weights.

    While the block runs, PyTorch has the setting's number of threads and keeps no gradients.

    Args:
        nets: variants, and the side of the images in px.
        classes: outputs of the classifier.
        setting: its runtime is "torch" or "torch-compile".

    Raises:
        UserError: nothing can be compiled here.
    """
    device, threads = pick_device(), torch.get_num_threads()
    compiled = setting.runtime == "torch-compile"
    torch.set_num_threads(setting.threads)
    try:
        with (
            torch.inference_mode(),
            torch._dynamo.config.patch(
                recompile_limit=MAX_COMPILED, accumulated_recompile_limit=MAX_COMPILED
            ),
        ):
            yield {net: _net(*net, classes, device, compiled=compiled) for net in nets}
    finally:
        torch.set_num_threads(threads)


def _net(variant: str, res: int, classes: int, device: torch.device, *, compiled: bool) -> Net:
    model = backbone.to_device(backbone.build(variants.get(variant), classes), device).eval()
    # On a GPU the compiled net is captured as a CUDA graph: else launches take most of the time.
    mode = "reduce-overhead" if device.type == "cuda" else None
    # With fullgraph, a net that could not be compiled as a whole is an error, not run as it is.
    run = torch.compile(model, fullgraph=True, dynamic=False, mode=mode) if compiled else model

    def forward(images: torch.Tensor) -> None:
        with autocast(device):
            run(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def at(batch: int) -> Call:
        x = torch.zeros(batch, 3, res, res, device=device)
        x = x.to(memory_format=torch.channels_last)
        if compiled:
            _compile_now(forward, x)
        return lambda: forward(x)

    return at


def _compile_now(forward: Callable[[torch.Tensor], None], x: torch.Tensor) -> None:
    try:
        forward(x)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"`latency_runtime` torch-compile: PyTorch cannot compile here ({reason}): install a "
            "C++ compiler, or choose another runtime."
        ) from None
