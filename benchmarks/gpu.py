"""Time training and frozen passes on this machine's GPU against plain timm, and measure memory.

    python benchmarks/gpu.py [--nets b0:128 b0:224 b4:380 l2:475] [--seconds 6] [--parts timm ...]

``timm``: for each net and resolution, at the largest of the batches 256, 128 ... that the memory
estimate lets onto the card: images a second of training steps and of passes without gradients, ours
and timm's, in turns; the faster of two runs counts. timm's is its own benchmark's loop: a model of
``create_model`` in channels last, autocast, its fused AdamW, and one batch of random float images
that lies on the device. Our step has that and more: bytes that come from pinned memory of the host,
are normalised, and a step that can be taken back where memory runs out. So a ratio of 1 is as good
as it gets. Our passes take bytes from memory of the host to logits there: those that score what is
in training, and the frozen ones of cells, whose batch norms are folded; each lasts about a second,
as its first batch is waited for.

``memory``: for each of ``--memory-nets`` what the estimate says of a step, and the most that
PyTorch had reserved in it; and whether a step that runs out of memory, as the process may have but
half of that, ends well in micro-batches. ``speed-ups``: steps with each of ``--speed-ups`` against
steps without, of the first net in batches of 32 images, where launches take the time, and the
seconds that the first two steps take, the second of which records a graph. ``packing``: eight
processes that train the same beside each other, each with an eighth of the card, against one that
has it to itself: a ratio of 1 is what one after another comes to. ``sweep``: the built-in sweep on
the card, there with `cuda_graph`, and on the CPU, all at the same time; seconds of each beside the
others, and top-1 on val of the same cells, which differ by chance and by the arithmetic.

The seconds of each part are told: all of it is to take less than eight minutes. Without a GPU
(``--cpu``) it tries itself out, and no figure means anything.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, get_args

import numpy as np
import timm
import timm.optim
import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweeps.interface import SweepResult, open_result
from trainables.data.loader import TrainBatch, copied_batches
from trainables.evaluation.inference import logits_of, outputs_of
from trainables.models import backbone, variants
from trainables.models.device import (
    CUDA_CONTEXT_BYTES,
    autocast,
    device_name,
    precision_of,
    take_gpu_share,
    use_speed_ups,
)
from trainables.models.speed_ups import SpeedUp
from trainables.models.transfer import host_memory
from trainables.profiling.training_memory import needed_gb, step_bytes
from trainables.training.distributed import WorkerGroup
from trainables.training.optim import make_optimizer
from trainables.training.train_step import TrainStep

CLASSES = 1000
NETS = ["b0:128", "b0:224", "b4:380", "l2:475"]
PARTS = ("timm", "memory", "speed-ups", "packing", "sweep")
PASS_BATCHES = 8, 64  # of a pass, at least and at most
SMALL_BATCH = 32  # images of a step that is mostly launches
PACKED = 8  # trials on the card
NO_GPU = ["--gpus-per-trial", "0"]
ROOT = Path(__file__).resolve().parents[1]
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

    def ours(self, *speed_ups: SpeedUp, pass_batches: int = 1) -> tuple[Run, ...]:
        """Make our training step on one batch of bytes, and our passes over several."""
        variant = variants.get(self.variant)
        with self.device:  # a CPU takes ten seconds to draw the weights of l2
            model = backbone.to_device(backbone.build(variant, CLASSES), self.device)
        preprocessing = variants.preprocessing(variant)
        step = TrainStep(
            model,
            make_optimizer(model, "adamw", lr=1e-6, weight_decay=0.05),
            preprocessing,
            label_smoothing=0.1,
            device=self.device,
            group=WorkerGroup(),
            speed_ups=speed_ups,
        )
        shape = (self.batch, self.res, self.res, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(self.batch) % CLASSES
        filled, named = host_memory.filled_ahead([pixels, labels], self.device)
        batch = TrainBatch(filled, named)

        batches = copied_batches(repeat(batch), self.device)

        def train() -> None:
            model.train()
            step.step(next(batches), self.batch)
            if ":" in step.speed_ups:
                raise RuntimeError(step.speed_ups)

        @cache  # for those who pass: else it would be in what a step takes of memory
        def frozen() -> backbone.Net:
            return backbone.frozen_body(model.eval())

        @cache
        def view() -> np.ndarray:
            return np.concatenate([pixels] * pass_batches)

        how: Any = {"batch_size": self.batch, "device": self.device}

        def score() -> None:
            logits_of(model, view(), preprocessing, **how)

        def forward(x: torch.Tensor) -> torch.Tensor:
            maps = backbone.body(frozen(), x)
            features = backbone.head_input(model, backbone.pre_norm(model, maps))
            return backbone.classify(model, features)

        def pass_frozen() -> None:
            outputs_of(forward, view(), preprocessing, **how)

        return train, score, pass_frozen

    def timms(self) -> tuple[Run, Run]:
        """Make timm's step, and its pass over one batch."""
        name = variants.get(self.variant).timm_name
        with self.device:
            model = timm.create_model(name, num_classes=CLASSES)
        model = model.to(self.device, memory_format=torch.channels_last)
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
    began, warm_ups = time.perf_counter(), 0
    while warm_ups == 0 or (warm_ups < 3 and time.perf_counter() - began < seconds):
        run()
        synchronize(device)
        warm_ups += 1
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


