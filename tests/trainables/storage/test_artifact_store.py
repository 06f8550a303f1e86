"""The layout of a sweep's store."""

from trainables.storage.artifact_store import Store
from trainables.storage.object_store import RemotePath


def test_every_kind_of_result_has_its_own_place(tmp_path):
    store = Store(tmp_path)
    places = [
        store.journal,
        store.weights("k"),
        store.trunk("k"),
        store.cell("k"),
        store.probe("k"),
        store.activations("k"),
        store.latency("k"),
        store.reading("k"),
    ]
    assert len(set(places)) == len(places)
    assert all(tmp_path in place.parents for place in places)


def test_a_store_in_an_object_store_has_the_same_layout(tmp_path):
    remote = RemotePath(root="s3://bucket", key="a/store")
    for local, there in (
        (Store(tmp_path).trunk("k"), Store(remote).trunk("k")),
        (Store(tmp_path).weights("w"), Store(remote).weights("w")),
        (Store(tmp_path).journal, Store(remote).journal),
    ):
        assert isinstance(there, RemotePath)
        assert there.key == f"a/store/{local.relative_to(tmp_path)}"
