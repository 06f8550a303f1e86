"""Where a sweep is kept: in its folder OUT, or in an object store, its results in OUT as well.

In an object store a sweep lies as it does in a folder: the store below ``store/``, the results
beside it. OUT may then be lost with its machine: the next driver brings the results anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sweeps.output import lease, s3_bucket
from sweeps.output.sweep_record import SPEC, SweepRecord
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, files_below, replacing, write_text
from trainables.storage.object_store import RemotePath, remote_path
from trainables.storage.retry import first_line

BOARD, CHOICE = "leaderboard.parquet", "choice.json"
FILES, FOLDERS = ("rejected.tsv", BOARD, "report.html"), ("figures", "model")  # results
LEASE = "driver.json"
CARD = "model/README.md"


@dataclass(frozen=True, kw_only=True)
class SweepLocation:
    """Where a sweep's store and results are."""

    out: Path
    remote: RemotePath | None = None

    @property
    def store(self) -> Store:
        return Store((self.remote or self.out) / "store")

    @property
    def boards(self) -> tuple[Place, ...]:
        """Where the leaderboard is written."""
        places = (self.out, self.remote)
        return tuple(place / BOARD for place in places if place is not None)

    @contextmanager
    def opened(self, say: Callable[[str], None]) -> Iterator[None]:
        """Check that it can be used, by us alone, and bring the results that are there.

        Raises:
            UserError: it cannot.
        """
        if self.remote is None:
            yield
            return
        s3_bucket.check_bucket(self.remote, "--storage")
        self._probe(self.remote)
        s3_bucket.abort_stale_uploads(self.remote)
        with lease.held(self.remote / LEASE, say):
            self._take_up(self.remote)
            yield

    def _probe(self, remote: RemotePath) -> None:
        try:
            remote.check_writable()
        except OSError as error:
            raise UserError(
                f"--storage {remote} cannot be written to ({first_line(error)}): check the "
                "address, its rights and your credentials."
            ) from None

    def _take_up(self, remote: RemotePath) -> None:
        """Results of an earlier driver, where OUT has none. What says that all is there comes
        last."""
        if (self.out / SPEC).exists():
            return
        there = {child.name for child in remote.children()}  # the store itself is not gone through
        names = [name for name in (*FILES, SPEC, CHOICE) if name in there]
        inside = [f"{folder}/{name}" for folder in FOLDERS for name in (remote / folder).walk()]
        for name in (*inside, *names):
            with replacing(self.out / name) as temporary:
                (remote / name).download(temporary)

    def publish(self, *names: str) -> None:
        """Send files of OUT, where there is a place to send them to."""
        if self.remote is not None:
            self.remote.upload_files(self.out, names)

    def publish_results(self) -> None:
        """All that OUT has to show, the word that the sweep is finished last."""
        if self.remote is None:
            return
        self.publish(*(name for name in FILES if (self.out / name).exists()))
        for folder in FOLDERS:
            (self.remote / folder).upload_files(self.out / folder, files_below(self.out / folder))
        self._link_card(self.remote)
        self.publish(SPEC)
        self.publish(CHOICE)

    def _link_card(self, remote: RemotePath) -> None:
        """The card in the store says where to download what it speaks of."""
        model = [f"model/{n}" for n in files_below(self.out / "model") if not n.endswith(".md")]
        links = s3_bucket.presigned_links([remote / name for name in (*model, "report.html")])
        signed = [f"* [{path.name}]({url})" for path, url in links.items()]
        if not signed:
            return
        until = datetime.now(UTC) + timedelta(days=s3_bucket.LINK_DAYS)
        lines = [
            "",
            "## Download",
            "",
            f"From {remote}. The links are for whoever reads this, until {until:%Y-%m-%d %H:%M} "
            "UTC or as long as the credentials that signed them.",
            "",
            *signed,
        ]
        text = (self.out / CARD).read_text(encoding="utf-8")
        write_text(remote / CARD, text.rstrip("\n") + "\n" + "\n".join(lines) + "\n")


def location_of(out: Path, uri: str | None) -> SweepLocation:
    """Raises:
    UserError: the URI is none of a store that is known.
    """
    return SweepLocation(out=out, remote=remote_path(uri) if uri else None)


def recorded_store(out: Path, record: SweepRecord) -> Store:
    """Open the store of a recorded sweep: the one in its folder, else where the record says."""
    return location_of(out, None if (out / "store").exists() else record.storage).store


def check_same(record: SweepRecord, storage: SweepLocation) -> None:
    """Raises:
    UserError: OUT is of a sweep whose store is elsewhere.
    """
    kept = record.storage
    asked = storage.remote.uri if storage.remote else None
    if kept != asked:
        where = f"--storage {kept}" if kept else "no --storage"
        raise UserError(
            f"--out {storage.out} holds a sweep that was begun with {where}: give the same to "
            "continue it, or another --out."
        )
