"""Record the learning curves of a sweep without cuts, for simulate.py --curves recorded.

    python benchmarks/record_curves.py "hand signs, 2,062 photographs" --data IMAGES --work WORK

Trains the trunks of one point as a sweep does that cuts none: its own plan, hyperparameters (qmc,
in the ranges that are the default, so that they fill them evenly) and training; beyond a sweep, val
is scored after the epochs of --scored, not at rungs alone. More images are val than train, so that
what is recorded is known to a point or two, and soon. WORK is the store: what it holds is not
trained again. Without --data the built-in digits are drawn, fewer for train and more for val than
in a sweep.

What is recorded goes to recorded_curves.json beside this script, under the name of the set; other
sets stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from sweeps.planning.building import build_plan
from sweeps.planning.options.groups import GridOptions
from sweeps.planning.plan import Plan
from sweeps.planning.recipes import builtin_digits
from sweeps.planning.spec import SweepSpec
from sweeps.scheduling.proposals import Trial, propose
from trainables.data import builtin_digits as digits
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_text
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import (
    EpochReport,
    TrunkSpec,
    TrunkStatus,
    finalize_trunk,
    recorded_reports,
)

FILE = Path(__file__).with_name("recorded_curves.json")
SCORED = (1, 2, 3, 6, 9, 18, 20)  # the rungs where the first one is 1 or 2, and the end
VAL_SHARE, TEST_SHARE = 0.4, 0.3
BUILT_IN = digits.EmbeddedSpec(train=600, val=800, test=397)


def spec_of(args: argparse.Namespace) -> SweepSpec:
    """Make the spec of the sweep; the built-in digits have their own augmentation."""
    spec = SweepSpec()
    grid = GridOptions(
        variants=(args.variant,),
        train_res=(args.train_res,),
        test_res=tuple(args.test_res),
        untouched=False,
    )
    trunks = replace(spec.trunks, epochs=max(args.scored))
    if args.data is None:
        mild = builtin_digits().trunks
        trunks = replace(trunks, hflip=mild.hflip, crop_scale=mild.crop_scale)
    search = replace(spec.search, samples=args.samples, searcher="qmc")
    return replace(spec, grid=grid, trunks=trunks, search=search)


def images_of(args: argparse.Namespace) -> ImageSet:
    """Read the images, or draw the built-in digits."""
    data = args.data or digits.make(args.work / "digits", BUILT_IN)
    options = ReadOptions(val_share=VAL_SHARE, test_share=TEST_SHARE)
    return prepare(data.resolve(), args.work / "cache", options)


def trunks_of(plan: Plan) -> list[TrunkSpec]:
    """List the trunks of the point: the middle of the ranges, then as proposed."""
    (point,), found, tried = plan.points, list[TrunkSpec](), list[Trial]()
    for sample in range(plan.samples):
        draw = propose(plan.search, point, tried, seed=plan.spec.run.seed, sample=sample)
        found.append(plan.trunk(point, draw.hyper, draw.recipe))
        tried.append(Trial(point=point, hyper=draw.hyper, values={}, running=False, finished=False))
    return found


def trained(
    args: argparse.Namespace, plan: Plan, images: ImageSet, store: Store[Path], trunk: TrunkSpec
) -> list[EpochReport]:
    """Train a trunk to its end, unless the store holds it, and return its reports."""
    if not (store.trunk(trunk.key) / "result.json").exists():
        training = TrunkTraining(
            trunk,
            images,
            store,
            cache=args.work / "cache",
            threads=args.threads,
            val_transforms=plan.val_transforms(plan.points[0]),
            rungs=tuple(args.scored),
        )
        while training.trained_epochs < trunk.recipe.epochs:
            report = training.epoch()
            print(f"epoch {report.epoch}: {report.seconds:.1f} s", file=sys.stderr, flush=True)
        finalize_trunk(store, trunk.key, TrunkStatus.FINISHED)
    return recorded_reports(store, trunk.key)


def as_recorded(trunk: TrunkSpec, reports: list[EpochReport]) -> dict[str, Any]:
    """Note a trunk's hyperparameters, and its hits on val at each test resolution."""
    scored = [report.val for report in reports if report.val]
    hits = {res: [val[res].hits1 for val in scored] for res in scored[0]}
    return {**vars(trunk.hyper), "hits": hits}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", help="of the set of images, in words")
    parser.add_argument("--data", type=Path, help="images; left out: the built-in digits")
    parser.add_argument("--work", type=Path, required=True, help="folder of the store and cache")
    parser.add_argument("--variant", default="lite0")
    parser.add_argument("--train-res", type=int, default=48, help="px")
    parser.add_argument("--test-res", type=int, nargs="+", default=[48, 64], help="px")
    parser.add_argument("--samples", type=int, default=16, help="trunks")
    parser.add_argument("--scored", type=int, nargs="+", default=SCORED, help="epochs; last: end")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec, images, store = spec_of(args), images_of(args), Store(args.work / "store")
    weights = find_weights(variants.get(args.variant), "auto", store)
    plan = build_plan(spec, images, [weights])
    trunks = []
    for trunk in trunks_of(plan):
        trunks.append(as_recorded(trunk, trained(args, plan, images, store, trunk)))
        write(args, plan, trunks)


def write(args: argparse.Namespace, plan: Plan, trunks: list[dict[str, Any]]) -> None:
    """Write what is known of a set by now into the file; other sets stay."""
    sets = json.loads(FILE.read_text()) if FILE.exists() else {}
    sets[args.name] = {
        "variant": args.variant,
        "train_res": args.train_res,
        "train": plan.counts["train"],
        "val": plan.counts["val"],
        "classes": len(plan.classes),
        "epochs": list(args.scored),
        "trunks": trunks,
    }
    lines = [
        json.dumps(name)
        + ": "
        + json.dumps(one).replace('{"lr"', '\n    {"lr"').replace(" \n", "\n")
        for name, one in sorted(sets.items())
    ]
    write_text(FILE, "{\n  " + ",\n  ".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
