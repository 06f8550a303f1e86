from dataclasses import replace
from typing import get_args

from trainables.evaluation.class_metrics import Metric
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.storage.hashing import content_hash

GRID = HeadGrid(
    lr=(0.1, 0.2),
    label_smoothing=(0.0, 0.1),
    weight_decay=(0.0, 0.5),
    optimizer=("sgd", "adamw"),
    class_weights=("none", "balanced"),
    epochs=7,
    patience=3,
    batch_size=16,
)


def test_settings_are_the_product_by_optimizer_rate_smoothing_decay_and_weights():
    settings = GRID.settings
    assert len(set(settings)) == 32
    rows = [
        (s.optimizer, s.lr, s.label_smoothing, s.weight_decay, s.class_weights) for s in settings
    ]
    assert rows[:6] == [
        ("sgd", 0.1, 0.0, 0.0, "none"),
        ("sgd", 0.1, 0.0, 0.0, "balanced"),
        ("sgd", 0.1, 0.0, 0.5, "none"),
        ("sgd", 0.1, 0.0, 0.5, "balanced"),
        ("sgd", 0.1, 0.1, 0.0, "none"),
        ("sgd", 0.1, 0.1, 0.0, "balanced"),
    ]
    assert rows[16:] == [("adamw", *row[1:]) for row in rows[:16]]
    assert {s.epochs for s in settings} == {0}


def test_the_metric_is_in_the_key_only_where_it_is_another_than_top_1():
    former = {name: value for name, value in vars(GRID).items() if name != "metric"}
    assert content_hash(GRID) == content_hash(former)
    keys = {content_hash(replace(GRID, metric=m)) for m in get_args(Metric)}
    assert len(keys) == 3


def test_class_weights_are_in_the_keys_of_grid_and_setting_only_where_there_are_any():
    grid = replace(GRID, class_weights=("none",))
    for plain in (grid, grid.settings[0]):
        added = {"class_weights", "metric"}
        former = {name: value for name, value in vars(plain).items() if name not in added}
        assert content_hash(plain) == content_hash(former)
    assert content_hash(GRID) != content_hash(grid)
    assert len({content_hash(setting) for setting in GRID.settings}) == 32


def test_a_value_given_twice_is_one_setting():
    assert replace(GRID, lr=(0.1, 0.2, 0.1)).settings == GRID.settings


def test_a_grid_of_one_setting_keeps_what_settings_have_in_common():
    setting = HeadSetting(
        optimizer="adamw",
        lr=0.3,
        label_smoothing=0.2,
        weight_decay=0.1,
        epochs=5,
        class_weights="sqrt",
    )
    only = replace(GRID, momentum=0.5).only(setting)
    assert only.settings == (replace(setting, epochs=0),)
    assert (only.epochs, only.batch_size, only.momentum) == (5, 16, 0.5)
