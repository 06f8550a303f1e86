"""Images in an object store come to the same as on the disk, whatever happens on the way."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.storing import BUCKET
from tests.waiting import HANG_S
from trainables.data.decode import INDEX_ROW_BYTES, known_set, prepare
from trainables.data.extra_test_sets import open_extra_test_set
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.sources import downloads, folders
from trainables.sources.downloads import (
    RangeReader,
    local_files,
    max_bytes_on_disk,
    scan_store,
    with_contents,
)
from trainables.sources.listing import StoredFile
from trainables.sources.source import Item
from trainables.storage import object_store
from trainables.storage.object_store import RemotePath, place_of

SPLITS = ("train", "val", "test")
CLASSES = ("ant", "bee", "cat")


def png(number, height=6, width=8):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(per_class=8, name="{}.png"):
    """Path below a data folder -> bytes."""
    return {
        f"{kind}/{name.format(number)}": png(1000 * label + number)
        for label, kind in enumerate(CLASSES)
        for number in range(per_class)
    }


def on_disk(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def table(files, suffix):
    """The pictures in one file, as the Hugging Face hub lays them out."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": content, "path": path} for path, content in files.items()]
    labels = [path.split("/")[0] for path in files]
    found, sink = pa.table({"image": pa.array(rows, kind), "label": labels}), io.BytesIO()
    if suffix == "parquet":
        pq.write_table(found, sink, row_group_size=3)
    else:
        make = pa.ipc.new_stream if suffix == "stream.arrow" else pa.ipc.new_file
        with make(sink, found.schema) as writer:
            writer.write_table(found, max_chunksize=3)
    return sink.getvalue()


@pytest.fixture
def bucket(s3):
    client = boto3.client("s3")

    def put(prefix, files):
        for path, content in files.items():
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path}", Body=content)
        return place_of(s3.uri(prefix))

    return put


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def prefix(request):
    return f"downloads/{request.node.name}".translate(str.maketrans("[]", "__"))


def content(found):
    return sorted(
        (image.tobytes(), name, int(label))
        for name in SPLITS
        for image, label in zip(found.split(name), found.split(name).labels, strict=True)
    )


def drafts(cache):
    return list(cache.glob("tmp-*"))


# --- the same as on the disk ------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["classes", "splits", "odd names"])
def test_a_folder_is_the_same_here_and_there(bucket, tmp_path, cache, prefix, layout):
    files = pictures(name="ü %+#?&= {}\n.png" if layout == "odd names" else "{}.png")
    if layout == "splits":
        names = [f"{SPLITS[n % 3]}/{path}" for n, path in enumerate(files)]
        files = dict(zip(names, files.values(), strict=True))
    first = next(iter(files)).rpartition("/")[0]
    files |= {"readme.md": b"hello", ".hidden/x/1.png": b"no", f"{first}/.DS_Store": b"no"}
    there = prepare(bucket(prefix, files), cache, ReadOptions())
    here = prepare(on_disk(tmp_path / "data", files), tmp_path / "cache2", ReadOptions())
    assert (there.digest, there.classes, there.notes) == (here.digest, here.classes, here.notes)
    assert content(there) == content(here)
    assert there.rejected == here.rejected == ()


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "stream.arrow"])
def test_tables_are_the_same_here_and_there(bucket, tmp_path, cache, prefix, suffix):
    files = pictures()
    parts = [dict(list(files.items())[start::7]) for start in range(7)]
    tables = {f"deep/{n}.{suffix}": table(part, suffix) for n, part in enumerate(parts)}
    there = prepare(bucket(prefix, tables), cache, ReadOptions())
    here = prepare(on_disk(tmp_path / "data", files), tmp_path / "cache2", ReadOptions())
    assert there.digest == here.digest
    assert content(there) == content(here)
    assert {path.name for path in there.root.iterdir()} == {
        path.name for path in here.root.iterdir()
    }
    alone = bucket(prefix, {f"alone.{suffix}": table(files, suffix)}) / f"alone.{suffix}"
    assert prepare(alone, cache, ReadOptions()).digest == here.digest


