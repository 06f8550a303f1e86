"""Images that are decoded once per node: what is stored, found again and refused."""

import errno
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.trainables.data.deep_images import GREY
from tests.trainables.data.deep_images import png as deep_png
from tests.waiting import HANG_S
from trainables.data import decode, decode_pass
from trainables.data.decode import prepare
from trainables.data.decode_pool import ExpectedImages, expected_images
from trainables.data.image_set import Form
from trainables.data.options import ReadOptions
from trainables.data.samples import shared_whites
from trainables.errors import UserError
from trainables.sources.folders import folder_source, scan

SPLITS = ("train", "val", "test")


def photo(number, height=6, width=8):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path, number, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(number, **size)).save(path, "PNG")


def folder(root, per_class=20, classes=("ant", "bee", "cat")):
    for label, name in enumerate(classes):
        for number in range(per_class):
            write(root / name / f"{number}.png", 1000 * label + number)
    return root


def content(found):
    """What training sees: the split and the label of each image's pixels."""
    return sorted(
        (image.tobytes(), name, int(label))
        for name in SPLITS
        for image, label in zip(found.split(name), found.split(name).labels, strict=True)
    )


def entries(cache):
    """What there is beside locks."""
    return [path.name for path in cache.iterdir() if not path.name.startswith(".")]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_images_come_back_in_three_splits(tmp_path, cache):
    data = folder(tmp_path / "data")
    calls = []
    found = prepare(data, cache, ReadOptions(), lambda *call: calls.append(call))
    assert calls == [(count, 60) for count in range(1, 61)]
    assert found.classes == ("ant", "bee", "cat")
    assert found.rejected == ()
    assert [len(found.split(name)) for name in SPLITS] == [42, 9, 9]
    for name in SPLITS:
        split = found.split(name)
        assert split.labels.dtype == np.int64
        assert split.sizes.dtype == np.int32
        assert split.sizes.tolist() == [[6, 8]] * len(split)
        assert np.bincount(split.labels).tolist() == [len(split) // 3] * 3
    expected = {
        photo(1000 * label + number).tobytes(): label for label in range(3) for number in range(20)
    }
    assert {pixels: label for pixels, _, label in content(found)} == expected
    assert [note for note in found.notes if "9 images of train became it" in note] == list(
        found.notes
    )


def test_a_set_of_relative_folders_is_reopened_elsewhere(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "data")
    split = prepare(Path("data"), Path("cache"), ReadOptions()).split("val")
    data = pickle.dumps(split)
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert all(np.array_equal(again[i], split[i]) for i in range(len(split)))


def test_first_images_of_a_split_mix_the_classes(tmp_path, cache):
    found = prepare(folder(tmp_path / "data", per_class=40), cache, ReadOptions())
    assert set(found.split("train").labels[:20].tolist()) == {0, 1, 2}


def test_second_time_reads_no_image(tmp_path, cache, monkeypatch):
    data = folder(tmp_path / "data")
    first = prepare(data, cache, ReadOptions())

    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("trainables.data.decode_pool._read", refuse)
    monkeypatch.setattr("trainables.data.pixels.to_rgb", refuse)
    again = prepare(data, cache, ReadOptions())
    assert again == first
    assert content(again) == content(first)


def test_names_order_and_folders_do_not_matter(tmp_path, cache):
    data = folder(tmp_path / "data")
    other = tmp_path / "other"
    for file in data.glob("*/*.png"):
        other_name = hashlib.sha256(file.name.encode()).hexdigest()
        target = other / file.parent.name / "deep" / f"{other_name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    first, second = prepare(data, cache, ReadOptions()), prepare(other, cache, ReadOptions())
    assert second.digest == first.digest
    assert content(second) == content(first)
    elsewhere = prepare(other, tmp_path / "cache2", ReadOptions())
    assert elsewhere.digest == first.digest
    assert content(elsewhere) == content(first)


@pytest.mark.parametrize(
    "options", [ReadOptions(seed=1), ReadOptions(cache_side=4), ReadOptions(val_share=0.3)]
)
def test_what_changes_the_images_changes_the_digest(tmp_path, cache, options):
    data = folder(tmp_path / "data")
    assert prepare(data, cache, options).digest != prepare(data, cache, ReadOptions()).digest


def test_the_order_of_classes_counts_only_where_it_differs(tmp_path, cache):
    numbers = folder(tmp_path / "numbers", per_class=5, classes=("1", "2", "10"))
    words = folder(tmp_path / "words", per_class=5, classes=("ant", "bee", "cat"))
    natural = ReadOptions(class_order="natural")
    given = ReadOptions(class_order=("2", "10", "1"))
    sets = [prepare(numbers, cache, options) for options in (ReadOptions(), natural, given)]
    assert [found.classes for found in sets] == [
        ("1", "10", "2"),
        ("1", "2", "10"),
        ("2", "10", "1"),
    ]
    assert len({found.digest for found in sets}) == 3
    assert prepare(words, cache, natural).digest == prepare(words, cache, ReadOptions()).digest
    asked = prepare(words, cache, ReadOptions(layout="folders"))
    assert asked.digest == prepare(words, cache, ReadOptions()).digest
    assert asked.layout == "class folders"


def test_changed_file_is_seen(tmp_path, cache):
    data = folder(tmp_path / "data")
    first = prepare(data, cache, ReadOptions())
    write(data / "ant" / "0.png", 77, width=9)
    second = prepare(data, cache, ReadOptions())
    assert second.digest != first.digest
    assert photo(77, width=9).tobytes() in {pixels for pixels, _, _ in content(second)}


def test_stored_images_are_reduced(tmp_path, cache):
    data = folder(tmp_path / "data")
    write(data / "ant" / "large.png", 5000, height=80, width=40)
    found = prepare(data, cache, ReadOptions(cache_side=20))
    sizes = {tuple(size) for name in SPLITS for size in found.split(name).sizes.tolist()}
    assert sizes == {(6, 8), (40, 20)}


def test_given_splits_stay_and_duplicates_are_noted(tmp_path, cache):
    data = tmp_path / "data"
    for offset, name in enumerate(("train", "valid", "test")):
        for label, kind in enumerate(("ant", "bee")):
            for number in range(3):
                write(data / name / kind / f"{number}.png", 100 * offset + 10 * label + number)
    write(data / "valid/ant/again.png", 0)
    found = prepare(data, cache, ReadOptions())
    assert [len(found.split(name)) for name in SPLITS] == [6, 7, 6]
    assert found.notes == ("1 image(s) of val are also in train, byte for byte.",)


@pytest.mark.parametrize(("bad", "passes"), [(9, True), (11, False)])
def test_corrupt_allowance(tmp_path, cache, bad, passes):
    data = folder(tmp_path / "data", per_class=500, classes=("ant", "bee"))
    for number in range(bad):
        (data / "ant" / f"{100 + number}.png").write_bytes(b"no image")
    if passes:
        found = prepare(data, cache, ReadOptions())
        assert len(found.rejected) == 9
        assert found.rejected[0].path == "ant/100.png"
        assert found.rejected[0].reason == "not an image of a known format"
        with pytest.raises(UserError, match=r"9 unreadable of 1000 .*allowed 0\.80%"):
            prepare(data, cache, ReadOptions(max_corrupt=0.008))
        return
    with pytest.raises(UserError) as caught:
        prepare(data, cache, ReadOptions())
    why = "(not an image of a known format)"
    assert str(caught.value) == (
        f"{data} has 11 unreadable of 1000 files (1.10%, allowed 1.00%), as ant/100.png {why};"
        f" ant/101.png {why}; ant/102.png {why}: mend or remove them, or raise `max_corrupt`."
    )
    assert len(prepare(data, cache, ReadOptions(max_corrupt=0.02)).rejected) == 11


def test_class_without_readable_images_is_named(tmp_path, cache):
    data = folder(tmp_path / "data")
    for file in (data / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="Class bee has 0 distinct readable"):
        prepare(data, cache, ReadOptions(max_corrupt=1))
    assert not list(cache.glob("tmp-*"))


def test_full_disk_is_refused_before_writing(tmp_path, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3_200_000_000))
    many = SimpleNamespace(stored_bytes=12_300_000_000, file_bytes=12_300_000_000)
    monkeypatch.setattr(decode, "expected_images", lambda *_: many)
    with pytest.raises(UserError) as caught:
        prepare(folder(tmp_path / "data"), cache, ReadOptions())
    assert str(caught.value) == (
        f"The cache folder {cache} has 3.2 GB free, and 60 images at up to 1024 px need about"
        " 12.3 GB: choose a smaller `cache_side`, or a `cache_dir` on a larger disk."
    )
    assert not entries(cache)


