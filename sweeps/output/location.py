"""Keep a sweep in its folder OUT, or in an object store with its results in OUT as well.

An object store is laid out as OUT is: the artifact store below ``store/``, the results beside it.
OUT may then be lost with its machine: the next driver downloads the results again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sweeps.output import s3_bucket
from sweeps.output.driver import Driver, driving
from sweeps.output.sweep_record import SPEC, SweepRecord
from trainables.errors import UserError
from trainables.storage import conditional
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, files_below, write_text
from trainables.storage.object_store import RemotePath, remote_path
from trainables.storage.replacing import replacing
from trainables.storage.retry import first_line

BOARD, CHOICE, REPORT = "leaderboard.parquet", "choice.json", "report.html"
# The chosen net class by class, and which classes it takes for which.
CLASSES, CONFUSIONS = "per_class.parquet", "confusions.parquet"
EVIDENCE = (BOARD, CLASSES, CONFUSIONS, REPORT)
# The results, beside spec.json and choice.json.
REJECTED, NEAR_DUPLICATES = "rejected.tsv", "near_duplicates.tsv"
FILES, FOLDERS = (REJECTED, NEAR_DUPLICATES, *EVIDENCE), ("figures", "model")
LEASE = "driver.json"
STATUS = "status.json"  # how a sweep stands, for who asks while it runs
CARD = "model/README.md"


@dataclass(frozen=True, kw_only=True)
class SweepLocation:
    """The folder of a sweep, and its prefix in an object store if it has one."""

    out: Path
    remote: RemotePath | None = None
    """The prefix that holds the store and a copy of the results; None: all is in ``out``."""
    link_days: float = 0
    """Days for which the model card there links to its files, for whoever reads it; 0: no links."""
    driver: Driver = field(default_factory=Driver, compare=False, repr=False)
    """This process's right to write to the sweep."""

    @property
    def uri(self) -> str | None:
        """The URI of its object store; None: it has none."""
        return self.remote.uri if self.remote else None

    @property
    def store(self) -> Store:
        """The artifact store of the sweep."""
        return Store((self.remote or self.out) / "store")

    @property
    def boards(self) -> tuple[Place, ...]:
        """The files that the leaderboard is written to."""
        folders = (self.out, self.remote)
        return tuple(folder / BOARD for folder in folders if folder is not None)

    @contextmanager
    def opened(self, say: Callable[[str], None]) -> Iterator[SweepLocation]:
        """Hold the object store while the block runs, and download the results that OUT lacks.

        It gives the location with its driver.

        Args:
            say: shows a line to the user.

        Raises:
            UserError: the store cannot be used, or another driver uses it.
            ReplacedError: another driver has taken it over.
        """
        if self.remote is None:
            yield replace(self, driver=Driver())
            return
        s3_bucket.check_bucket(self.remote, "--storage")
        self._check_writable(self.remote)
        s3_bucket.abort_stale_uploads(self.remote)
        if lacking := conditional.shortcoming(self.remote):
            say(f"warning: {lacking}")
        with driving(self.remote / LEASE, say) as driver:
            self._download_results(self.remote)
            yield replace(self, driver=driver)

    def _check_writable(self, remote: RemotePath) -> None:
        try:
            remote.check_writable()
        except OSError as error:
            raise UserError(
                f"--storage {remote} cannot be written to ({first_line(error)}): check the "
                "address, its rights and your credentials."
            ) from None

    def _download_results(self, remote: RemotePath) -> None:
        """Download the results of an earlier driver, if OUT has none.

        spec.json and choice.json, which say that the others are there, come last.
        """
        if (self.out / SPEC).exists():
            return
        # The artifact store, which may be large, is not listed.
        listed = {child.name for child in remote.children()}
        files = [name for name in (*FILES, SPEC, CHOICE) if name in listed]
        in_folders = [f"{folder}/{name}" for folder in FOLDERS for name in (remote / folder).walk()]
        for name in (*in_folders, *files):
            with replacing(self.out / name) as temporary:
                (remote / name).download(temporary)

    def publish(self, *names: str) -> None:
        """Upload files of OUT to the object store, if there is one.

        Raises:
            ReplacedError: another driver has taken over.
        """
        if self.remote is not None:
            self.driver.check()
            self.remote.upload_files(self.out, names)

    def publish_results(self) -> None:
        """Upload all results; choice.json, which says that the sweep is finished, comes last.

        Raises:
            ReplacedError: another driver has taken over; it will upload its own.
        """
        if self.remote is None:
            return
        self.publish(*(name for name in FILES if (self.out / name).exists()))
        for folder in FOLDERS:
            self.driver.check()
            (self.remote / folder).upload_files(self.out / folder, files_below(self.out / folder))
        self.driver.check()
        if self.link_days:
            self._link_card(self.remote)
        self.publish(SPEC)
        self.publish(CHOICE)

    def _link_card(self, remote: RemotePath) -> None:
        """Upload the model card, with links for downloading the files that it describes."""
        model = [f"model/{n}" for n in files_below(self.out / "model") if not n.endswith(".md")]
        paths = [remote / name for name in (*model, REPORT)]
        links = s3_bucket.presigned_links(paths, self.link_days)
        signed = [f"* [{path.name}]({url})" for path, url in links.items()]
        if not signed:
            return
        ends = s3_bucket.credentials_end()
        asked = datetime.now(UTC) + timedelta(days=self.link_days)
        until = min(asked, ends) if ends else asked
        lines = [
            "",
            "## Download",
            "",
            f"From {remote}. The links are for whoever reads this, until {until:%Y-%m-%d %H:%M} "
            f"UTC{'' if ends else ', or as long as the credentials that signed them'}.",
            "",
            *signed,
        ]
        text = (self.out / CARD).read_text(encoding="utf-8")
        write_text(remote / CARD, text.rstrip("\n") + "\n" + "\n".join(lines) + "\n")


def location_of(out: Path, uri: str | None, link_days: float = 0) -> SweepLocation:
    """Make the location of a sweep from its folder and the URI of its object store, if it has one.

    Raises:
        UserError: it is the URI of no store that is known.
    """
    remote = remote_path(uri) if uri else None
    return SweepLocation(out=out, remote=remote, link_days=link_days)


def recorded_store(out: Path, record: SweepRecord) -> Store:
    """Open the store of a recorded sweep: the one in its folder, else the one in its record."""
    return location_of(out, None if (out / "store").exists() else record.storage).store


def check_same(record: SweepRecord, location: SweepLocation) -> None:
    """Check that a recorded sweep is continued where it is kept.

    Raises:
        UserError: the store of the sweep in OUT is elsewhere.
    """
    uri = location.uri
    # A record of before may write the same place otherwise.
    if record.storage != uri and not (
        record.storage and uri and remote_path(record.storage) == location.remote
    ):
        begun = f"--storage {record.storage}" if record.storage else "no --storage"
        raise UserError(
            f"--out {location.out} holds a sweep that was begun with {begun}: give the same to "
            "continue it, or another --out."
        )
