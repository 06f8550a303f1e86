"""The heat map says what the rows say."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from sweeps.planning.spec import SweepSpec
from sweeps.report.heatmap import plot_heatmaps, save_png
from sweeps.selection.leaderboard import Row
from tests.factories import a_row, plan_of, spec_with

# Not in order, to see that the axes are.
ARMS = ("none", "fix")
SPEC = spec_with(
    variants=("b1", "b0"),
    train_res=(96, 64),
    test_res=(128, 64, 96),
    test_crop_pct=(1.0,),
    epochs=6,
    arms=ARMS,
)


def rows_of(spec: SweepSpec, *, n: int = 200) -> list[Row]:
    """Every cell with another number of hits, and a test row that must not show."""
    grid = spec.grid
    cells = list(product(grid.variants, grid.train_res, grid.test_res, ARMS))
    rows = [
        a_row(60 + 3 * i, n, variant=v, train_res=tr, test_res=te, arm=arm)
        for i, (v, tr, te, arm) in enumerate(cells)
    ]
    return [*rows, a_row(n, n, variant="b0", train_res=64, test_res=64, split="test")]


ELSEWHERE = a_row(cell="in no map")


def maps(rows: list[Row], chosen: Row = ELSEWHERE, spec: SweepSpec = SPEC) -> dict:
    """The axes of each variant and arm."""
    figure = plot_heatmaps(rows, plan_of(spec), chosen)
    axes = [ax for ax in figure.axes if ax.get_title(loc="left")]
    keys = list(product(spec.grid.variants, ARMS))
    assert len(axes) == len(keys)
    for ax, (variant, arm) in zip(axes, keys, strict=True):
        assert ax.get_title(loc="left").startswith(
            f"{variant}, {'before' if arm == 'none' else 'after'}"
        )
    return dict(zip(keys, axes, strict=True))


def numbers(ax: Axes) -> dict[tuple[int, int], str]:
    """The texts of a map by train and test resolution, read off the axes' labels."""
    tests = [int(t.get_text()) for t in ax.get_xticklabels()]
    trains = [int(t.get_text()) for t in ax.get_yticklabels()]
    found = {}
    for text in ax.texts:
        x, y = text.get_position()
        if y == int(y):  # notes stand lower
            found[trains[int(y)], tests[int(x)]] = text.get_text()
    return found


def notes(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.texts if t.get_position()[1] % 1]


def frames(ax: Axes) -> list[tuple[float, float]]:
    """Middles of the framed cells."""
    boxes = [p for p in ax.patches if isinstance(p, Rectangle)]
    assert all(matplotlib.colors.to_hex(p.get_edgecolor()) == "#d62728" for p in boxes)
    return [(p.get_x() + p.get_width() / 2, p.get_y() + p.get_height() / 2) for p in boxes]


def test_every_cell_bears_its_rows_number() -> None:
    rows = rows_of(SPEC)
    for (variant, arm), ax in maps(rows).items():
        own = [r for r in rows if (r.variant, r.arm, r.split) == (variant, arm, "val")]
        assert numbers(ax) == {(r.train_res, r.test_res): f"{100 * r.top1:.1f}" for r in own}
        assert notes(ax) == []
        values = np.ma.filled(ax.images[0].get_array(), np.nan)
        shown = {(64, 96)[y]: values[y].tolist() for y in range(2)}
        for r in own:
            x = (64, 96, 128).index(r.test_res)
            assert shown[r.train_res][x] == pytest.approx(100 * r.top1)


def test_all_maps_share_one_scale_of_the_rows_shown() -> None:
    rows = rows_of(SPEC)
    shares = [100 * r.top1 for r in rows if r.split == "val"]
    for ax in maps(rows).values():
        assert ax.images[0].get_clim() == pytest.approx((min(shares), max(shares)))


def test_the_title_says_split_and_sample_size() -> None:
    figure = plot_heatmaps(rows_of(SPEC, n=200), plan_of(SPEC), ELSEWHERE)
    assert figure.get_suptitle() == "Top-1 on val (%, n = 200)"


def test_of_several_crops_the_best_is_shown_and_which_it_is() -> None:
    spec = spec_with(
        SPEC, variants=("b0",), train_res=(64,), test_res=(64, 96), test_crop_pct=("weights", 1.0)
    )
    hits = {(64, 0.875): 60, (64, 1.0): 50, (96, 0.875): 70, (96, 1.0): 80}
    rows = [
        a_row(h + (arm == "fix"), 100, test_res=res, crop_pct=crop, arm=arm)
        for (res, crop), h in hits.items()
        for arm in ARMS
    ]
    found = maps(rows, spec=spec)
    assert numbers(found["b0", "none"]) == {(64, 64): "60.0", (64, 96): "80.0"}
    assert sorted(notes(found["b0", "fix"])) == ["crop 0.875", "crop 1.0"]
    figure = plot_heatmaps(rows, plan_of(spec), ELSEWHERE)
    assert figure.get_suptitle() == "Top-1 on val (%, n = 100), at the best crop"


def test_the_chosen_row_is_shown_among_equals() -> None:
    """A cheaper choice may be another crop of the same resolutions."""
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64,))
    rows = [a_row(50, 100, test_res=64, crop_pct=c, arm=a) for c in (0.875, 1.0) for a in ARMS]
    for chosen in (r for r in rows if r.arm == "fix"):
        assert len(frames(maps(rows, chosen, spec)["b0", "fix"])) == 1


