"""Entries of the cache that are held while they are in use."""

import fcntl
import os

import numpy as np
import pytest

from trainables.data.locks import USED, held_file, hold, let_go, reserved


@pytest.fixture
def root(tmp_path):
    """A decoded set's folder."""
    path = tmp_path / "set"
    path.mkdir()
    return path


@pytest.fixture
def view(tmp_path):
    path = tmp_path / "view.npy"
    np.save(path, np.arange(6, dtype=np.uint8))
    os.utime(path, (1e9, 1e9))
    return path


def is_free(path):
    """Whether another user could drop it now: locks belong to open files, not to processes."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_nothing_is_held_where_there_is_nothing(tmp_path):
    assert not hold(tmp_path / "none")
    assert held_file(tmp_path / "none.npy") is None
    with pytest.raises(FileNotFoundError), reserved(tmp_path / "none.npy"):
        pass


def test_a_set_is_held_until_it_is_let_go_as_often(root):
    assert hold(root) and hold(root)
    let_go(root)
    assert not is_free(root / USED)
    let_go(root)
    assert is_free(root / USED)
    let_go(root)  # once too often does nothing


def test_holding_marks_the_last_use(root, view):
    (root / USED).touch()
    os.utime(root / USED, (1e9, 1e9))
    assert hold(root)
    let_go(root)
    assert held_file(view) is not None
    assert (root / USED).stat().st_mtime > 1e9 and view.stat().st_mtime > 1e9


def test_a_set_that_was_made_again_is_locked_anew(root):
    assert hold(root)
    root.rename(root.with_name("gone"))
    root.mkdir()
    assert hold(root)
    assert not is_free(root / USED)
    let_go(root)
    assert is_free(root / USED)


def test_a_mapped_file_is_held_as_long_as_any_part_of_it_is_in_use(view):
    mapped = held_file(view)
    assert mapped is not None
    part = mapped[2:4]
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    del mapped
    assert not is_free(view) and part.tolist() == [2, 3]
    del part
    assert is_free(view)


def test_a_file_that_is_no_array_is_not_held(tmp_path):
    path = tmp_path / "torn.npy"
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="pickle"):
        held_file(path)
    assert is_free(path)


def test_a_reserved_file_has_its_blocks_and_is_held(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1_000_000)
    before = path.stat().st_blocks
    with reserved(path):
        assert not is_free(path)
        assert path.stat().st_size == 1_000_000
        assert 512 * path.stat().st_blocks >= 1_000_000 > 512 * before
    assert is_free(path)
