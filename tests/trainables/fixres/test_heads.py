import math
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

from trainables.evaluation.class_metrics import Metric
from trainables.fixres import heads
from trainables.fixres.feature_parts import FeatureParts
from trainables.fixres.head_settings import HeadGrid, HeadOptimizer, HeadSetting
from trainables.fixres.heads import FittedHead, epoch_order, fit, fit_setting
from trainables.training.recipe import ClassWeights

N, VAL, WIDTH, CLASSES = 70, 60, 12, 4
GRID = HeadGrid(
    lr=(0.003, 0.03, 0.3),
    label_smoothing=(0.0, 0.1),
    weight_decay=(0.0, 0.01),
    optimizer=("sgd", "adamw"),
    epochs=6,
    patience=2,
    batch_size=16,
)
ONE = HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=3, patience=3, batch_size=16)


@dataclass(frozen=True)
class Data:
    views: list[torch.Tensor]
    labels: torch.Tensor
    val: torch.Tensor
    val_labels: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


@pytest.fixture(scope="module")
def data() -> Data:
    return make_data(0)


def make_data(seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def labels_of(x: torch.Tensor) -> torch.Tensor:
        uneven = 0.5 * torch.arange(CLASSES)
        return (x[:, :CLASSES] + 0.7 * normal(len(x), CLASSES) + uneven).argmax(1)

    train, val = normal(N, WIDTH), normal(VAL, WIDTH)
    views = [train, train + normal(N, WIDTH), train + normal(N, WIDTH)]
    start = 0.3 * normal(CLASSES, WIDTH), 0.3 * normal(CLASSES)
    return Data(views, labels_of(train), val, labels_of(val), *start)


def test_the_classes_of_the_data_are_uneven(data: Data) -> None:
    """So that weights of classes are no matter of rounding in what is compared below."""
    counts = torch.bincount(data.labels)
    assert counts.max() > 3 * counts.min()


def fitted(
    data: Data, grid: HeadGrid, views: int = 1, seed: int = 0, at_once: int | None = None
) -> FittedHead:
    return fit(
        data.views[:views],
        data.labels,
        data.val,
        data.val_labels,
        data.weight,
        data.bias,
        grid,
        seed=seed,
        at_once=at_once,
    )


def plain_epochs(data: Data, grid: HeadGrid, s: HeadSetting, views: int = 1, seed: int = 0):
    """One setting, in float64, by torch's own optimiser: the head after each epoch."""
    head = torch.nn.Linear(WIDTH, CLASSES, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(data.weight)
        head.bias.copy_(data.bias)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        head.parameters(), lr=s.lr, weight_decay=s.weight_decay
    )
    if s.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            head.parameters(), lr=s.lr, weight_decay=s.weight_decay, momentum=grid.momentum
        )
    for epoch in range(1, grid.epochs + 1):
        features = data.views[(epoch - 1) % views].double()
        order = epoch_order(N, seed, epoch)
        for start in range(0, N, grid.batch_size):
            chosen = order[start : start + grid.batch_size]
            loss = F.cross_entropy(
                head(features[chosen]),
                data.labels[chosen],
                torch_weights(data, s.class_weights),
                label_smoothing=s.label_smoothing,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield head.weight.detach().clone(), head.bias.detach().clone()


def torch_weights(data: Data, kind: ClassWeights) -> torch.Tensor | None:
    """Weights of classes by scikit-learn, in float64; their scale is of no account in the loss."""
    if kind == "none":
        return None
    y = data.labels.numpy()
    balanced = torch.tensor(compute_class_weight("balanced", classes=np.arange(CLASSES), y=y))
    return balanced.sqrt() if kind == "sqrt" else balanced


def plain_value(metric: Metric, labels: torch.Tensor, predicted: torch.Tensor) -> float:
    if metric == "top1":
        return int((predicted == labels).sum())
    if metric == "balanced_accuracy":
        return balanced_accuracy_score(labels, predicted)
    present = labels.unique()
    return f1_score(labels, predicted, labels=present, average="macro", zero_division=0)


def plain_search(data: Data, grid: HeadGrid, views: int = 1, seed: int = 0):
    """Every setting of the product by itself: (value, -loss, -epoch) ranked, and pairs counted."""
    found, tried = [], 0
    for name, lr, smoothing, decay, weights in product(
        grid.optimizer, grid.lr, grid.label_smoothing, grid.weight_decay, grid.class_weights
    ):
        setting = HeadSetting(
            optimizer=name,
            lr=lr,
            label_smoothing=smoothing,
            weight_decay=decay,
            epochs=0,
            class_weights=weights,
        )
        own_best, stale = None, 0
        for epoch, (w, b) in enumerate(plain_epochs(data, grid, setting, views, seed), 1):
            logits = data.val.double() @ w.T + b
            loss = F.cross_entropy(logits, data.val_labels).item()
            value = plain_value(grid.metric, data.val_labels, logits.argmax(1))
            key = (round(value, 12), -loss)
            tried += 1
            if not math.isfinite(loss):
                break
            found.append((*key, -epoch, replace(setting, epochs=epoch), w, b))
            if own_best is None or key > own_best:
                own_best, stale = key, 0
            else:
                stale += 1
            if stale == grid.patience:
                break
    return max(found, key=lambda x: x[:3]), tried


def assert_same(head: FittedHead, weight: torch.Tensor, bias: torch.Tensor) -> None:
    torch.testing.assert_close(head.weight.double(), weight, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(head.bias.double(), bias, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"optimizer": ("sgd",), "epochs": 9},
        {"optimizer": ("adamw",), "lr": (0.01, 0.1)},
        {"patience": 1},
        {"momentum": 0.0, "batch_size": 7},
        {"batch_size": 1000, "epochs": 9, "patience": 9},
        {"class_weights": ("balanced",)},
        {"class_weights": ("none", "sqrt", "balanced")},
        {"class_weights": ("none", "balanced"), "metric": "balanced_accuracy"},
    ],
    ids=lambda change: ", ".join(change) or "all",
)
def test_the_chosen_head_is_what_plain_loops_over_all_settings_choose(data, change, views):
    grid = replace(GRID, **change)
    head = fitted(data, grid, views, seed=3)
    (*_, setting, weight, bias), tried = plain_search(data, grid, views, seed=3)
    assert head.setting == setting
    assert head.tried == tried
    assert_same(head, weight, bias)