def test_a_further_set_is_the_same_here_and_there(bucket, tmp_path, cache, prefix):
    files = {path: data for path, data in pictures().items() if not path.startswith("ant")}
    there = bucket(prefix, files | {"t.parquet": table(files, "parquet")})
    here = on_disk(tmp_path / "data", files)
    read = partial(open_extra_test_set, classes=CLASSES, options=ReadOptions(), whites={})
    expected = read("v2", here, cache).digest
    assert read("v2", there / "t.parquet", tmp_path / "cache2").digest == expected
    as_tables, as_folders = ReadOptions(layout="tables"), ReadOptions(layout="folders")
    assert read("v2", there, tmp_path / "cache3", options=as_tables).digest == expected
    assert read("v2", there, tmp_path / "cache4", options=as_folders).digest == expected


def test_leftovers_are_the_same_here_and_there(bucket, tmp_path, cache, prefix):
    files = pictures()
    odd = ("ant/@eaDir/0.jpg/T.jpg", "bee/@eaDir/1.jpg", "Thumbs.db", "ant/._0.png", ".5/1.jpg")
    files |= dict.fromkeys((*odd, ".git/config", "cat/.DS_Store"), b"no")
    there = scan_store(bucket(prefix, files), patient=False)
    here = folders.scan(on_disk(tmp_path, files))
    assert there.left_out == here.left_out
    assert there.left_out == (".5/", "Thumbs.db", "ant/._0.png", "ant/@eaDir/", "bee/@eaDir/")
    assert [entry.path for entry in there.files] == [entry.path for entry in here.files]


@pytest.mark.parametrize("seed", range(5))
def test_a_listing_is_that_of_the_disk(bucket, tmp_path, prefix, seed):
    rng = np.random.default_rng(seed)
    names = ["a", "b c", ".d", "é", "f.png", "g+%", "h#?"]
    files = {}
    for _ in range(25):
        inner = rng.choice(names, rng.integers(0, 4)).tolist()
        path = "/".join([*inner, f"{rng.integers(5)}.jpg"])
        files[path] = b"x" * int(rng.integers(1, 9))
    there = scan_store(bucket(prefix, files), patient=False)
    here = folders.scan(on_disk(tmp_path, files))
    # A folder that holds hidden names only is none in a store, where folders are not things.
    full = {str(parent) for entry in here.files for parent in Path(entry.path).parents} - {"."}
    assert [(e.path, e.size) for e in there.files] == [(e.path, e.size) for e in here.files]
    assert set(there.folders) == {f for f in here.folders if f in full or f in there.folders}
    assert full <= set(there.folders) <= set(here.folders)
    assert all(entry.mtime_ns > 1e18 for entry in there.files)


