"""Time training and frozen passes on this machine's GPU against plain timm, and measure memory.

    python benchmarks/gpu.py [--nets b0:128 b0:224 b4:380 l2:475] [--seconds 10]

For each net and resolution, at the largest of the batches 256, 128 ... that the memory estimate
lets onto the card: images a second of training steps and of passes without gradients, ours and
timm's, in turns; the faster of two runs counts. timm's is its own benchmark's loop: a model of
``create_model`` in channels last, autocast, its fused AdamW, and one batch of random float images
that lies on the device. Ours has that and more: bytes that come from pinned memory of the host, are
normalised, and a step that can be taken back where memory runs out. So a ratio of 1 is as good as
it gets.

Then the memory: what the estimate says of a step, and the most that PyTorch had reserved in it; and
whether a step that runs out of memory, as the process may have but half of that, ends well in
micro-batches. Without a GPU (``--cpu``) it tries itself out, and no figure means anything.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import timm.optim
import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.data.loader import TrainBatch
from trainables.evaluation.inference import batches_of, logits_of_batch
from trainables.models import backbone, host_memory, variants
from trainables.models.device import CUDA_CONTEXT_BYTES, autocast, device_name, precision_of
from trainables.profiling.training_memory import needed_gb, step_bytes
from trainables.training.distributed import WorkerGroup
from trainables.training.optim import make_optimizer
from trainables.training.train_step import TrainStep

CLASSES, LARGEST_BATCH = 1000, 256
Run = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A net at a resolution, and how many images at once."""

    variant: str
    res: int
    batch: int
    device: torch.device

    @property
    def name(self) -> str:
        return f"{self.variant}@{self.res}, {self.batch} at once"

    @property
    def estimate(self) -> int:
        """Bytes of a training step."""
        return step_bytes(
            self.variant,
            self.res,
            batch=self.batch,
            classes=CLASSES,
            precision="bf16" if precision_of(self.device) != "fp32" else "float32",
            optimizer="adamw",
            ema=False,
        )

    def ours(self) -> tuple[Run, Run]:
        """Make our training step and our pass, each on one batch of bytes."""
        variant = variants.get(self.variant)
        model = backbone.to_device(backbone.build(variant, CLASSES), self.device)
        preprocessing = variants.preprocessing(variant)
        step = TrainStep(
            model,
            make_optimizer(model, "adamw", lr=1e-6, weight_decay=0.05),
            preprocessing,
            label_smoothing=0.1,
            device=self.device,
            group=WorkerGroup(),
        )
        shape = (self.batch, self.res, self.res, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(self.batch) % CLASSES
        batch = TrainBatch(
            host_memory.filled(pixels, self.device), host_memory.filled(labels, self.device)
        )

        def train() -> None:
            model.train()
            step.step(batch, self.batch)

        @torch.inference_mode()
        def look() -> None:
            model.eval()
            for x in batches_of(pixels, self.batch, preprocessing, self.device):
                logits_of_batch(model, x)

        return train, look

    def timms(self) -> tuple[Run, Run]:
        """Make timm's."""
        name = variants.get(self.variant).timm_name
        model = timm.create_model(name, num_classes=CLASSES).to(self.device)
        model = model.to(memory_format=torch.channels_last)
        optimizer = timm.optim.create_optimizer_v2(
            model, opt="adamw", lr=1e-6, weight_decay=0.05, fused=True
        )
        x = torch.randn(self.batch, 3, self.res, self.res, device=self.device)
        x = x.to(memory_format=torch.channels_last)
        y = torch.arange(self.batch, device=self.device) % CLASSES

        def train() -> None:
            model.train()
            optimizer.zero_grad()
            with autocast(self.device):
                loss = cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            optimizer.step()

        @torch.inference_mode()
        def look() -> None:
            model.eval()
            with autocast(self.device):
                model(x)

        return train, look


def rate(run: Run, batch: int, seconds: float, device: torch.device) -> float:
    """Count the images a second of what is run again and again, warmed up."""
    for _ in range(3):
        run()
    synchronize(device)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        run()
        count += 1
        if count % 8 == 0:  # else the host is far ahead, and the time is over long before the work
            synchronize(device)
    synchronize(device)
    return count * batch / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def fitting(variant: str, res: int, device: torch.device, room_gb: float) -> Case:
    """Choose the largest batch whose step is estimated to fit."""
    batch = LARGEST_BATCH
    while batch > 2 and needed_gb(Case(variant, res, batch, device).estimate) > room_gb:
        batch //= 2
    return Case(variant, res, batch, device)


def compare(case: Case, seconds: float) -> str:
    """Time one case both ways, in turns."""
    ours, timms = case.ours(), case.timms()
    cells = [case.name]
    for our_run, their_run in zip(ours, timms, strict=True):
        rates: dict[str, float] = {}
        for _ in range(2):
            for name, run in (("ours", our_run), ("timm", their_run)):
                found = rate(run, case.batch, seconds / 8, case.device)
                rates[name] = max(found, rates.get(name, 0.0))
        ratio = rates["ours"] / rates["timm"]
        cells += [f"{rates['ours']:,.0f}", f"{rates['timm']:,.0f}", f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def remember(case: Case) -> str:
    """Measure a step's memory beside its estimate, then take it in half of the room."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train, _ = case.ours()
    for _ in range(3):
        train()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_reserved()
    del train
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
    try:
        train, _ = case.ours()
        train()
        ended = "recovered"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    whole = (peak + CUDA_CONTEXT_BYTES) / 1e9
    return (
        f"| {case.name} | {needed_gb(case.estimate):.1f} | {whole:.1f} "
        f"| {needed_gb(case.estimate) / whole:.2f} | {ended} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=["b0:128", "b0:224", "b4:380", "l2:475"])
    parser.add_argument("--seconds", type=float, default=10, help="for each net, about")
    parser.add_argument("--cpu", action="store_true", help="try it out without a GPU")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        sys.exit("There is no GPU here: --cpu tries the script out.")
    device = torch.device("cpu" if args.cpu else "cuda")
    room_gb = 1.0 if args.cpu else torch.cuda.get_device_properties().total_memory / 1e9
    print(device_name(device, torch.get_num_threads()), f"{precision_of(device)}\n")
    nets = [(variant, int(res)) for variant, _, res in (net.partition(":") for net in args.nets)]
    cases = [fitting(variant, res, device, room_gb) for variant, res in nets]
    print("| images/s | training, ours | timm | ratio | pass, ours | timm | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for case in cases:
        print(compare(case, args.seconds), flush=True)
    if device.type == "cuda":
        print("\n| GB of a step | estimate | measured | ratio | with half of it |")
        print("|---|---:|---:|---:|---|")
        for case in cases:
            print(remember(case), flush=True)


if __name__ == "__main__":
    main()