def test_patience_matters_in_what_is_compared_above(data):
    counts = {patience: fitted(data, replace(GRID, patience=patience)).tried for patience in (1, 2)}
    assert counts[1] < counts[2] < 24 * GRID.epochs


@pytest.mark.parametrize(
    "setting",
    replace(GRID, lr=(0.03,), class_weights=("none", "sqrt", "balanced")).settings,
    ids=lambda s: "-".join(map(str, vars(s).values())),
)
def test_each_setting_alone_is_torchs_optimiser(data, setting):
    grid = replace(
        GRID,
        optimizer=(setting.optimizer,),
        lr=(setting.lr,),
        label_smoothing=(setting.label_smoothing,),
        weight_decay=(setting.weight_decay,),
        class_weights=(setting.class_weights,),
        epochs=7,
        patience=7,
    )
    head = fitted(data, grid, views=3)
    assert head.setting == replace(setting, epochs=head.setting.epochs)
    assert head.tried == 7
    after = list(plain_epochs(data, grid, setting, views=3))
    assert_same(head, *after[head.setting.epochs - 1])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_last_batch_of_one_weighs_as_in_torch(data, name):
    grid = replace(ONE, batch_size=N - 1, optimizer=(name,), epochs=1)
    [after] = plain_epochs(data, grid, grid.settings[0])
    assert_same(fitted(data, grid), *after)