def test_untouched_nets_have_a_strip_above_the_others() -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64, 96))
    rows = [a_row(50, 100, test_res=res, arm=a) for res in (64, 96) for a in ARMS]
    strip = [
        a_row(h, 100, test_res=res, train_res=224, untouched=True, trunk_epochs=0, trunk="t0")
        for res, h in ((64, 30), (96, 40))
    ]
    figure = plot_heatmaps([*strip, *rows], plan_of(spec), ELSEWHERE)
    before, after = (ax for ax in figure.axes if ax.get_title(loc="left"))
    assert [t.get_text() for t in after.get_yticklabels()] == ["untouched", "64"]
    shown = {t.get_position(): t.get_text() for t in after.texts}
    assert shown == {(0, 0): "30.0", (1, 0): "40.0", (0, 1): "50.0", (1, 1): "50.0"}
    drawn = before.images[0].get_array()
    assert drawn is not None and np.isnan(np.ma.filled(drawn, np.nan)[0]).all()
    untrained = plan_of(spec_with(spec, train_res=(224,), epochs=0))
    only = plot_heatmaps(strip, untrained, ELSEWHERE)
    assert [t.get_text() for t in only.axes[-2].get_yticklabels()] == ["224"]
    # A budget may end before a trunk was trained.
    early = plot_heatmaps(strip, plan_of(spec), ELSEWHERE)
    assert [t.get_text() for t in early.axes[-2].get_yticklabels()] == ["untouched", "64"]


def test_one_red_frame_at_the_chosen_cell() -> None:
    rows = rows_of(SPEC)
    chosen = next(r for r in rows if (r.variant, r.train_res, r.test_res, r.arm)
                  == ("b0", 96, 64, "fix"))  # fmt: skip
    found = {key: frames(ax) for key, ax in maps(rows, chosen).items()}
    assert found.pop(("b0", "fix")) == [pytest.approx((0, 1))]
    assert not any(found.values())
    assert not any(frames(ax) for ax in maps(rows).values())


def test_cells_without_rows_stay_empty() -> None:
    rows = [r for r in rows_of(SPEC) if (r.train_res, r.test_res) != (64, 96)]
    rows = [r for r in rows if r.variant != "b1"]
    for (variant, _), ax in maps(rows).items():
        missing = {(64, 96)} if variant == "b0" else set(product((64, 96), (64, 96, 128)))
        assert set(numbers(ax)) == set(product((64, 96), (64, 96, 128))) - missing
        empty = np.isnan(np.ma.filled(ax.images[0].get_array(), np.nan))
        assert empty.sum() == len(missing)


def test_of_several_survivors_the_best_is_shown() -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64, 96))
    rows = [
        a_row(hits, 100, test_res=res, arm=arm, trunk=trunk)
        for trunk, by_res in {"t1": {64: 50, 96: 71}, "t2": {64: 60, 96: 70}}.items()
        for res, hits in by_res.items()
        for arm in ARMS
    ]
    chosen = next(r for r in rows if (r.trunk, r.test_res, r.arm) == ("t2", 64, "fix"))
    found = maps(rows, chosen, spec)
    for ax in found.values():
        assert numbers(ax) == {(64, 64): "60.0", (64, 96): "71.0"}
    assert frames(found["b0", "fix"]) == [pytest.approx((0, 0))]


def test_the_best_test_resolution_of_a_trunk_is_bold() -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64, 96, 128))
    rows = [a_row(h, 100, test_res=r) for r, h in ((64, 50), (96, 70), (128, 70))]
    ax = maps(rows, spec=spec)["b0", "fix"]
    bold = [t.get_position()[0] for t in ax.texts if t.get_weight() == "bold"]
    assert bold == [1]  # among equals the smaller


def test_a_cut_trunk_is_marked_as_such() -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64, 96), test_res=(64,))
    rows = [a_row(50, test_res=64, trunk_epochs=2), a_row(60, train_res=96, test_res=64)]
    assert notes(maps(rows, spec=spec)["b0", "fix"]) == ["2 of 6 epochs"]


def test_one_row_can_be_drawn_and_saved(tmp_path: Path) -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64,))
    row = a_row(30, test_res=64)
    save_png(plot_heatmaps([row], plan_of(spec), row), tmp_path / "heatmap.png")
    with Image.open(tmp_path / "heatmap.png") as image:
        assert image.format == "PNG" and min(image.size) > 200
    assert [p.name for p in tmp_path.iterdir()] == ["heatmap.png"]


@pytest.mark.parametrize(
    ("arms", "chosen", "shown"),
    [
        (("none", "pool", "fix", "fix_aug"), "fix_aug", ["none", "fix_aug"]),
        (("none", "pool", "fix", "fix_aug"), "none", ["none", "fix"]),
        (("none", "bn", "frechet"), "none", ["none", "frechet"]),
        (("bn", "fix"), "bn", ["bn"]),
        (("none", "pool"), "none", ["none"]),
        (("none", "fix", "none_flip", "fix_flip"), "none_flip", ["none", "none_flip"]),
        (("none", "fix", "none_flip", "fix_flip"), "none", ["none", "fix"]),
    ],
)
def test_the_maps_are_of_the_untuned_and_the_chosen_or_else_the_fixed_arm(
    arms: tuple[str, ...], chosen: str, shown: list[str]
) -> None:
    spec = spec_with(SPEC, variants=("b0",), train_res=(64,), test_res=(64,), arms=arms)
    rows = [a_row(30 + i, arm=arm, test_res=64) for i, arm in enumerate(arms)]
    figure = plot_heatmaps(rows, plan_of(spec), next(r for r in rows if r.arm == chosen))
    titles = [ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")]
    assert [title.partition("(arm ")[2].rstrip(")") for title in titles] == shown