def test_what_a_store_may_hold_and_a_disk_may_not(bucket, cache, prefix):
    files = pictures()
    client = boto3.client("s3")
    bucket(prefix, files | {"ant": b"an object called as its folder", "bee/0.png/1.png": png(5)})
    for key in (prefix, f"{prefix}/", f"{prefix}/cat/"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    found = prepare(place_of(f"s3://{BUCKET}/{prefix}/"), cache, ReadOptions())
    assert sum(len(found.split(name)) for name in SPLITS) == len(files) + 1
    assert "1 file(s) outside of the class folders are left out, as ant." in found.notes
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/dog/", Body=b"")
    with pytest.raises(UserError, match="dog is empty: add images"):
        prepare(place_of(f"s3://{BUCKET}/{prefix}"), cache, ReadOptions())


def test_names_that_cannot_be_opened_are_told(cache):
    """SeaweedFS puts "a//b" to "a/b"; Amazon keeps it, and pyarrow lists it."""
    data = RemotePath(root="s3://b", key="x")
    kinds = pa.fs.FileType
    found = [
        pa.fs.FileInfo(f"b/x/{name}", kinds.File, size=3, mtime_ns=7)
        for name in ("ant/1.png", "ant//2.png", "bee/1.png", "/3.png")
    ]
    listing = downloads._listing(data, "b/x", found)
    assert listing.folders == ("ant", "bee")
    told = {item.path: item.reason for item in folders.folder_source(listing).items()}
    assert told == {"ant/1.png": "", "ant//2.png": "// in its name", "bee/1.png": ""}


# --- once a node ------------------------------------------------------------------------------


def refuse(*_, **__):
    raise AssertionError("an object was read")


def test_what_is_decoded_is_not_downloaded_again(bucket, cache, prefix, monkeypatch):
    data = bucket(prefix, pictures())
    first = prepare(data, cache, ReadOptions())
    monkeypatch.setattr(RemotePath, "read_bytes", refuse)
    assert prepare(data, cache, ReadOptions()) == first
    monkeypatch.setattr(downloads, "scan_store", refuse)
    monkeypatch.setattr(object_store, "_filesystem", refuse)
    known = known_set(cache, first.digest, ReadOptions())
    assert known is not None and content(known) == content(first)
    assert known_set(cache, "0" * 64, ReadOptions()) is None


def test_an_object_that_is_replaced_is_seen(bucket, cache, prefix):
    data = bucket(prefix, pictures())
    first = prepare(data, cache, ReadOptions())
    bucket(prefix, {"ant/0.png": png(77, width=9)})
    second = prepare(data, cache, ReadOptions())
    assert second.digest != first.digest
    assert png(77, width=9) and (6, 9) in {
        tuple(size) for name in SPLITS for size in second.split(name).sizes.tolist()
    }


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["longer", "shorter", "gone"])
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_what_changes_while_it_is_read_is_refused(bucket, cache, prefix, monkeypatch, change, kind):
    files = pictures()
    if kind == "table":
        files = {"one.parquet": table(files, "parquet")}
    data = bucket(prefix, files)
    listed = scan_store(data, patient=False)
    monkeypatch.setattr("trainables.data.decode.scan_store", lambda *_, **__: listed)
    last = list(files)[-1]
    if change == "gone":
        boto3.client("s3").delete_object(Bucket=BUCKET, Key=f"{prefix}/{last}")
    else:
        changed = files[last] + b"0" if change == "longer" else files[last][:-1]
        # Its images and labels are still to be found: only the size tells.
        bucket(prefix, {last: changed})
    with pytest.raises(UserError) as caught:
        prepare(data, cache, ReadOptions())
    told = str(caught.value)
    if kind == "folder" or change == "gone":
        assert told == (
            f"{data / last} was changed while the images were read: give the same command again"
            " once all of them are in place."
        )
    else:
        assert str(data / last) in told
    assert not drafts(cache)
    assert not list(cache.glob("listings/*")) and not list(cache.glob("?" * 64))