def test_estimate_is_the_size_on_disk(tmp_path, cache):
    data = folder(tmp_path / "data", per_class=200)
    found = prepare(data, cache, ReadOptions())
    written = (found.root / "pixels.bin").stat().st_size
    expected = expected_images(folder_source(scan(data)), 1024, {"val": 0.15, "test": 0.15})
    assert expected.stored_bytes == written
    assert expected.counts == {split: len(found.split(split)) for split in SPLITS}


def test_what_is_expected_may_end_the_reading_before_an_image_is_decoded(
    tmp_path, cache, monkeypatch
):
    def refuse(_: ExpectedImages) -> Form:
        raise UserError("Too little room.")

    data, decoded = folder(tmp_path / "data"), []
    monkeypatch.setattr(decode, "decode_into", lambda *_: decoded.append(1))
    with pytest.raises(UserError, match=r"Too little room."):
        prepare(data, cache, ReadOptions(), expect=refuse)
    assert not decoded and not entries(cache)


def test_disk_that_fills_up_is_reported(tmp_path, cache, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(decode_pass, "decode_all", fill)
    with pytest.raises(UserError, match=r"cache is full: choose another `cache_dir`"):
        prepare(folder(tmp_path / "data"), cache, ReadOptions())
    assert not list(cache.glob("tmp-*"))


def test_unwritable_cache(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written to .* another `cache_dir`"):
        prepare(folder(tmp_path / "data"), tmp_path / "file" / "cache", ReadOptions())


def test_cache_among_the_images_is_refused(tmp_path):
    data = folder(tmp_path / "data")
    with pytest.raises(UserError, match=r"cache lies in .*data: choose another `cache_dir`"):
        prepare(data, data / "cache", ReadOptions())


def test_torn_cache_is_made_again(tmp_path, cache):
    data = folder(tmp_path / "data")
    first = prepare(data, cache, ReadOptions())
    wanted = content(first)
    with (first.root / "pixels.bin").open("r+b") as file:
        file.truncate(100)
    assert content(prepare(data, cache, ReadOptions())) == wanted


def run(data, cache, on_progress):
    """`prepare` in a process of its own, decoding slowly."""
    script = f"""
        import os, signal, time
        from pathlib import Path
        from trainables.data import decode, options, pixels
        plain, calls = pixels.to_rgb, []
        def slow(data, side):
            time.sleep(0.02)
            return plain(data, side)
        pixels.to_rgb = slow
        def progress(done, total):
            calls.append(done)
            {on_progress}
        decode.prepare(Path({str(data)!r}), Path({str(cache)!r}), options.ReadOptions(), progress)
        print(len(calls))
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )


def test_two_processes_decode_once(tmp_path, cache):
    data = folder(tmp_path / "data")
    both = [run(data, cache, "pass") for _ in range(2)]
    counts = sorted(int(one.communicate(timeout=HANG_S)[0]) for one in both)
    assert counts == [0, 60]


def test_killed_decode_leaves_nothing_that_looks_finished(tmp_path, cache):
    data = folder(tmp_path / "data")
    killed = run(data, cache, "done > 5 and os.kill(os.getpid(), signal.SIGKILL)")
    killed.communicate(timeout=HANG_S)
    assert killed.returncode == -9
    left = entries(cache)
    assert len(left) == 1
    assert left[0].startswith("tmp-")
    found = prepare(data, cache, ReadOptions())
    assert len(content(found)) == 60
    assert not list(cache.glob("tmp-*"))


def test_a_bound_makes_room_of_what_no_process_holds(tmp_path, cache):
    first, second = folder(tmp_path / "a", per_class=30), folder(tmp_path / "b", per_class=20)
    run(first, cache, "pass").communicate(timeout=HANG_S)
    (kept,) = cache.glob("?" * 64)
    size = sum(file.stat().st_size for file in kept.iterdir())
    found = prepare(second, cache, ReadOptions(cache_gb=size / 1e9))
    assert not kept.exists()
    wanted = content(found)
    # What this process was given stays for as long as it runs.
    with pytest.raises(UserError) as caught:
        prepare(first, cache, ReadOptions(cache_gb=size / 1e9))
    assert f"of `cache_gb` {size / 1e9:g} and of its disk" in str(caught.value)
    assert "90 images at up to 1024 px" in str(caught.value)
    assert content(found) == wanted
    again = prepare(first, cache, ReadOptions())
    assert again.root == kept and len(content(again)) == 90


def test_a_set_that_alone_is_too_large_drops_nothing(tmp_path, cache):
    run(folder(tmp_path / "a"), cache, "pass").communicate(timeout=HANG_S)
    before = entries(cache)
    with pytest.raises(UserError, match=r"`cache_gb` 1e-05 .* 180 images .* larger `cache_gb`"):
        prepare(folder(tmp_path / "b", per_class=60), cache, ReadOptions(cache_gb=1e-5))
    assert entries(cache) == before


DIGITS = Path(__file__).parents[4] / "shared/data/sign-digits"


@pytest.mark.skipif(not DIGITS.exists(), reason="the sign-digits photographs are not here")
def test_real_photographs(cache):
    found = prepare(DIGITS, cache, ReadOptions(cache_side=64))
    assert found.rejected == ()
    assert sum(len(found.split(name)) for name in SPLITS) == 2062
    for name, share in zip(SPLITS, (0.7, 0.15, 0.15), strict=True):
        split = found.split(name)
        images_of = [len(list((DIGITS / name).iterdir())) for name in found.classes]
        wanted = share * np.array(images_of)
        assert np.abs(np.bincount(split.labels) - wanted).max() <= 1
        assert {tuple(size) for size in split.sizes.tolist()} == {(64, 64)}
    test = found.split("test")
    assert 60 < np.mean([test[index].mean() for index in range(len(test))]) < 220


def deep(root, tops):
    """Class folders with ordinary images and one grey PNG of 16 bits for each largest value."""
    folder(root)
    for number, top in enumerate(tops):
        values = np.random.default_rng(number).integers(0, top + 1, (6, 8))
        values[0, 0] = top
        (root / "ant" / f"deep{number}.png").write_bytes(deep_png(values, GREY))
    return root


def brightest(found, name):
    """The largest value that is stored of a file."""
    with pa.memory_map(str(found.root / "index.arrow")) as mapped:
        rows = pa.ipc.open_file(mapped).read_all().to_pylist()
    (row,) = (row for row in rows if row["path"] == name)
    pixels = np.fromfile(found.root / "pixels.bin", np.uint8)
    return int(pixels[row["offset"] :][: 3 * row["height"] * row["width"]].max())


def test_images_of_one_kind_share_their_white(tmp_path, cache):
    found = prepare(deep(tmp_path / "data", [4000, 900, 200]), cache, ReadOptions())
    assert found.whites == {"16-bit grey PNG": 4095}
    stored = [brightest(found, f"ant/deep{number}.png") for number in range(3)]
    assert stored == [round(top * 255 / 4095) for top in (4000, 900, 200)]
    assert found.notes[0] == (
        "3 image(s) are 16-bit grey PNG: 4,095 is white in them, the least range that holds their"
        " values."
    )
    assert found.notes[1].startswith("1 image(s) are nearly black, with no value above 15 of 255,")
    assert "ant/deep2.png" in found.notes[1]
    assert prepare(tmp_path / "data", cache, ReadOptions()).whites == found.whites
    known = decode.known_set(cache, found.digest, ReadOptions())
    assert known is not None and known.whites == found.whites


def test_an_image_that_changes_between_its_two_decodings_is_refused(tmp_path, cache, monkeypatch):
    data = deep(tmp_path / "data", [4000, 900])

    def meanwhile(read):
        (data / "ant" / "deep1.png").write_bytes(deep_png(np.full((6, 8), 5), GREY))
        return shared_whites(read)

    monkeypatch.setattr(decode_pass, "shared_whites", meanwhile)
    with pytest.raises(UserError, match=r"ant/deep1\.png in .* was changed while"):
        prepare(data, cache, ReadOptions())


def test_only_images_that_were_read_otherwise_change_the_digest(tmp_path, cache):
    """Sweeps over ordinary sets, begun before, are to be continued."""
    plain = prepare(folder(tmp_path / "plain"), cache, ReadOptions())
    as_in_0_1_0 = "c0c26f7b60d39d7c1eef6c4d3cc6ff3baa06f71a310a04f5ba01b24b8d393db0"
    assert plain.digest == as_in_0_1_0
    full = prepare(deep(tmp_path / "full", [65535, 900]), cache, ReadOptions())
    assert full.whites == {"16-bit grey PNG": 65535}


def test_reduced_images_are_told(tmp_path, cache):
    data = folder(tmp_path / "data")
    write(data / "ant" / "large.png", 5000, height=80, width=40)
    notes = prepare(data, cache, ReadOptions(cache_side=20)).notes
    assert notes[0] == (
        "1 image(s) have a short side above 20 px: they are kept reduced to it, and each"
        " resolution is resized from there."
    )


def test_images_of_several_frames_are_told(tmp_path, cache):
    data = folder(tmp_path / "data")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
    frames[0].save(data / "ant" / "frames.gif", save_all=True, append_images=frames[1:])
    frames[0].save(data / "bee" / "pages.tiff", save_all=True, append_images=frames[1:])
    frames[0].save(data / "bee" / "one.gif")
    frames[0].save(data / "cat" / "preview.jpg", "MPO", save_all=True, append_images=frames[1:2])
    notes = prepare(data, cache, ReadOptions()).notes
    assert (
        "2 image(s) have several frames or pages, as ant/frames.gif: the first is taken." in notes
    )


def rename(path, name):
    os.rename(os.fsencode(path), os.fsencode(path.parent) + b"/" + name)


def test_a_class_whose_name_no_result_could_hold_is_refused_before_decoding(
    tmp_path, cache, monkeypatch
):
    data = folder(tmp_path / "data")
    rename(data / "cat", b"caf\xe9")
    monkeypatch.setattr(decode_pass, "decode_all", None)
    with pytest.raises(
        UserError, match=r"data has a name that is not UTF-8 \(caf\\xe9\): rename it"
    ):
        prepare(data, cache, ReadOptions())
    assert not list(cache.glob("tmp-*"))


def test_names_of_files_are_escaped_wherever_they_are_listed(tmp_path, cache):
    data = folder(tmp_path / "data")
    (data / "ant" / "broken").write_bytes(b"no image")
    rename(data / "ant" / "broken", b"a\tb\xe9.jpg")
    rename(data / "ant" / "0.png", b"caf\xe9.png")
    for _ in range(2):  # decoded, then from the cache
        found = prepare(data, cache, ReadOptions(max_corrupt=0.1))
        assert [one.path for one in found.rejected] == [r"ant/a\tb\xe9.jpg"]
    assert brightest(found, r"ant/caf\xe9.png") > 200
    with pytest.raises(UserError, match=r"as ant/a\\tb\\xe9.jpg \(not an image"):
        prepare(data, cache, ReadOptions())


def test_heic_is_read_again_once_its_reader_is_there(tmp_path, cache, monkeypatch):
    data = folder(tmp_path / "data")
    (data / "ant" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    options = ReadOptions(max_corrupt=0.1)
    monkeypatch.setattr(decode, "reads_heic", lambda: False)
    assert len(prepare(data, cache, options).rejected) == 1
    asked = []
    monkeypatch.setattr(decode, "reads_heic", lambda: True)
    prepare(data, cache, options, lambda *call: asked.append(call))
    assert asked
