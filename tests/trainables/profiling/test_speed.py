"""What is predicted from timings, against devices whose speed is known."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.profiling.cost import cost
from trainables.profiling.speed import NOMINAL, Coefficients, Pass, Speed, Timing, Work, combined

# Images a second of training on an RTX 3090, as timm publishes them of tf_efficientnet_*
# (results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv): variant, px, batch, images a second.
TIMM = [
    ("b0", 224, 384, 1779.02),
    ("b1", 240, 256, 1099.77),
    ("b2", 260, 192, 848.58),
    ("b3", 300, 128, 494.58),
    ("b4", 380, 64, 241.83),
    ("b5", 456, 32, 111.42),
    ("b6", 528, 16, 62.84),
    ("b7", 600, 8, 37.22),
    ("b8", 672, 6, 22.71),
    ("l2", 475, 3, 10.96),
    ("l2", 800, 1, 3.93),
]


def work(gmacs: float, activations_m: float, *, train: bool = True, images: int = 800) -> Work:
    one = Pass(gmacs=gmacs, activations_m=activations_m, layers=80, images=images, batch=32,
               train=train)  # fmt: skip
    return Work(passes=(one,))


WORKS = [work(g, m, train=t) for g, m in ((0.01, 0.3), (0.1, 1), (0.4, 7), (2, 30), (9, 90))
         for t in (True, False)]  # fmt: skip


class Device:
    """One whose coefficients are known, or those of the nominal one."""

    def __init__(self, *, on_gpu: bool, **coefficients: float):
        self.speed = Speed(on_gpu=on_gpu)
        self.speed.__dict__["coefficients"] = replace(NOMINAL, **coefficients)

    def seconds(self, done: Work) -> float:
        return self.speed.seconds(done)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_one_timing_scales_the_nominal_device(on_gpu: bool) -> None:
    nominal = Speed(on_gpu=on_gpu)
    for factor in (0.1, 1, 500):
        timed = Timing(work=WORKS[4], seconds=factor * nominal.seconds(WORKS[4]))
        found = Speed(on_gpu=on_gpu, timings=(timed,))
        for other in WORKS:
            assert found.seconds(other) == pytest.approx(factor * nominal.seconds(other), rel=0.1)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_more_timings_tell_how_a_device_differs(on_gpu: bool) -> None:
    """Slow at moving memory and at handing over images; one timing in ten is spoiled."""
    device = Device(
        on_gpu=on_gpu, gmac_ms=40, activations_ms=30, image_ms=9, layer_ms=1, forward_share=0.4
    )
    rng = random.Random(0)
    timings = []
    for number in range(40):
        done = rng.choice(WORKS)
        spoiled = 3.0 if number % 10 == 9 else 1.0
        seconds = device.seconds(done) * rng.uniform(0.95, 1.05) * spoiled
        timings.append(Timing(work=done, seconds=seconds))
    found = Speed(on_gpu=on_gpu, timings=tuple(timings))
    for gmacs, activations in ((0.05, 0.6), (1, 15), (5, 60)):
        new = work(gmacs, activations)
        assert found.seconds(new) == pytest.approx(device.seconds(new), rel=0.15)


@settings(deadline=None)  # no second is counted
@given(
    scale=st.floats(1e-3, 1e4),
    images=st.integers(1, 10**6),
    timed=st.lists(st.tuples(st.integers(0, 9), st.floats(1e-3, 1e5)), max_size=4),
    on_gpu=st.booleans(),
)
def test_any_timings_give_seconds_that_grow_with_the_images(
    scale: float, images: int, timed: list[tuple[int, float]], on_gpu: bool
) -> None:
    timings = tuple(Timing(work=WORKS[place], seconds=scale * s) for place, s in timed)
    speed = Speed(on_gpu=on_gpu, timings=timings)
    fewer = speed.seconds(work(0.4, 7, images=images))
    assert 0 < fewer < speed.seconds(work(0.4, 7, images=2 * images + 64))


def test_a_kind_of_work_that_was_timed_takes_what_it_took() -> None:
    """Whatever the coefficients make of it; and twice its images take twice as long."""
    odd = Timing(work=WORKS[2], seconds=77.0)
    others = [
        Timing(work=w, seconds=Speed(on_gpu=False).seconds(w)) for w in WORKS if w != odd.work
    ]
    speed = Speed(on_gpu=False, timings=(*others, odd))
    assert speed.seconds(odd.work) == pytest.approx(77.0)
    assert speed.seconds(work(0.1, 1, images=1600)) == pytest.approx(154.0)


def test_the_nominal_device_is_the_one_that_timm_has_timed() -> None:
    for variant, res, batch, images_s in TIMM:
        net = cost(variant, res, 1000)
        one = Pass(gmacs=net.gmacs, activations_m=net.activations_m, layers=net.layers,
                   images=1000, batch=batch, train=True)  # fmt: skip
        assert Speed(on_gpu=True).seconds(Work(passes=(one,))) == pytest.approx(
            1000 / images_s, rel=0.1
        ), variant


def test_on_a_gpu_the_slowest_of_host_launches_and_arithmetic_decides() -> None:
    device = Device(on_gpu=True, image_ms=10.0)
    assert device.seconds(work(0.01, 0.1)) == device.seconds(work(0.4, 7)) == pytest.approx(8.0)
    launches = Device(on_gpu=True, layer_ms=5.0)
    assert launches.seconds(work(0.01, 0.1)) == pytest.approx(800 / 32 * 80 * 5.0 / 1000)


def test_of_each_kind_the_latest_are_kept() -> None:
    timings = [Timing(work=WORKS[i % 2], seconds=float(i + 1)) for i in range(30)]
    assert [t.seconds for t in combined(timings, of_a_kind=3)] == [25, 26, 27, 28, 29, 30]
    assert Coefficients(**vars(NOMINAL)) == NOMINAL