def test_the_same_arguments_give_the_same_head_and_another_seed_another(data):
    one, again, other = (fitted(data, GRID, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight, again.weight)
    assert torch.equal(one.bias, again.bias)
    assert (one.setting, one.tried) == (again.setting, again.tried)
    assert not torch.allclose(one.weight, other.weight)


def test_what_comes_in_is_left_as_it_was(data):
    tensors = [*data.views, data.labels, data.val, data.val_labels, data.weight, data.bias]
    before = [tensor.clone() for tensor in tensors]
    fitted(data, GRID, views=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_val_in_chunks_is_val_at_once(data, monkeypatch):
    whole = fitted(data, GRID)
    monkeypatch.setattr(
        heads, "MAX_LOGITS_AT_ONCE", 12 * CLASSES * 7
    )  # 7 images of each optimiser's 12
    parts = fitted(data, GRID)
    monkeypatch.setattr(heads, "MAX_LOGITS_AT_ONCE", 1)  # less than an image
    singles = fitted(data, GRID)
    for head in (parts, singles):
        assert (head.setting, head.tried) == (whole.setting, whole.tried)
        assert torch.equal(head.weight, whole.weight)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1"])
def test_another_metric_picks_as_plain_loops_do(data, metric, monkeypatch):
    """On val with few images of two classes, where the metrics differ."""
    few = [i for i, label in enumerate(data.val_labels.tolist()) if label < 2 or i % 5 == 0]
    uneven = replace(data, val=data.val[few], val_labels=data.val_labels[few])
    monkeypatch.setattr(heads, "MAX_LOGITS_AT_ONCE", 12 * CLASSES * 7)
    grid = replace(GRID, metric=metric)
    (value, _, _, setting, weight, bias), tried = plain_search(uneven, grid)
    head = fitted(uneven, grid)
    assert (head.setting, head.tried) == (setting, tried)
    assert_same(head, weight, bias)
    logits = uneven.val.double() @ head.weight.double().T + head.bias.double()
    assert plain_value(metric, uneven.val_labels, logits.argmax(1)) == pytest.approx(value)


# --- what val prefers: a learning rate of 0 stays at the start, however many epochs -------------

STILL = HeadGrid(
    lr=(0.0,), label_smoothing=(0.0, 0.1), epochs=9, patience=3, batch_size=2, weight_decay=(0.0,)
)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_of_equals_the_first_setting_and_epoch_win_and_patience_ends_it(data, name):
    head = fitted(data, replace(STILL, optimizer=(name,)))
    assert head.setting == HeadSetting(
        optimizer=name, lr=0.0, label_smoothing=0.0, weight_decay=0.0, epochs=1
    )
    assert head.tried == 2 * (1 + 3)  # the first epoch is better than none, three are not
    assert torch.equal(head.weight, data.weight) and torch.equal(head.bias, data.bias)


@pytest.mark.parametrize("names", [("sgd", "adamw"), ("adamw", "sgd")])
def test_equal_optimisers_rank_in_the_grids_order(data, names):
    assert fitted(data, replace(STILL, optimizer=names)).setting.optimizer == names[0]


def test_a_setting_named_twice_is_tried_once(data):
    twice = replace(STILL, lr=(0.0, 0.0), optimizer=("sgd", "sgd"))
    assert len(twice.settings) == 2
    assert fitted(data, twice).tried == fitted(data, STILL).tried


def one_feature(weight: tuple[float, float], lr: tuple[float, ...], val_labels: list[int]):
    """One feature that is 1, labels 0: every step of SGD makes class 0 likelier."""
    x = torch.ones(3, 1)
    start = torch.tensor(weight)[:, None]
    grid = replace(STILL, lr=lr, label_smoothing=(0.0,), epochs=1, batch_size=3, momentum=0.0)
    train_labels = torch.zeros(3, dtype=torch.int64)
    val = torch.tensor(val_labels)
    return fit([x], train_labels, x, val, start, torch.zeros(2), grid, seed=0)


@pytest.mark.parametrize(
    ("weight", "lr", "val_labels", "chosen"),
    [
        ((-1.0, 1.0), (0.0, 9.0), [0, 0, 0], 9.0),  # 0 hits, 3 hits
        ((1.0, -1.0), (0.0, 9.0), [0, 0, 0], 9.0),  # 3 hits each, the second surer
        ((1.0, -1.0), (9.0, 0.0), [0, 0, 0], 9.0),
        ((1.0, -1.0), (9.0, 0.0), [0, 0, 1], 0.0),  # 2 hits each, sureness costs at the third
        ((-0.01, 0.01), (0.0, 99.0), [0, 0, 1], 99.0),  # 1 hit at a loss of 0.7, 2 at one of 33
        ((1.0, 1.0), (0.0, 0.1), [0, 0, 1], 0.1),  # undecided is class 0: 2 hits each, not 3
    ],
)
def test_hits_count_first_and_then_the_loss(weight, lr, val_labels, chosen):
    assert one_feature(weight, lr, val_labels).setting.lr == chosen


def test_a_run_whose_loss_is_not_finite_is_dropped_and_spoils_no_other(data):
    grid = replace(ONE, lr=(1e38, 0.1), patience=9, epochs=4)
    head, alone = fitted(data, grid), fitted(data, replace(grid, lr=(0.1,)))
    assert head.tried == 1 + 4  # val was asked once about the one that exploded
    assert head.setting == alone.setting
    torch.testing.assert_close(head.weight, alone.weight)


def test_a_dropped_run_leaves_the_others_their_own_patience(data):
    grid = replace(STILL, lr=(1e38, 0.0), label_smoothing=(0.0,))
    assert fitted(data, grid).tried == 1 + (1 + 3)


@pytest.mark.parametrize("label", range(CLASSES))
def test_not_finite_never_wins_though_argmax_of_nan_would_hit(data, label):
    everyone = replace(data, val_labels=torch.full((VAL,), label))
    head = fitted(everyone, replace(ONE, lr=(1e38, 1e-6), patience=9))
    assert head.setting.lr == 1e-6
    assert head.weight.isfinite().all()


def test_where_none_is_finite_the_start_comes_back(data):
    grid = replace(ONE, lr=(1e38, 2e38), epochs=5, patience=5)
    head = fitted(data, grid)
    assert torch.equal(head.weight, data.weight) and torch.equal(head.bias, data.bias)
    assert head.setting == replace(grid.settings[0], epochs=0)
    assert head.tried == 2


def test_what_comes_back_is_not_the_start_itself(data):
    head = fitted(data, replace(ONE, lr=(1e38,)))
    assert head.weight.data_ptr() != data.weight.data_ptr()


def test_features_in_parts_are_fitted_bit_for_bit(data: Data) -> None:
    parts = [FeatureParts((view[:30].numpy(), view[30:].numpy())) for view in data.views[:2]]
    val, start = (data.val, data.val_labels), (data.weight, data.bias)
    whole, in_parts = fitted(data, GRID, 2), fit(parts, data.labels, *val, *start, GRID, seed=0)
    assert in_parts.weight.equal(whole.weight) and in_parts.bias.equal(whole.bias)
    assert in_parts.setting == whole.setting and in_parts.tried == whole.tried


def test_an_epochs_order_holds_everyone_once_and_is_new_each_epoch():
    orders = [epoch_order(50, seed, epoch).tolist() for seed in (0, 1) for epoch in (1, 2, 3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
    assert epoch_order(50, 1, 2).tolist() == epoch_order(50, 1, 2).tolist()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_a_setting_alone_is_fitted_as_it_was_among_others(
    data: Data, optimizer: HeadOptimizer, views: int, class_weights: ClassWeights
) -> None:
    grid = replace(GRID, optimizer=(optimizer,), class_weights=(class_weights,))
    picked = fitted(data, grid, views)
    alone = fit_setting(
        data.views[:views],
        data.labels,
        data.weight,
        data.bias,
        picked.setting,
        GRID,
        seed=0,
    )
    torch.testing.assert_close(alone.weight, picked.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.bias, picked.bias, rtol=1e-4, atol=1e-5)
    assert alone.setting == picked.setting and alone.tried == 0


def test_the_only_setting_is_fitted_bit_for_bit(data: Data) -> None:
    picked = fitted(data, ONE)
    alone = fit_setting(
        data.views[:1], data.labels, data.weight, data.bias, picked.setting, ONE, seed=0
    )
    assert alone.weight.equal(picked.weight) and alone.bias.equal(picked.bias)


def test_a_setting_that_was_best_before_any_epoch_is_the_start(data: Data) -> None:
    setting = replace(ONE.settings[0], epochs=0)
    alone = fit_setting(data.views, data.labels, data.weight, data.bias, setting, ONE, seed=0)
    assert alone.weight.equal(data.weight) and alone.bias.equal(data.bias)


@pytest.mark.parametrize("at_once", [1, 3])
def test_settings_that_are_fitted_one_after_the_other_come_to_the_same(
    data: Data, at_once: int
) -> None:
    together, apart = fitted(data, GRID), fitted(data, GRID, at_once=at_once)
    torch.testing.assert_close(apart.weight, together.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apart.bias, together.bias, rtol=1e-4, atol=1e-5)
    assert (apart.setting, apart.tried) == (together.setting, together.tried)
    assert apart.cross_fit is not None and together.cross_fit is not None
    assert apart.cross_fit.picked == together.cross_fit.picked
    assert torch.equal(apart.cross_fit.predicted, together.cross_fit.predicted)