def fitting(variant: str, res: int, batch: int, device: torch.device, room_gb: float) -> Case:
    """Halve the batch until its step is estimated to fit."""
    while batch > 2 and needed_gb(Case(variant, res, batch, device).estimate) > room_gb:
        batch //= 2
    return Case(variant, res, batch, device)


def compare(case: Case, seconds: float) -> str:
    """Time one case both ways, in turns."""
    turn, (their_train, their_pass) = seconds / 10, case.timms()
    batches = 1
    if case.device.type != "cpu":
        a_second = rate(their_pass, case.batch, turn, case.device) / case.batch
        batches = round(min(max(PASS_BATCHES[0], a_second), PASS_BATCHES[1]))
    train, score, frozen = case.ours(pass_batches=batches)
    views = batches * case.batch
    rates: dict[str, float] = {}
    for _ in range(2):
        for name, run, images in (
            ("train", train, case.batch),
            ("their train", their_train, case.batch),
            ("score", score, views),
            ("frozen", frozen, views),
            ("their pass", their_pass, case.batch),
        ):
            found = rate(run, images, turn, case.device)
            rates[name] = max(found, rates.get(name, 0.0))
    cells = [case.name]
    for names, theirs in ((["train"], "their train"), (["score", "frozen"], "their pass")):
        cells += [f"{rates[name]:,.0f}" for name in [*names, theirs]]
        cells += [f"{rates[name] / rates[theirs]:.2f}" for name in names]
    return f"| {' | '.join(cells)} |"


