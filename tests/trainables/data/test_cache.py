"""The cache keeps within its bound, and never drops what somebody uses."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.waiting import HANG_S
from trainables.data.cache import (
    GrowingFile,
    NoRoomError,
    SpaceRequest,
    draft_folder,
    locked,
    make_room,
    room_in,
    set_limit,
    write_errors,
)
from trainables.data.locks import held_file, hold, let_go, reserved
from trainables.errors import UserError

NEED = SpaceRequest(what="9 images at up to 64 px", smaller="a smaller `cache_side`")
MB = 1_000_000
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def cache(tmp_path):
    return tmp_path


def a_set(cache, number, size=MB, used=0.0):
    """A decoded set as far as the cache knows one; used that many seconds before any other."""
    root = cache / f"{number:064x}"
    root.mkdir()
    (root / "pixels.bin").write_bytes(b"\0" * size)
    (root / ".used").touch()
    os.utime(root / ".used", (1e9 - used, 1e9 - used))
    return root


def a_view(cache, name, size=MB, used=0.0):
    path = cache / "views" / f"{name}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.zeros(size - 128, np.uint8))
    os.utime(path, (1e9 - used, 1e9 - used))
    return path


def disk_with(monkeypatch, cache, size):
    """A disk on which nothing lies but the cache."""

    def usage(_):
        taken = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        return Usage(size, taken, size - taken)

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_what_was_not_used_for_longest_goes_and_no_more_than_must(cache):
    sets = [a_set(cache, n, used=10 * n) for n in range(3)]
    views = [a_view(cache, n, used=10 * n + 5) for n in range(3)]
    set_limit(cache, 0.006)
    assert not make_room(cache, 0, NEED)
    assert make_room(cache, 1_500_000, NEED)
    assert [path.exists() for path in sets] == [True, True, False]
    assert [path.exists() for path in views] == [True, True, False]
    assert not list(cache.glob("tmp-*"))


def test_the_room_is_what_could_be_made(cache, monkeypatch):
    """Sets in use and what is being written stay; views go in time, whoever holds them."""
    disk_with(monkeypatch, cache, 20 * MB)
    kept, _ = a_set(cache, 0, size=3 * MB), a_set(cache, 1, size=2 * MB)
    views = [a_view(cache, name) for name in "ab"]
    (cache / "tmp-1").mkdir()
    (cache / "tmp-1" / "pixels.bin").write_bytes(b"\0" * 4 * MB)
    assert hold(kept)
    try:
        held = held_file(views[0])
        before = sorted(cache.rglob("*"))
        assert room_in(cache).disk == 13 * MB and room_in(cache).bound is None
        set_limit(cache, 0.012)
        room = room_in(cache)
        assert (room.bound, room.least) == (5 * MB, 5 * MB)
        set_limit(cache, 0.002)
        assert room_in(cache).least == 0
        del held
        assert {*before} <= {*cache.rglob("*")}
    finally:
        let_go(kept)


def test_use_makes_young(cache):
    old, young = a_set(cache, 0, used=20), a_set(cache, 1, used=10)
    old_view, young_view = a_view(cache, "old", used=18), a_view(cache, "young", used=12)
    assert hold(old)
    let_go(old)
    assert held_file(old_view) is not None
    set_limit(cache, 0.004)
    make_room(cache, 2 * MB, NEED)
    assert old.exists() and old_view.exists()
    assert not young.exists() and not young_view.exists()


@pytest.mark.parametrize("seed", range(12))
def test_any_cache_keeps_within_any_bound(cache, seed):
    rng = np.random.default_rng(seed)
    ages = rng.permutation(16)
    entries = {}
    for n, age in enumerate(ages.tolist()):
        make = a_set if rng.random() < 0.5 else a_view
        entries[make(cache, n, size=int(rng.integers(200, 5000)), used=age)] = age
    files = {path: list(path.iterdir()) if path.is_dir() else [path] for path in entries}
    sizes = {path: sum(file.stat().st_size for file in files[path]) for path in entries}
    kept = set()
    for path in entries:
        if rng.random() < 0.3:
            kept.add(path)
            assert hold(path) if path.is_dir() else True
    maps = [held_file(path) for path in kept if path.suffix == ".npy"]
    limit, needed = int(rng.integers(10_000, 60_000)), int(rng.integers(0, 30_000))
    set_limit(cache, limit / 1e9)
    # By the definition: the oldest unheld ones, one after another, until what is left fits.
    oldest = sorted(entries.keys() - kept, key=lambda path: -entries[path])
    expected = set(entries)
    while sum(sizes[path] for path in expected) + needed > limit and oldest:
        expected.remove(oldest.pop(0))
    if sum(sizes[path] for path in expected) + needed > limit:
        with pytest.raises(UserError, match="`cache_gb`"):
            make_room(cache, needed, NEED)
        expected = set(entries)
    else:
        make_room(cache, needed, NEED)
    assert {path for path in entries if path.exists()} == expected
    assert all(found is not None for found in maps)
    for path in kept:
        let_go(path)


def test_a_full_disk_is_room_too(cache, monkeypatch):
    old, young = a_set(cache, 0, used=20), a_set(cache, 1, used=10)
    disk_with(monkeypatch, cache, 3 * MB)
    make_room(cache, 2 * MB, NEED)
    assert not old.exists() and young.exists()
    assert hold(young)
    with pytest.raises(UserError) as caught:
        make_room(cache, 4 * MB, NEED)
    assert str(caught.value) == (
        f"The cache folder {cache} has 2.0 MB free, and 9 images at up to 64 px need about 4.0 MB:"
        " choose a smaller `cache_side`, or a `cache_dir` on a larger disk."
    )
    let_go(young)


def test_what_fits_not_at_all_is_refused_with_numbers_and_costs_nothing(cache):
    held, idle = a_set(cache, 0), a_set(cache, 1)
    assert hold(held)
    set_limit(cache, 0.005)
    with pytest.raises(UserError) as caught:
        make_room(cache, 6 * MB, NEED)
    assert str(caught.value) == (
        f"The cache folder {cache} has 3.0 MB left of `cache_gb` 0.005 and of its disk, and 9"
        " images at up to 64 px need about 6.0 MB: choose a smaller `cache_side`, or a larger"
        " `cache_gb` or disk."
    )
    assert idle.exists()
    make_room(cache, 4 * MB, NEED)
    assert held.exists() and not idle.exists()
    let_go(held)


def test_the_bound_can_be_lifted(cache):
    a_set(cache, 0)
    set_limit(cache, 0.001)
    set_limit(cache, None)
    assert not make_room(cache, 5 * MB, NEED)


def test_what_is_being_written_counts(cache):
    idle = a_set(cache, 0)
    set_limit(cache, 0.003)
    with draft_folder(cache / "tmp-1"):
        (cache / "tmp-1" / "pixels.bin").write_bytes(b"\0" * MB)
        make_room(cache, MB, NEED)
        assert idle.exists()
        make_room(cache, 2 * MB, NEED)
        assert not idle.exists()
        with pytest.raises(UserError):
            make_room(cache, 3 * MB, NEED)
    assert not (cache / "tmp-1").exists()


def test_a_draft_that_is_published_is_held_until_it_is_found(cache):
    root = cache / f"{0:064x}"
    set_limit(cache, 0.001)
    with draft_folder(cache / "tmp-1"):
        (cache / "tmp-1").rename(root)
        (root / "pixels.bin").write_bytes(b"\0" * MB)
        with pytest.raises(UserError):
            make_room(cache, MB, NEED)
    make_room(cache, MB, NEED)
    assert not root.exists()


def test_a_half_written_view_goes_once_nobody_writes_it(cache):
    abandoned = cache / "views" / ".224-x.npy.1.tmp"
    abandoned.parent.mkdir()
    abandoned.write_bytes(b"\0" * MB)
    set_limit(cache, 0.001)
    with pytest.raises(UserError):  # it may just have been begun
        make_room(cache, MB, NEED)
    os.utime(abandoned, (1e9, 1e9))
    with reserved(abandoned), pytest.raises(UserError):
        make_room(cache, MB, NEED)
    os.utime(abandoned, (1e9, 1e9))
    make_room(cache, MB, NEED)
    assert not abandoned.exists()


def test_clearing_leaves_sets_and_views(cache):
    kept = [a_set(cache, 0), a_view(cache, "one")]
    (cache / "tmp-dead").mkdir()
    with locked(cache):
        assert not (cache / "tmp-dead").exists()
    assert all(path.exists() for path in kept)


def test_a_set_that_was_made_again_is_held_as_such(cache):
    root = a_set(cache, 0)
    assert hold(root)
    root.rename(cache / "elsewhere")
    a_set(cache, 0)
    assert hold(root)
    set_limit(cache, 0.001)
    with pytest.raises(UserError):
        make_room(cache, MB, NEED)
    let_go(root)
    make_room(cache, MB, NEED)
    assert not root.exists()


def test_what_another_process_holds_stays_until_it_dies(cache):
    root, path = a_set(cache, 0), a_view(cache, "one")
    script = f"""
        import time
        from pathlib import Path
        from trainables.data.locks import held_file, hold
        found = held_file(Path({str(path)!r}))
        print(hold(Path({str(root)!r})), flush=True)
        time.sleep(3600)
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert other.stdout is not None and other.stdout.readline() == "True\n"
    set_limit(cache, 0.002)
    with pytest.raises(UserError):
        make_room(cache, MB, NEED)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=HANG_S)
    assert root.exists() and path.exists()
    make_room(cache, 2 * MB, NEED)
    assert not root.exists() and not path.exists()


