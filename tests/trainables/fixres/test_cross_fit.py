"""Halves of val pick for themselves, and each judges the other's pick."""

from dataclasses import replace
from math import inf, nan
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score

from tests.trainables.fixres.test_heads import GRID, Data, fitted, make_data, plain_epochs
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.cross_fit import WORST, merit, val_halves
from trainables.fixres.head_settings import HeadGrid


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_halves_are_even_in_number_and_in_each_class(n):
    labels = torch.randint(7, (n,), generator=torch.Generator().manual_seed(n))
    halves = val_halves(labels)
    assert set(halves.tolist()) <= {0, 1}
    assert abs(int((halves == 0).sum()) - int((halves == 1).sum())) <= 1
    for label in labels.unique():
        ones = halves[labels == label]
        assert abs(2 * int(ones.sum()) - len(ones)) <= 1
    assert torch.equal(halves, val_halves(labels.clone()))


def test_halves_do_not_follow_the_order_of_images():
    halves = val_halves(torch.zeros(1000, dtype=torch.int64))
    assert 400 < int((halves[:-1] == halves[1:]).sum()) < 600
    assert 180 < int(halves[::2].sum()) < 320


@pytest.mark.parametrize("loss", [nan, inf, -inf])
def test_a_loss_that_is_not_finite_is_the_worst_merit(loss):
    assert merit(7, loss) == WORST < merit(0, 1e9) < merit(0, 2.0) < merit(1, 3.0)


def value_on(labels: torch.Tensor, predicted: torch.Tensor, metric: Metric) -> float:
    """The metric by scikit-learn."""
    if metric == "top1":
        return float((labels == predicted).sum())
    if metric == "balanced_accuracy":
        return float(balanced_accuracy_score(labels, predicted))
    classes = labels.unique().tolist()
    return float(f1_score(labels, predicted, labels=classes, average="macro", zero_division=0))


def plainly_crossed(data: Data, grid: HeadGrid) -> torch.Tensor:
    """Every setting by itself, each half a val of its own: what it says of the other half."""
    halves = val_halves(data.val_labels)
    found = []
    for setting in grid.settings:
        for epoch, (w, b) in enumerate(plain_epochs(data, grid, setting), 1):
            logits = data.val.double() @ w.T + b
            said = logits.argmax(1)
            loss = F.cross_entropy(logits, data.val_labels, reduction="none")
            keys = [
                (
                    value_on(data.val_labels[halves == h], said[halves == h], grid.metric),
                    -loss[halves == h].mean().item(),
                    -epoch,
                )
                for h in (0, 1)
            ]
            found.append((keys, said))
    crossed = torch.empty(len(halves), dtype=torch.int64)
    for half in (0, 1):
        _, said = max(found, key=lambda f: f[0][half])
        crossed[halves != half] = said[halves != half]
    return crossed


@pytest.mark.parametrize("metric", get_args(Metric))
@pytest.mark.parametrize("seed", [0, 1])
def test_cross_fitted_classes_are_what_each_half_picks_judged_by_the_other(seed, metric):
    data = make_data(seed)
    grid = replace(GRID, patience=GRID.epochs, metric=metric)
    found = fitted(data, grid).cross_fit
    assert found is not None
    assert torch.equal(found.predicted, plainly_crossed(data, grid))


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_half_gives_up_by_its_own_images_alone(seed, patience):
    """It picks what a fit picks whose val has that half alone, and never saw the other."""
    data, grid = make_data(seed), replace(GRID, patience=patience)
    found = fitted(data, grid).cross_fit
    assert found is not None
    halves = val_halves(data.val_labels)
    for half in (0, 1):
        own = replace(
            data, val=data.val[halves == half], val_labels=data.val_labels[halves == half]
        )
        alone = fitted(own, grid)
        assert found.picked[half] == alone.setting
        judged = (data.val @ alone.weight.T + alone.bias).argmax(1)[halves != half]
        assert torch.equal(found.predicted[halves != half], judged)


def test_without_anything_finite_the_start_is_judged():
    data = make_data(0)
    found = fitted(data, replace(GRID, optimizer=("sgd",), lr=(1e39,))).cross_fit
    assert found is not None
    at_start = (data.val @ data.weight.T + data.bias).argmax(1)
    assert torch.equal(found.predicted, at_start)
    assert {setting.epochs for setting in found.picked} == {0}


def test_a_pick_among_many_is_flattered_and_its_cross_fitted_hits_are_not():
    """Labels without any relation to the features: nothing can be better than chance, 1 of 4."""
    said, crossed, n, classes, draws = 0, 0, 100, 4, 12
    grid = HeadGrid(lr=(0.01, 0.03, 0.1, 0.3), label_smoothing=(0.0, 0.1), epochs=8, patience=8,
                    batch_size=50)  # fmt: skip
    for draw in range(draws):
        g = torch.Generator().manual_seed(draw)
        x, val = torch.randn(n, 20, generator=g), torch.randn(n, 20, generator=g)
        y, val_y = (torch.randint(classes, (n,), generator=g) for _ in range(2))
        start = 0.1 * torch.randn(classes, 20, generator=g), torch.zeros(classes)
        head = fitted(Data([x], y, val, val_y, *start), grid)
        assert head.cross_fit is not None
        said += int(((val @ head.weight.T + head.bias).argmax(1) == val_y).sum())
        crossed += int((head.cross_fit.predicted == val_y).sum())
    error = (n * draws * 0.25 * 0.75) ** 0.5
    assert abs(crossed - n * draws / classes) < 3 * error
    assert said > crossed + 2 * error