def remember(case: Case) -> str:
    """Measure a step's memory beside its estimate, then take it in half of the room."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train, *_ = case.ours()
    for _ in range(3):
        train()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_reserved()
    del train
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties().total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / total)
    try:
        train, *_ = case.ours()
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


def speed_up(case: Case, name: SpeedUp, seconds: float) -> str:
    """Time steps with a speed-up against steps without, in turns."""
    plain, *_ = case.ours()
    sped_up, *_ = case.ours(name)
    _use(case.device, name)
    began, rates = time.perf_counter(), dict[str, float]()
    try:
        for _ in range(2):
            sped_up()
        synchronize(case.device)
        first_s = time.perf_counter() - began
        for _ in range(2):
            for way, run in (("with", sped_up), ("without", plain)):
                _use(case.device, *[name] * (way == "with"))
                found = rate(run, case.batch, seconds / 6, case.device)
                rates[way] = max(found, rates.get(way, 0.0))
    except RuntimeError as error:
        return f"| {case.name} | {name} | | | {str(error).partition(chr(10))[0]} | |"
    finally:
        _use(case.device)
    ratio = rates["with"] / rates["without"]
    numbers = f"{rates['with']:,.0f} | {rates['without']:,.0f} | {ratio:.2f} | {first_s:.1f}"
    return f"| {case.name} | {name} | {numbers} |"


def _use(device: torch.device, *names: SpeedUp) -> None:
    if device.type == "cuda":
        use_speed_ups(names)


def pack(case: Case, count: int, seconds: float) -> str:
    """Time steps of several processes beside each other, and of one that is alone."""
    alone, together = (sum(_rates_beside(case, n, seconds)) for n in (1, count))
    return (
        f"{case.name}: {together:,.0f} images/s by {count} processes together, {alone:,.0f} by one "
        f"alone: {together / alone:.2f} times what one after another does"
    )


def _rates_beside(case: Case, count: int, seconds: float) -> list[float]:
    spawning = torch.multiprocessing.get_context("spawn")
    ready, rates = spawning.Barrier(count), spawning.SimpleQueue()
    given = (case, count, seconds, ready, rates)
    trials = [spawning.Process(target=_train_beside, args=given) for _ in range(count)]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join()
    if any(trial.exitcode for trial in trials):
        sys.exit("A process of the packing has failed: its trace is above.")
    return [rates.get() for _ in trials]


def _train_beside(case: Case, count: int, seconds: float, ready: Any, rates: Any) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    if case.device.type == "cuda":
        take_gpu_share(1 / count)
    train, *_ = case.ours()
    train()
    ready.wait()
    rates.put(rate(train, case.batch, seconds, case.device))


def sweep(how: Sequence[str], folder: Path, small: bool) -> tuple[float, SweepResult]:
    """Run the built-in sweep, with two trunks a point; give its seconds and what came of it."""
    given = ["--no-untouched", "--samples", "2", "--test-crop-pct", "1.0"]
    size = ["--epochs", "1", "--test-res", "32", "40", "--head-epochs", "2"]
    given += ["--variants", "lite0", "--train-res", "32", "--samples", "1", *size] if small else []
    command = [sys.executable, str(ROOT / "sweeps" / "fixres_grid.py"), "--out", str(folder)]
    began = time.perf_counter()
    subprocess.run([*command, *given, *how], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, open_result(folder)


def compare_sweeps(small: bool) -> Iterator[str]:
    """Run the sweep on the device in two ways and on the CPU, and compare the cells all have."""
    ways = {"card": [], "card with cuda_graph": ["--speed-ups", "cuda_graph"], "CPU": NO_GPU}
    if small:
        ways = {"CPU": NO_GPU, "CPU again": NO_GPU}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(ways)) as pool:
        swept = pool.map(lambda way: sweep(ways[way], Path(folder) / way, small), ways)
        tops = []
        for way, (seconds, result) in zip(ways, swept, strict=True):
            best = result.best
            yield (
                f"{way}: {seconds:.0f} s; chosen {best.variant} {best.train_res} -> "
                f"{best.test_res} px, {best.arm}, {100 * best.top1:.1f} % on val"
            )
            rows = result.leaderboard.query("split == 'val'")
            at = ["variant", "train_res", "test_res", "arm"]
            tops.append(rows.groupby(at)["top1"].mean())
    first, *others = ways
    for way, top in zip(others, tops[1:], strict=True):
        off = 100 * (tops[0] - top).dropna()
        yield (
            f"of {len(off)} arms of cells that both have: {first} less {way} "
            f"{off.mean():+.1f} points of top-1 in the mean, {off.abs().max():.1f} at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--memory-nets", nargs="+", default=[*NETS, "b2:260", "b6:528"])
    parser.add_argument("--batch", type=int, default=256, help="at most")
    parser.add_argument("--seconds", type=float, default=6, help="for each net, about")
    parser.add_argument("--cpu", action="store_true", help="try it out without a GPU")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--speed-ups", nargs="+", default=get_args(SpeedUp), help="to be timed")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        sys.exit("There is no GPU here: --cpu tries the script out.")
    device = torch.device("cpu" if args.cpu else "cuda")
    room_gb = 1.0 if args.cpu else torch.cuda.get_device_properties().total_memory / 1e9
    print(device_name(device, torch.get_num_threads()), f"{precision_of(device)}\n")

    def cases(nets: Sequence[str]) -> list[Case]:
        named = (net.partition(":") for net in nets)
        return [fitting(name, int(res), args.batch, device, room_gb) for name, _, res in named]

    parts = [part for part in PARTS if part in args.parts]
    if device.type == "cpu":
        parts = [part for part in parts if part != "memory"]  # which PyTorch does not count there
    for part in parts:
        print(f"{part}\n")
        began = time.perf_counter()
        for line in lines_of(
            part, cases(args.memory_nets if part == "memory" else args.nets), args
        ):
            print(line, flush=True)
        print(f"\n{part}: {time.perf_counter() - began:.0f} s\n")


def lines_of(part: str, cases: list[Case], args: argparse.Namespace) -> Iterator[str]:
    """Measure a part, and give its lines as they come."""
    if part == "timm":
        yield (
            "| images/s | training, ours | timm's | ratio | scores, ours | frozen pass, ours "
            "| timm's pass | ratio | ratio |"
        )
        yield f"|---{8 * '|---:'}|"
        yield from (compare(case, args.seconds) for case in cases)
    elif part == "memory":
        yield "| GB of a step | estimate | measured | ratio | with half of it |"
        yield "|---|---:|---:|---:|---|"
        yield from map(remember, cases)
    elif part == "speed-ups":
        yield "| images/s | speed-up | with | without | ratio | s of the first two steps |"
        yield "|---|---|---:|---:|---:|---:|"
        small = replace(cases[0], batch=SMALL_BATCH)
        yield from (speed_up(small, name, args.seconds) for name in args.speed_ups)
    elif part == "packing":
        count = 2 if args.cpu else PACKED
        yield pack(replace(cases[0], batch=SMALL_BATCH), count, args.seconds)
    else:
        yield from compare_sweeps(small=args.cpu)


if __name__ == "__main__":
    main()