def test_a_table_that_is_replaced_after_its_labels_were_read_is_refused(
    bucket, cache, prefix, monkeypatch
):
    data = bucket(prefix, {"one.parquet": table(pictures(), "parquet")})
    other = table(pictures(name="other {}.png"), "parquet")
    monkeypatch.setattr(RemotePath, "download", lambda _, local: local.write_bytes(other))
    with pytest.raises(UserError, match=r"one\.parquet was changed while the images were read"):
        prepare(data, cache, ReadOptions())
    assert not drafts(cache)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (f"s3://{BUCKET}/no/such/prefix", "does not exist: check the bucket, the prefix"),
        ("s3://no-such-bucket/x", "does not exist: check the bucket, the prefix"),
        (f"s3://{BUCKET}/downloads/a.zip", "a.zip is a single file: give a folder"),
    ],
)
def test_nothing_to_read(bucket, cache, uri, message):
    bucket("downloads", {"a.zip": b"zip"})
    with pytest.raises(UserError, match=message) as caught:
        prepare(place_of(uri), cache, ReadOptions())
    assert uri in str(caught.value)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SIGNATURE_DOES_NOT_MATCH"),
        ("AWS_ACCESS_KEY_ID", "nobody", "INVALID_ACCESS_KEY_ID|ACCESS_DENIED"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "NETWORK_CONNECTION"),
    ],
)
def test_a_store_that_refuses_or_is_not_there(
    bucket, cache, prefix, monkeypatch, name, value, reason
):
    data = bucket(prefix, {"ant/1.png": b"x"})
    monkeypatch.setenv(name, value)
    object_store._filesystem.cache_clear()
    try:
        with pytest.raises(UserError, match=reason) as caught:
            prepare(data, cache, ReadOptions())
    finally:
        object_store._filesystem.cache_clear()
    message = str(caught.value)
    assert message.startswith(f"{data} cannot be read (")
    assert message.endswith("): check the address, your credentials and the network.")


def test_a_read_that_is_denied_is_an_error_not_an_unreadable_image(
    bucket, cache, prefix, monkeypatch
):
    """Else credentials that expire on the way would leave the rest of the images out."""
    data, plain = bucket(prefix, pictures()), RemotePath.read_bytes

    def deny(place):
        if place.name == "7.png":
            raise OSError("AWS Error EXPIRED_TOKEN during HeadObject operation: No response body.")
        return plain(place)

    monkeypatch.setattr(RemotePath, "read_bytes", deny)
    with pytest.raises(UserError, match=r"7\.png cannot be read \(AWS Error EXPIRED_TOKEN"):
        prepare(data, cache, ReadOptions(max_corrupt=1))
    assert not drafts(cache) and not list(cache.glob("listings/*"))


def test_an_outage_is_waited_for(bucket, tmp_path, cache, prefix, monkeypatch):
    files = pictures()
    there = bucket(prefix, files | {"t.parquet": table(files, "parquet")})
    here = prepare(on_disk(tmp_path / "data", files), tmp_path / "cache2", ReadOptions())
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    plain, calls = vars(RemotePath)["filesystem"].fget, []

    def shaky(place):
        calls.append(threading.get_ident())
        if len(calls) % 3:
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: gone")
        return plain(place)

    monkeypatch.setattr(RemotePath, "filesystem", property(shaky))
    found = prepare(there / "t.parquet", cache, ReadOptions(), patient=True)
    assert found.digest == here.digest
    assert len(waits) > 10


