"""Where the images of a sweep come from, and where the built-in digits are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from sweeps.planning import dataset
from sweeps.planning.dataset import check_extra_test_sets, find_near_duplicates, open_images
from tests.factories import spec_with
from trainables.data import builtin_digits
from trainables.errors import UserError
from trainables.sources.splits import SPLITS
from trainables.storage.object_store import RemotePath, remote_path


class Messages:
    """Keeps what would be shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.work: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def counting(self, what: str) -> Callable[[int, int], None]:
        self.work.append(what)
        return lambda done, total: None


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that digits are drawn in; nothing is drawn or decoded in earnest."""
    folders: list[Path] = []

    def draw(folder: Path, spec: Any, progress: Any) -> None:
        folders.append(folder)
        for name in (*(f"{split}/0/0.jpg" for split in SPLITS), builtin_digits.MARKER):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("drawn")

    def prepare(data: Any, cache: Path, options: Any, progress: Any, **_: Any) -> Any:
        return SimpleNamespace(data=data, rejected=(), notes=())

    monkeypatch.setattr(builtin_digits, "make", draw)
    monkeypatch.setattr(dataset, "prepare", prepare)
    return folders


def set_cluster(monkeypatch: pytest.MonkeyPatch, on_cluster: bool) -> None:
    monkeypatch.setattr(dataset, "on_cluster", lambda: on_cluster)


def test_a_users_folder_is_decoded_and_what_is_left_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: Any = SimpleNamespace(rejected=("a.jpg", "b.jpg"), notes=("test is val",))
    monkeypatch.setattr(dataset, "prepare", lambda *_, **__: images)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    messages = Messages()
    opened, data = open_images(spec_with(data=str(tmp_path / "link")), messages)
    assert opened is images and data == tmp_path / "data"
    first, second = messages.lines
    assert first.startswith("2 files cannot be read") and second == "test is val"
    assert messages.work == ["decoding images"]


def test_a_store_is_downloaded_from(
    drawn: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemotePath, "check_reachable", lambda self: None)
    messages = Messages()
    uri = "s3://bucket/images?region=us-east-1"
    _, data = open_images(spec_with(data=uri, cache_dir=tmp_path), messages)
    assert data == remote_path(uri) and not drawn
    assert messages.work == ["downloading and decoding images"]


def test_a_store_that_does_not_answer_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: RemotePath) -> None:
        raise OSError("ConnectError: Name or service not known")

    monkeypatch.setattr(RemotePath, "check_reachable", fail)
    spec = spec_with(data="hf://datasets/x/y", cache_dir=tmp_path)
    with pytest.raises(UserError, match=r"^--data hf://datasets/x/y cannot be reached \(Connect"):
        open_images(spec, Messages())


def test_digits_are_drawn_in_the_cache_of_this_machine(
    drawn: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cluster(monkeypatch, False)
    seeds = [spec_with(cache_dir=tmp_path, seed=seed, out=tmp_path / "out") for seed in (0, 1)]
    folders = [open_images(spec, Messages())[1] for spec in seeds]
    assert drawn == folders and len(set(folders)) == 2
    assert all(isinstance(folder, Path) and folder.parent == tmp_path for folder in folders)


def test_on_a_cluster_digits_are_drawn_in_out_where_every_node_sees_them(
    drawn: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cluster(monkeypatch, True)
    spec = spec_with(cache_dir=tmp_path / "cache", out=tmp_path / "out")
    _, data = open_images(spec, Messages())
    assert drawn == [data] and isinstance(data, Path)
    assert data.parent == tmp_path / "out" / ".digits"


def test_on_a_cluster_with_a_store_digits_are_uploaded_once_and_the_marker_last(
    drawn: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_cluster(monkeypatch, True)
    uploads: list[str] = []
    upload = RemotePath.upload_files

    def recorded(self: RemotePath, folder: Path, names: Any) -> None:
        uploads.extend(names)
        upload(self, folder, names)

    monkeypatch.setattr(RemotePath, "upload_files", recorded)
    store = tmp_path / "store"
    spec = spec_with(cache_dir=tmp_path / "cache", storage=store.as_uri(), out=tmp_path / "out")
    _, data = open_images(spec, Messages())
    assert isinstance(data, RemotePath) and data.parent == remote_path(store.as_uri())
    assert uploads[-1] == builtin_digits.MARKER and len(uploads) == len(SPLITS) + 1
    assert (store / data.name / builtin_digits.MARKER).exists()
    assert open_images(spec, Messages())[1] == data and len(drawn) == 1


def pictures(root: Path, classes: str, first: int) -> Path:
    """Eight pictures of each class, the same ones for the same numbers."""
    for at, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(8):
            colour = (first + number, 10 * at, 200)
            Image.new("RGB", (8, 8), colour).save(root / name / f"{number}.png")
    return root


def test_what_is_to_know_of_extra_test_sets_is_known_before_training(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data", "abc", 0)
    near, odd = pictures(tmp_path / "near", "ab", 5), pictures(tmp_path / "odd", "ax", 100)
    (near / "a" / "@eaDir").mkdir()
    (near / "b" / "bad.png").write_bytes(b"no image")
    options = {"data": str(data), "cache_dir": tmp_path / "cache", "max_corrupt": 0.2}
    spec = spec_with(**options, also_test=(f"near={near}",))
    images, _ = open_images(spec, Messages())
    messages = Messages()
    check_extra_test_sets(spec, images, messages)
    told = "\n".join(messages.lines)
    assert "near: 1 files cannot be read and are left out, as b/bad.png (not an image" in told
    assert "near: Left out, as file managers" in told
    shared = [int(line.split()[2]) for line in messages.lines if "byte for byte" in line]
    assert sum(shared) == 6 and any("also in train" in line for line in messages.lines)
    with pytest.raises(UserError, match=r"odd has 1 class\(es\) that were not trained on, as x"):
        check_extra_test_sets(spec_with(**options, also_test=(f"odd={odd}",)), images, messages)


def persons(root: Path, split: str, numbers: range, first: int = 0) -> Path:
    """Two pictures of each person, one of each class."""
    for at, name in enumerate("ab"):
        for number in numbers:
            path = root / split / name / f"p{number:02}_{first}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 10 * at, first)).save(path)
    return root


def test_groups_of_an_extra_test_set_that_the_splits_have_too_are_told(tmp_path: Path) -> None:
    """Other pictures of the same persons: no byte is the same."""
    data = persons(tmp_path / "data", "train", range(12))
    persons(data, "test", range(20, 25))
    new = persons(tmp_path / "new", ".", range(9, 22), first=100)
    apart, plain = (tmp_path / name for name in ("apart", "plain"))
    persons(apart, ".", range(90, 93))
    pictures(plain, "ab", 200)
    sets = {"new": new, "apart": apart, "plain": plain}
    spec = spec_with(
        data=str(data),
        cache_dir=tmp_path / "cache",
        group_by=r"(p\d+)_",
        also_test=tuple(f"{name}={where}" for name, where in sets.items()),
    )
    images, _ = open_images(spec, Messages())
    of_splits = {
        split: {Path(path).name[:3] for path in images.split(split).paths()} for split in SPLITS
    }
    assert len(of_splits["val"]) == 2 and sum(map(len, of_splits.values())) == 17
    for _ in range(2):  # decoded, and from the cache
        messages = Messages()
        check_extra_test_sets(spec, images, messages)
        own = {f"p{number:02}" for number in range(9, 22)}
        expected = [
            f"--also-test new: {len(own & names)} group(s) of it are also in {split}, with "
            f"{2 * len(own & names)} image(s) of it."
            for split, names in of_splits.items()
            if own & names
        ]
        assert len(expected) >= 2
        unknown = r"--also-test plain: none of its images has a group by --group-by (p\d+)_: "
        *told, last = messages.lines
        assert told == expected and last.startswith(unknown)
    messages = Messages()
    check_extra_test_sets(spec_with(spec, group_by=None), images, messages)
    assert not messages.lines


def test_copies_of_other_bytes_are_found_across_splits_and_extra_sets(tmp_path: Path) -> None:
    """Of 24 parts of a photograph, two are in val too and two in an extra set, not as they were."""
    photograph = load_sample_image("china.jpg")

    def part(number: int) -> Image.Image:
        top, left = 105 * (number // 6), 105 * (number % 6)
        return Image.fromarray(np.ascontiguousarray(photograph[top : top + 105, left : left + 105]))

    def save(picture: Image.Image, name: str, quality: int = 95) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, "JPEG", quality=quality)

    for number in range(24):
        split = ("train", "train", "val", "test")[number % 4]
        save(part(number), f"data/{split}/{'ab'[number // 12]}/{number}.jpg")
    save(part(12), "data/val/b/copy.jpg", 50)
    save(part(13).resize((70, 70)), "data/val/b/small.jpg")
    save(part(14).point(lambda value: min(255, int(1.1 * value))), "v2/b/brighter.jpg")
    save(part(15), "v2/b/copy.jpg", 60)
    options = {"data": str(tmp_path / "data"), "cache_dir": tmp_path / "cache"}
    spec = spec_with(**options, also_test=(f"v2={tmp_path / 'v2'}",))
    images, _ = open_images(spec, Messages())
    found = find_near_duplicates(images, check_extra_test_sets(spec, images, Messages()))
    assert sorted(pair[:4] for pair in found.pairs) == [
        ("v2", "b/brighter.jpg", "val", "val/b/14.jpg"),
        ("v2", "b/copy.jpg", "test", "test/b/15.jpg"),
        ("val", "val/b/copy.jpg", "train", "train/b/12.jpg"),
        ("val", "val/b/small.jpg", "train", "train/b/13.jpg"),
    ]
    assert "2 of 8 images of val look like one of train" in found.in_words
