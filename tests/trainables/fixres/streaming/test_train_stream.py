"""A streamed pass against one that keeps all maps, and cut off at any of its writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from tests import tiny_net
from tests.factories import is_one_sentence
from trainables.errors import SweepError
from trainables.fixres.features import (
    NormStatistics,
    body_pass,
    features_of,
    norm_statistics,
    set_norm,
)
from trainables.fixres.streaming import feature_shards
from trainables.fixres.streaming.feature_shards import FeatureShards, shard_ends
from trainables.fixres.streaming.train_stream import TrainStream
from trainables.models import backbone
from trainables.models.variants import Preprocessing

CPU = torch.device("cpu")
PIXELS = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0)
COUNT, PREFIX, SHARD, BATCH = 150, 50, 32, 16
HALF = 2**-11  # the relative rounding of half precision


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_shards, "SHARD_IMAGES", SHARD)


@pytest.fixture(scope="module")
def net(tiny_weights: Path) -> Any:
    model: Any = timm.create_model(f"tf_efficientnet_{tiny_net.NAME}", num_classes=5)
    model.load_state_dict(load_file(tiny_weights / "tiny.safetensors"))
    torch.nn.init.uniform_(model.bn2.weight, 0.5, 1.5)
    torch.nn.init.normal_(model.bn2.bias)
    return model.eval()


@pytest.fixture(scope="module")
def view() -> np.ndarray:
    rng = np.random.default_rng(0)
    brightness = rng.integers(20, 236, (COUNT, 1, 1, 3))
    noise = rng.integers(-20, 20, (COUNT, 32, 32, 3))
    return (brightness + noise).astype(np.uint8)


@pytest.fixture
def stream(net: Any, view: np.ndarray, tmp_path: Path) -> TrainStream:
    shards = FeatureShards(
        folder=tmp_path / "cell",
        name="train",
        labels=np.arange(COUNT),
        prefix=PREFIX,
    )
    return TrainStream(
        model=net,
        body=backbone.frozen_body(net),
        view=view,
        shards=shards,
        preprocessing=PIXELS,
        batch_size=BATCH,
        device=CPU,
        scratch=tmp_path / "scratch",
    )


@pytest.fixture(scope="module")
def kept(net: Any, view: np.ndarray, tmp_path_factory: Any) -> tuple[NormStatistics, torch.Tensor]:
    """Statistics and features of a pass that keeps all maps."""
    options: Any = {"batch_size": BATCH, "device": CPU}
    scratch = tmp_path_factory.mktemp("maps")
    with body_pass(net, view, PIXELS, **options, scratch=scratch) as maps:
        statistics = norm_statistics(net, maps, **options)
        set_norm(net, statistics)
        return statistics, features_of(net, maps, **options)


@pytest.mark.parametrize(
    ("count", "prefix", "ends"),
    [
        (150, 50, (32, 50, 82, 114, 146, 150)),
        (150, 5, (5, 10, 20, 40, 72, 104, 136, 150)),
        (100, 64, (32, 64, 96, 100)),
        (30, 64, (30,)),
    ],
)
def test_shards_grow_with_the_images_before_them(
    count: int, prefix: int, ends: tuple[int, ...]
) -> None:
    assert shard_ends(count, prefix) == ends


def test_a_streamed_pass_has_exact_statistics_and_features_near_those_of_kept_maps(
    stream: TrainStream, kept: tuple[NormStatistics, torch.Tensor], net: Any
) -> None:
    wanted, features = kept
    found = stream.statistics(features=True)
    torch.testing.assert_close(found.mean, wanted.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.var, wanted.var, rtol=1e-5, atol=0)
    streamed = stream.features(found).to(CPU)
    assert streamed.dtype == torch.float16 and streamed.shape == features.shape
    off = (streamed.float() - features).norm() / features.norm()
    uncorrected = under_the_prefix(stream, net)
    assert off < (uncorrected - features).norm() / features.norm() / 5


@torch.no_grad()
def under_the_prefix(stream: TrainStream, net: Any) -> torch.Tensor:
    """Features of all images under the statistics of the first."""
    x = torch.tensor(stream.view).permute(0, 3, 1, 2).float().div(127.5) - 1
    z = backbone.pre_norm(net, backbone.body(net, x))
    first = z[:PREFIX].double().transpose(0, 1).flatten(1)
    set_norm(net, NormStatistics(first.mean(1), first.var(1)))
    return backbone.pooled(net, z)


def test_features_under_known_statistics_are_exact_but_for_their_precision(
    stream: TrainStream, kept: tuple[NormStatistics, torch.Tensor]
) -> None:
    statistics, features = kept
    found = stream.features(statistics).to(CPU).float()
    torch.testing.assert_close(found, features, rtol=4 * HALF, atol=1e-3)


def test_statistics_alone_write_no_features(
    stream: TrainStream, kept: tuple[NormStatistics, torch.Tensor]
) -> None:
    found = stream.statistics(features=False)
    torch.testing.assert_close(found.var, kept[0].var, rtol=1e-5, atol=0)
    names = {path.name for path in Path(str(stream.shards.folder)).iterdir()}
    assert names == {"train.moments.safetensors"}
    stream.shards.end()
    assert not list(Path(str(stream.shards.folder)).iterdir())


def files(stream: TrainStream) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in Path(str(stream.shards.folder)).iterdir()}


def outcome(stream: TrainStream) -> tuple[torch.Tensor, torch.Tensor, dict[str, bytes]]:
    statistics = stream.statistics(features=True)
    return statistics.var, stream.features(statistics).to(CPU), files(stream)


class Killed(BaseException):
    """Ends a pass in the midst, as a kill does."""


WRITES = ("write_raw", "write_moments", "write")


def killed_at(stream: TrainStream, write: int) -> bool:
    """Run a pass that is killed before its write of this number, from 1; say whether it was."""
    calls = 0

    def counted(plain: Any) -> Any:
        def called(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == write:
                raise Killed
            return plain(*given)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(FeatureShards, name, counted(getattr(FeatureShards, name)))
        try:
            outcome(stream)
        except Killed:
            return True
    return False


def test_a_pass_cut_off_at_any_write_goes_on_and_comes_to_the_same(
    stream: TrainStream, tmp_path: Path
) -> None:
    var, features, written = outcome(stream)
    shards = len(stream.shards.ends)
    # The prefix has two shards, written with one state; each is written once more in the end.
    writes = shards + (shards - 1) + shards
    for at in range(1, writes + 2):
        cut = replace(stream, shards=stream.shards.within(tmp_path / f"cut-{at}"))
        assert killed_at(cut, at) == (at <= writes)
        again = outcome(cut)
        assert torch.equal(again[0], var) and torch.equal(again[1], features)
        assert again[2] == written


def test_a_pass_that_goes_on_runs_only_over_what_is_left(
    stream: TrainStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    body = backbone.body

    def counted(net: Any, x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return body(net, x)

    monkeypatch.setattr(backbone, "body", counted)
    plain, calls = FeatureShards.write_raw, []

    def fourth_fails(self: Any, *rest: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        plain(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureShards, "write_raw", fourth_fails)
        with pytest.raises(Killed):
            outcome(stream)
    assert sum(seen) == stream.shards.ends[3]
    seen.clear()
    outcome(stream)
    assert sum(seen) == COUNT - stream.shards.ends[2]
    seen.clear()
    outcome(stream)
    assert seen == []


@pytest.mark.parametrize("damage", ["gone", "cut", "other images"])
def test_a_shard_that_is_not_sound_is_made_again(
    stream: TrainStream, kept: tuple[NormStatistics, torch.Tensor], damage: str
) -> None:
    _, features, _ = outcome(stream)
    path = Path(str(stream.shards.folder)) / "train-00002.arrow"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        other = replace(stream.shards, labels=np.arange(COUNT) + 1)
        other.write(2, features[50:82])
    assert stream.shards.read() is None
    again = stream.features(stream.statistics(features=True)).to(CPU)
    torch.testing.assert_close(again[:50], features[:50], rtol=0, atol=0)
    torch.testing.assert_close(again[50:82].float(), kept[1][50:82], rtol=4 * HALF, atol=1e-3)
    assert torch.equal(stream.shards.read().to(CPU), again)  # type: ignore[union-attr]


def test_a_shard_that_is_lost_as_it_is_written_is_told(
    stream: TrainStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    statistics = stream.statistics(features=True)
    monkeypatch.setattr(FeatureShards, "write", lambda *_: None)
    with pytest.raises(SweepError, match=r"cannot be read back.*The same command") as raised:
        stream.features(statistics)
    assert is_one_sentence(str(raised.value).partition("? ")[2])


def test_features_stay_in_their_files(stream: TrainStream) -> None:
    """In memory they would take as much as the set is large."""
    made = stream.features(stream.statistics(features=True))
    again = stream.shards.read()
    assert again is not None
    for features in (made, again):
        assert [len(part) for part in features.parts] == [b - a for a, b in stream.shards.spans]
        assert not any(part.flags.owndata or part.flags.writeable for part in features.parts)


def test_at_most_three_times_the_features_and_a_shard_are_on_the_disk(
    stream: TrainStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the moments and what frames the files."""
    most, folder = 0, Path(str(stream.shards.folder))
    for name in ("write_raw", "write"):
        plain = getattr(FeatureShards, name)

        def watched(self: Any, *rest: Any, plain: Any = plain) -> Any:
            nonlocal most
            done = plain(self, *rest)
            kinds = [*folder.glob("*.raw.safetensors"), *folder.glob("*.arrow")]
            most = max(most, sum(path.stat().st_size for path in kinds))
            return done

        monkeypatch.setattr(FeatureShards, name, watched)
    _, features, _ = outcome(stream)
    statistics_and_frames = len(stream.shards.ends) * (2 * 8 * features.shape[1] + 2000)
    assert most <= 3 * 2 * features.numel() + statistics_and_frames
    assert not list(folder.glob("*.raw.safetensors"))
    assert not list(Path(str(stream.scratch)).iterdir())
