"""Listings: their digests, and where their files are."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from trainables.errors import UserError
from trainables.sources.folders import scan
from trainables.sources.listing import FileEntry, Listing, StoredFile, single_file
from trainables.storage.object_store import RemotePath


def touch(root, *paths):
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(path.encode())


def test_a_digest_sees_names_sizes_times_and_settings(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    first = scan(tmp_path).digest(0)
    assert scan(tmp_path).digest(0) == first
    assert scan(tmp_path).digest(1) != first
    (tmp_path / "a/1.jpg").write_bytes(b"longer than it was")
    second = scan(tmp_path).digest(0)
    assert second != first
    (tmp_path / "c").mkdir()
    assert scan(tmp_path).digest(0) != second


def test_a_digest_sees_other_content_of_the_same_size_and_time(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    file = tmp_path / "a/1.jpg"
    status, first = file.stat(), scan(tmp_path).digest(0)
    while file.stat().st_ctime_ns == status.st_ctime_ns:  # clocks of file systems are coarse
        file.write_bytes(b"x" * status.st_size)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = file.stat()
    assert (again.st_size, again.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert scan(tmp_path).digest(0) != first


def test_a_digest_sees_the_root_and_times():
    entry = FileEntry("a/1.jpg", 3, 7)
    listing = Listing(root=Path("/x"), files=(entry,), folders=("a",))
    others = [
        replace(listing, root=Path("/y")),
        replace(listing, root=RemotePath(root="s3://b", key="x")),
        replace(listing, files=(entry._replace(mtime_ns=8),)),
        replace(listing, files=(entry._replace(ctime_ns=9),)),
    ]
    assert len({one.digest() for one in (listing, *others)}) == 5


@pytest.mark.parametrize("name", ["t.parquet", "T.ARROW"])
def test_one_table_is_listed_alone(name):
    listing = single_file(Path("/d") / name, 5, 7)
    assert (listing.root, listing.folders) == (Path("/d"), ())
    assert listing.files == (FileEntry(name, 5, 7),)


def test_one_file_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"a\.zip is a single file: give a folder"):
        single_file(Path("/d/a.zip"), 5, 7)


def test_files_are_located_below_the_root():
    entry, remote = FileEntry("a/1.jpg", 3, 7), RemotePath(root="s3://b", key="x")
    assert Listing(root=Path("/x"), files=(entry,), folders=()).locate(entry) == Path("/x/a/1.jpg")
    stored = Listing(root=remote, files=(entry,), folders=()).locate(entry)
    assert stored == StoredFile(remote / "a/1.jpg", 3)
