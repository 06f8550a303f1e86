"""The plan as the terminal shows it: what its trials take of a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sweeps.execution import gpu_memory
from sweeps.planning.plan import Plan
from sweeps.planning.workload import planned_cells
from sweeps.terminal.plan_tables import plan_view
from tests.factories import file_console, output_of, plan_of, spec_with


def plan(**options: Any) -> Plan:
    return plan_of(spec_with(**{"train_res": (64, 96), "test_res": (96,), **options}))


def shown(**options: Any) -> str:
    console = file_console()
    console.print(plan_view(plan(**options)))
    return output_of(console)


def one_line(shown: str) -> str:
    return " ".join(shown.split())


def test_the_plan_says_what_a_trunk_takes_of_a_gpu() -> None:
    gb = gpu_memory.trunk_memory_needs(plan())["b0", 96].gb(1)
    assert "GPU" not in shown()
    few = shown(gpu_memory_gb=3.5 * gb)
    assert f"{3.5 * gb:.1f} GB each (--gpu-memory-gb)" in few and f"{gb:.1f} on 1/3" in few
    assert f"{gb:.1f} on 0.7" in shown(gpu_memory_gb=3 * gb, gpus_per_trial=0.7)
    assert "*" not in few


def test_the_plan_says_what_does_not_fit() -> None:
    gb = gpu_memory.trunk_memory_needs(plan())["b0", 96].gb
    small = shown(gpu_memory_gb=0.9 * gb(1))
    assert f"{gb(1):.1f} on 1 *" in small and "steps are split" in small
    spread = shown(gpu_memory_gb=0.9 * gb(1), workers_per_trial=4)
    assert f"{gb(4):.1f} on each of 4" in spread
    assert "split" not in spread and "split b0 at 96 px: 16 images at once" in one_line(small)
    least = shown(gpu_memory_gb=0.1)
    assert "2 images at once on each GPU, by the estimate, and batch norms stand" in one_line(least)
    some = shown(gpu_memory_gb=0.1, space={"freeze_batch_norm": {"choices": [True, False]}})
    assert "by the estimate, and batch norms stand" in one_line(some)
    # Frozen ones do so in all of the training, of which another line tells.
    frozen = one_line(shown(gpu_memory_gb=0.1, freeze_batch_norm=True))
    assert "2 images at once on each GPU, by the estimate; the batch" in frozen


def test_the_plan_says_what_is_searched_and_how() -> None:
    entries: dict[str, Any] = {
        "optimizer": {"choices": ["sgd", "adamw"]},
        "batch_size": {"low": 16, "high": 64, "log": True},
        "hflip": 0.5,
    }
    told = " ".join(shown(searcher="qmc", space=entries, try_=({"lr": 1e-3},)).split())
    assert (
        "search qmc over lr 0.0002 to 0.005 (log), weight decay 0.001 to 0.1 (log), "
        "label smoothing 0 to 0.2, batch size 16 to 64 (log), optimizer sgd or adamw; first 1 "
        "given point(s)"
    ) in told


def test_the_plan_says_where_fewer_trunks_differ_than_were_asked_for() -> None:
    fixed: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1, "label_smoothing": 0.0}
    few = {**fixed, "optimizer": {"choices": ["sgd", "adamw"]}}
    assert "2 samples (of --samples 4, as no more differ);" in " ".join(shown(space=few).split())
    assert "as no more differ" not in shown(space=few, samples=2) + shown()


def test_memory_is_planned_for_the_largest_batch_that_may_be_drawn() -> None:
    def gb(workers: int, **options: Any) -> float:
        return gpu_memory.trunk_memory_needs(plan(**options))["b0", 96].gb(workers)

    batches = {"batch_size": {"choices": [8, 64]}, "optimizer": {"choices": ["sgd", "adamw"]}}
    assert gb(1, space=batches, optimizer="sgd") == gb(1, batch_size=64) > gb(1, batch_size=8)
    need = gpu_memory.trunk_memory_needs(plan(space=batches))["b0", 96]
    assert need.max_workers == 4


def test_the_plan_names_classes_and_layout() -> None:
    few = shown()
    assert "layout   class folders\n" in few
    assert "cat, dog, fox (--class-order string); smallest fox (50 images), largest cat (90)" in few
    names = tuple("abcdefghij")
    many = replace(plan(class_order="natural"), classes=names, class_sizes=tuple(range(10, 20)))
    console = file_console()
    console.print(plan_view(many))
    told = "a, b, c, ..., h, i, j (--class-order natural); smallest a (10 images), largest j (19)"
    assert told in output_of(console)
    console.print(plan_view(replace(many, class_sizes=(7,) * 10)))
    assert "; each of 7 images\n" in output_of(console)


def test_the_plan_says_where_splits_are_from_and_what_looks_alike_in_them() -> None:
    console = file_console()
    console.print(plan_view(replace(plan(), splits="val is 9 images of its train")))
    console.print(plan_view(replace(plan(), near_duplicates="none between train, val, test")))
    told = output_of(console)
    assert "\nsplits   val is 9 images of its train\n" in told
    assert "\nalike    near-duplicates: none between train, val, test\n" in told
    assert told.count("near-duplicates") == told.count("\nsplits") == 1


def test_the_plan_says_what_trunks_start_from_and_what_of_them_is_frozen() -> None:
    assert "frozen" not in shown() and "\nstart " not in shown()
    asked: dict[str, Any] = {"freeze_batch_norm": True, "start": "probe", "head_only_epochs": 2}
    told = shown(**asked)
    assert "\nstart    of the classifier: a linear probe" in told
    seen = f"{120 * len(plan(**asked).points):,} seen by linear probes"
    assert seen in one_line(told) and "probes" not in shown()
    assert "\nfrozen   all but the classifier in the first 2 epoch(s)\n" in told
    assert "\nfrozen   batch norms, statistics, scales and shifts" in told
    assert "frozen" not in shown(**asked, epochs=0, data="/")
    assert "--freeze-batch-norm" not in told
    assert "--freeze-batch-norm keeps them" in shown(start="probe")
    assert "--freeze" not in shown(start="probe", variants=("timm:convnext_atto",), arms=("fix",))


def test_the_plan_says_where_steps_are_few_for_the_learning_rates() -> None:
    few: dict[str, Any] = {"epochs": 5, "batch_size": 32, "lr": (2e-4, 5e-3)}  # of 120 images
    told = shown(**few)
    assert "\nsteps    15 of a trunk, which are few: at learning rates up to 0.001 " in told
    assert "worse than untouched nets; try --lr 0.001 0.004 (docs/training.md)\n" in told
    frozen = {"freeze_batch_norm": {"choices": [True, False]}}
    for otherwise in (
        {"epochs": 100},
        {"epochs": 0},
        {"freeze_batch_norm": True},
        {"space": frozen},
        {"optimizer": "sgd"},
        {"weights": "none"},
        {"batch_size": 2},
        {"variants": ("timm:convnext_atto",), "arms": ("fix",)},
    ):
        assert "\nsteps " not in shown(**few | otherwise), otherwise
    high = one_line(shown(**few | {"lr": (1e-3, 4e-3)}))
    assert "few: high learning rates suit them (docs/training.md)" in high
    assert "15 of a trunk" in shown(
        **few | {"optimizer": "sgd", "space": {"optimizer": {"choices": ["sgd", "adamw"]}}}
    )


def test_the_plan_says_what_balances_classes() -> None:
    assert "\nbalance " not in shown()
    assert "\nbalance  balanced sampling: an epoch draws 120 images" in shown(sampling="balanced")


def test_the_plan_says_what_is_touched_of_nets_that_are_no_efficientnets() -> None:
    assert "touches" not in shown()
    text = shown(variants=("b0", "timm:resnet18", "timm:convnext_atto"), arms=("none", "bn", "fix"))
    touched = text[text.index("touches") : text.index("passes")]
    resnet, convnext = touched.split("timm:convnext_atto")
    assert "timm:resnet18: last norm layer4.1.bn2 (statistics," in " ".join(resnet.split())
    assert "classifier fc" in resnet and "no arm" not in resnet
    assert "last norm head.norm (scale and shift alone)" in " ".join(convnext.split())
    assert "no arm bn" in " ".join(convnext.split())


def test_a_net_without_statistics_has_no_arm_that_changes_nothing_else() -> None:
    made = plan(variants=("b0", "timm:convnext_atto"), arms=("none", "bn", "fix"))
    arms = {point.variant: made.arms_for(point.variant) for point in made.points}
    assert arms == {"b0": ("none", "bn", "fix"), "timm:convnext_atto": ("none", "fix")}
    by_kind = {kind[0]: kind[2] for kind in planned_cells(made)}
    assert by_kind == arms