class Disk:
    """A file that takes some bytes at a time, and none where the disk is full."""

    def __init__(self, room, cache, freed):
        self.content, self._room, self._cache, self._freed = b"", room, cache, freed

    def write(self, data):
        entries = [p for p in self._cache.iterdir() if len(p.name) == 64]
        room = self._room + self._freed * (2 - len(entries)) - len(self.content)
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = bytes(data[: min(room, 1000)])
        self.content += taken
        return len(taken)


def test_a_growing_file_drops_what_nobody_uses_where_the_disk_is_full(cache, monkeypatch):
    sets = [a_set(cache, n, used=10 * n) for n in range(2)]
    file: Any = Disk(5000, cache, 3000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    growing = GrowingFile(file, cache, 100_000, NEED)
    data = np.random.default_rng(0).integers(0, 256, (11_000,), np.uint8)
    for part in np.split(data, 11)[:7]:
        growing.append(part.data)
    assert [path.exists() for path in sets] == [True, False]
    with pytest.raises(UserError, match=r"has 0\.0 MB free"):
        growing.append(np.tile(data[7000:], 2).data)
    assert not any(path.exists() for path in sets)
    assert file.content[:7000] == data[:7000].tobytes()
    assert growing.size == 11_000 == len(file.content)


def test_a_growing_file_keeps_to_the_bound_beyond_what_was_expected(cache):
    idle = a_set(cache, 0)
    set_limit(cache, 0.0012)
    with (
        draft_folder(cache / "tmp-1"),
        (cache / "tmp-1" / "pixels.bin").open("wb", buffering=0) as file,
    ):
        growing = GrowingFile(file, cache, 200_000, NEED)
        growing.append(np.zeros(200_000, np.uint8).data)
        assert idle.exists()
        growing.append(np.zeros((10, 10, 3), np.uint8).data)
        assert not idle.exists()
        with pytest.raises(UserError, match=r"`cache_gb` 0\.0012"):
            growing.append(np.zeros(MB, np.uint8).data)


def test_views_come_and_go_while_others_read_them(cache):
    """Readers that make what they miss, and one who drops all that it can, at the same time."""
    set_limit(cache, 4000 / 1e9)
    (cache / "views").mkdir()

    def read(number):
        path = cache / "views" / f"{number % 3}.npy"
        while (mapped := held_file(path)) is None:
            fresh = path.with_suffix(f".{number}")
            with fresh.open("wb") as file:
                np.save(file, np.full(1000, number % 3, np.uint8))
            fresh.replace(path)
        return int(mapped.min()), int(mapped.max()), len(mapped)

    def drop(_):
        try:
            return make_room(cache, 3900, NEED)
        except UserError:
            return False

    with ThreadPoolExecutor(4) as pool:
        dropped = pool.map(drop, range(100))
        contents = list(pool.map(read, range(300)))
    assert contents == [(n % 3, n % 3, 1000) for n in range(300)]
    assert set(dropped) <= {True, False}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_or_quota_that_is_full_is_no_room_in_the_cache(cache, number):
    with (
        pytest.raises(NoRoomError, match=rf"^The cache folder {cache} is full: choose another"),
        write_errors(cache, "less"),
    ):
        raise OSError(number, os.strerror(number))


def test_a_disk_that_fails_is_no_lack_of_room(cache):
    with (
        pytest.raises(UserError, match=r"cannot be written to") as caught,
        write_errors(cache, "less"),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, NoRoomError)