def test_a_killed_download_leaves_nothing_that_looks_finished(bucket, cache, prefix):
    data = bucket(prefix, {"t.parquet": table(pictures(100), "parquet")})
    script = f"""
        import os, signal
        from pathlib import Path
        from trainables.data.decode import prepare
        from trainables.data.options import ReadOptions
        from trainables.storage.object_store import place_of
        def progress(done, total):
            if done > 5:
                os.kill(os.getpid(), signal.SIGKILL)
        prepare(place_of({data.uri!r}), Path({str(cache)!r}), ReadOptions(), progress)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[3], env=os.environ, timeout=HANG_S)
    assert killed.returncode == -signal.SIGKILL
    assert len(drafts(cache)) == 1 and list(drafts(cache)[0].glob("files/*"))
    assert not list(cache.glob("listings/*")) and not list(cache.glob("?" * 64))
    assert len(content(prepare(data, cache, ReadOptions()))) == 300
    assert not drafts(cache)


def test_too_little_room_is_known_before_the_download(bucket, cache, prefix, monkeypatch):
    files = {f"{n}.parquet": table(pictures(), "parquet") for n in range(3)}
    encoded = sum(map(len, files.values()))
    decoded = 3 * 24 * (6 * 8 * 3 + INDEX_ROW_BYTES)
    data = bucket(prefix, files)
    monkeypatch.setattr(RemotePath, "download", refuse)
    with pytest.raises(UserError, match=r"72 images at up to 1024 px need about 0\.1 MB"):
        prepare(data, cache, ReadOptions(cache_gb=(encoded + decoded - 1) / 1e9))
    with pytest.raises(AssertionError, match="an object was read"):
        prepare(data, cache, ReadOptions(cache_gb=(encoded + decoded + 1) / 1e9))
    assert not drafts(cache)


# --- ahead, within bounds ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_jobs_run_ahead_in_order_and_within_bounds(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 50, 60).tolist()
    most, most_bytes = int(rng.integers(1, 9)), int(rng.integers(1, 200))
    begun, done, over = set(), -1, []
    lock = threading.Lock()

    def job(number):
        with lock:
            begun.add(number)
            live = [n for n in begun if n > done]
            over.append(
                len(live) > most or (sum(sizes[n] for n in live) > most_bytes and len(live) > 1)
            )
        return number

    jobs = ((size, partial(job, n)) for n, size in enumerate(sizes))
    for number in downloads._run_ahead(jobs, 4, most, most_bytes):
        assert number == done + 1
        done = number
    assert done == 59 and not any(over)


def test_jobs_that_are_no_longer_wanted_are_not_begun():
    begun: list[int] = []
    results = downloads._run_ahead(((1, partial(begun.append, n)) for n in range(100)), 2, 5, 100)
    next(results)
    del results
    assert len(begun) <= 6


@pytest.mark.parametrize("seed", range(4))
def test_tables_lie_on_the_disk_within_their_bound(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(downloads, "MAX_TABLE_BYTES_AHEAD", 500)
    files = [
        StoredFile(RemotePath(root="s3://b", key=f"{n}.parquet"), int(rng.integers(1, 600)))
        for n in range(30)
    ]
    sizes = {file.path: file.size for file in files}

    lying: dict[Path, int] = {}
    most = 0

    def download(path, local):
        nonlocal most
        local.write_bytes(b"1" * sizes[path])
        lying[local] = sizes[path]
        most = max(most, sum(size for file, size in list(lying.items()) if file.exists()))

    monkeypatch.setattr(RemotePath, "download", download)
    for file, path in zip(files, local_files(files, tmp_path / "files"), strict=True):
        assert path.stat().st_size == file.size and path.suffix == ".parquet"
    assert 0 < most <= max_bytes_on_disk(file.size for file in files) <= max(500, *sizes.values())
    assert not (tmp_path / "files").exists()


def test_the_bound_on_the_disk_of_few_tables_is_their_sum():
    assert max_bytes_on_disk([]) == 0
    assert max_bytes_on_disk([3, 1, 2]) == 6
    assert (
        max_bytes_on_disk([downloads.MAX_TABLE_BYTES_AHEAD + 7, 5])
        == downloads.MAX_TABLE_BYTES_AHEAD + 7
    )


def test_large_files_are_not_downloaded(monkeypatch):
    monkeypatch.setattr(RemotePath, "read_bytes", refuse)
    path = RemotePath(root="s3://b", key="film.mp4")
    item = Item(path="film", label=0, split="train", content=StoredFile(path, 2**30 + 1))
    (found,) = with_contents([item])
    assert (found.content, found.reason) == (None, "larger than 1 GiB")


@pytest.mark.parametrize("seed", range(4))
def test_ranges_read_as_a_file(bucket, prefix, seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, 5000, dtype=np.uint8).tobytes()
    reader = RangeReader(StoredFile(bucket(prefix, {"x": data}) / "x", len(data)))
    file = io.BytesIO(data)
    for _ in range(40):
        whence = int(rng.integers(3))
        base = (0, file.tell(), len(data))[whence]
        offset = int(rng.integers(0, 5500)) - base
        size = int(rng.integers(-1, 800))
        assert reader.seek(offset, whence) == file.seek(offset, whence)
        assert reader.read(size) == file.read(size)
        assert reader.tell() == file.tell()
