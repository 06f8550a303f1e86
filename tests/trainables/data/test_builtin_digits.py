"""The built-in image set: same bytes, honest splits, the digit where the test crop is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import builtin_digits
from trainables.data.builtin_digits import EmbeddedSpec, make
from trainables.errors import UserError

SMALL = EmbeddedSpec(train=24, val=10, test=13)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("embedded") / "set", SMALL)


def test_same_spec_same_bytes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin_digits, "available_cores", lambda: 1)  # and whatever the threads
    assert digest(make(tmp_path / "again", SMALL)) == digest(made)


def test_a_picture_does_not_depend_on_the_other_pictures(made: Path, tmp_path: Path) -> None:
    larger = digest(make(tmp_path / "larger", EmbeddedSpec(train=60, val=10, test=13)))
    of_scan = {Path(name).name: value for name, value in larger.items()}
    shared = [name for name in digest(made) if name.startswith("train/")]
    assert all(of_scan[Path(name).name] == digest(made)[name] for name in shared)


def test_another_seed_gives_other_pictures(made: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", EmbeddedSpec(train=24, val=10, test=13, seed=1))
    assert not set(digest(other).values()) & set(digest(made).values())


def test_sizes_classes_and_format(made: Path) -> None:
    for name, size in (("train", 24), ("val", 10), ("test", 13)):
        files = list((made / name).glob("*/*.jpg"))
        classes = Counter(path.parent.name for path in files)
        assert len(files) == size
        assert sorted(classes) == [str(k) for k in range(10)]
        assert max(classes.values()) - min(classes.values()) <= 1
    shapes = set()
    for path in made.glob("*/*/*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert 280 <= min(image.size) <= 340
            assert 1.19 < max(image.size) / min(image.size) < 1.46
            shapes.add(image.width > image.height)
    assert shapes == {True, False}


def test_folder_says_the_digit_and_the_file_the_scan(made: Path) -> None:
    digits = builtin_digits._material().digits
    for path in made.glob("*/*/*.jpg"):
        assert int(path.parent.name) == digits[int(path.stem)]


@pytest.mark.parametrize(
    "spec", [EmbeddedSpec(), EmbeddedSpec(train=1297, val=250, test=250, seed=5)]
)
def test_no_scan_in_two_splits_and_classes_balanced(spec: EmbeddedSpec) -> None:
    digits = builtin_digits._material().digits
    found = builtin_digits.split(digits, spec)
    numbers = [number for split in found.values() for number in split]
    assert len(numbers) == len(set(numbers)) == spec.train + spec.val + spec.test
    for name in ("train", "val"):
        counts = np.bincount(digits[found[name]], minlength=10)
        assert counts.max() - counts.min() <= 1
    # The last split takes the scans that are left: classes have 174 to 183 scans.
    counts = np.bincount(digits[found["test"]], minlength=10)
    assert counts.max() - counts.min() <= 183 - 174 + 1


def test_no_two_scans_are_the_same() -> None:
    scans = builtin_digits._material().scans
    assert len(np.unique(scans.reshape(len(scans), -1), axis=0)) == builtin_digits.SCANS


def test_digit_lies_within_the_central_square_and_nothing_else_changes() -> None:
    material = builtin_digits._material()
    for number in range(0, builtin_digits.SCANS, 30):
        drawing = builtin_digits.draw(
            material.scans[number], material.photos, np.random.default_rng((0, number))
        )
        # The background is drawn first, so the same generator gives it without the digit.
        bare = builtin_digits.background(material.photos, np.random.default_rng((0, number)))
        changed = (np.asarray(drawing.image) != np.asarray(bare)).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        left, top, right, bottom = drawing.box_px
        assert left <= columns[0] <= columns[-1] < right
        assert top <= rows[0] <= rows[-1] < bottom
        wide, high = bare.size
        short = min(wide, high)
        assert (wide - short) // 2 < left < right < (wide + short) // 2
        assert (high - short) // 2 < top < bottom < (high + short) // 2
        low, upper = builtin_digits.DIGIT_PART
        assert low - 0.01 <= max(right - left, bottom - top) / short <= upper + 0.01


def test_digit_stands_out_from_what_it_covers() -> None:
    material = builtin_digits._material()
    for number in range(0, builtin_digits.SCANS, 30):
        seed = (0, number)
        drawing = builtin_digits.draw(
            material.scans[number], material.photos, np.random.default_rng(seed)
        )
        bare = builtin_digits.background(material.photos, np.random.default_rng(seed))
        after, before = (np.asarray(i.convert("L"), dtype=float) for i in (drawing.image, bare))
        step = np.abs(after - before)
        assert np.median(step[step > step.max() / 2]) > 50  # luma, of 255


def test_second_make_writes_nothing(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(builtin_digits, "_write", refuse)
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert make(made, SMALL) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_makes_into_an_empty_folder_and_reports_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = tmp_path / "set"
    folder.mkdir()
    spec = EmbeddedSpec(train=10, val=10, test=10)
    make(folder, spec, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 30) for done in range(1, 31)]
    assert json.loads((folder / builtin_digits.MARKER).read_text())["spec"]["train"] == 10
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # no scratch is left


def test_leaves_nothing_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(builtin_digits, "draw", fail)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_takes_what_a_faster_process_made(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "set", builtin_digits._write

    def meanwhile(scratch: Path, spec: EmbeddedSpec, progress: None) -> None:
        write(scratch, spec, progress)
        write(folder, spec, progress)

    monkeypatch.setattr(builtin_digits, "_write", meanwhile)
    assert make(folder, SMALL) == folder
    assert digest(folder) == digest(made)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_refuses_a_foreign_folder_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no embedded image set"):
        make(tmp_path, SMALL)
    with pytest.raises(UserError, match="no embedded image set"):
        make(tmp_path / "thesis.txt", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("marker", ["", "[]", '"set"', "{}", "\x00"])
def test_refuses_a_marker_of_something_else(tmp_path: Path, marker: str) -> None:
    (tmp_path / builtin_digits.MARKER).write_text(marker)
    with pytest.raises(UserError, match="no embedded image set"):
        make(tmp_path, SMALL)


def test_refuses_another_spec_version_or_missing_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EmbeddedSpec(train=10, val=10, test=10)
    folder = make(tmp_path / "set", spec)
    with pytest.raises(UserError, match="other settings"):
        make(folder, EmbeddedSpec(train=10, val=10, test=10, seed=3))
    with monkeypatch.context() as patch:
        patch.setattr(builtin_digits, "VERSION", builtin_digits.VERSION + 1)
        with pytest.raises(UserError, match="other settings"):
            make(folder, spec)
    next(folder.glob("val/*/*.jpg")).unlink()
    with pytest.raises(UserError, match="9 images instead of 10"):
        make(folder, spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (EmbeddedSpec(train=1001, val=300, test=497), "1798 in sum, but there are 1797"),
        (EmbeddedSpec(train=100, val=9, test=100), "val 9, test 100: every split needs 10"),
        (EmbeddedSpec(seed=-1), "seed -1"),
    ],
)
def test_refuses_what_cannot_be_made(tmp_path: Path, spec: EmbeddedSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path / "set", spec)
    assert list(tmp_path.iterdir()) == []
