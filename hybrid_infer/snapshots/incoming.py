"""Where a pull gathers the files of a commit until it has proved them, and how they get from there
to their place: by renames, so that a snapshot never holds a byte that was not compared.

The folder ``incoming`` is inside the repository's own in the Hub's cache, and so on the same disk::

    incoming/blobs/<id>         whole files, named as the Hub names their contents
    incoming/blobs/<id>.part    unfinished ones
    incoming/gathered/…         links to all files of the commit, to be looked at as a snapshot
    incoming/made/…             files that were converted here
    incoming/placed/…           the links that the snapshot will consist of

Only who holds the repository's lock (`guards.py`) touches it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hybrid_infer.errors import LocalEngineError, ModelIntegrityError
from hybrid_infer.snapshots.digests import rename_known
from hybrid_infer.snapshots.folders import INCOMING
from hybrid_infer.snapshots.listing import HubFile, damaged
from hybrid_infer.snapshots.transfer import OtherContentsError, part_of


class Incoming:
    """The scratch folder of one commit.

    Args:
        repo: the repository's folder in the Hub's cache.
        target: where the snapshot is to be.
    """

    def __init__(self, repo: Path, target: Path) -> None:
        self._repo, self._target = repo, target
        self.folder = repo / INCOMING
        self.blobs = self.folder / "blobs"
        self.gathered = self.folder / "gathered"
        self.made = self.folder / "made"
        self._placed = self.folder / "placed"

    @contextmanager
    def begun(self, wanted: Collection[HubFile]) -> Iterator[None]:
        """Keep what an interrupted pull has fetched of `wanted`, and nothing else that it left.

        The end of a ``with`` block leaves nothing either, unless the Hub or the caller broke it off,
        or one file arrived damaged: then what has been fetched is worth keeping.

        Raises:
            LocalEngineError: the disk refused within.
        """
        try:
            self._keep(wanted)
            yield
        except OSError as error:
            self.remove()
            raise LocalEngineError(
                f"{self._target} could not be written: {error.strerror}"
            ) from None
        except OtherContentsError:
            raise
        except (ModelIntegrityError, LocalEngineError):
            self.remove()
            raise
        self.remove()

    def _keep(self, wanted: Collection[HubFile]) -> None:
        kept = {file.blob_name for file in wanted}
        kept |= {part_of(Path(name)).name for name in kept}
        for folder in (self.gathered, self.made, self._placed):
            shutil.rmtree(folder, ignore_errors=True)
        self.blobs.mkdir(parents=True, exist_ok=True)
        for entry in self.blobs.iterdir():
            if entry.name not in kept:
                entry.unlink()

    def remove(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def blob(self, file: HubFile) -> Path:
        """Where a file's contents are, or are to be fetched to."""
        return self.blobs / file.blob_name

    def missing_bytes(self, file: HubFile) -> int:
        """How much of a file is still to be fetched."""
        part = part_of(self.blob(file))
        return max(file.size - part.stat().st_size, 0) if part.is_file() else file.size

    def find(self, name: str, file: HubFile) -> Path | None:
        """Where a file is already, whole: fetched, in the snapshot, or among the cache's blobs."""
        for place in (self.blob(file), self._target / name, self._repo / "blobs" / file.blob_name):
            if place.is_file() and not damaged(place.parent, {place.name: file}):
                return place
        return None

    def gather(self, files: Mapping[str, Path]) -> None:
        """Show files as a snapshot.

        Args:
            files: where each one is now, by its path in the repository.

        Raises:
            OSError: the disk refused.
        """
        for name, place in files.items():
            _link(self.gathered / name, str(place))

    def place(self, files: Mapping[str, HubFile], made: Collection[str]) -> None:
        """Move what was gathered to where it belongs.

        A new snapshot appears whole. In one that is there already each file is replaced by itself:
        it lacked it, or had a damaged one.

        Args:
            files: those of the Hub, by their paths.
            made: the paths of those that were made here.

        Raises:
            OSError: the disk refused.
        """
        (self._repo / "blobs").mkdir(exist_ok=True)
        placed = set(made)
        for name, file in files.items():
            origin, blob = (self.gathered / name).readlink(), self._repo / "blobs" / file.blob_name
            if origin == self._target / name:
                continue
            if origin.parent == self.blobs and origin.exists():  # else its like has taken it along
                rename_known(origin, blob)
            _link(self._placed / name, os.path.relpath(blob, (self._target / name).parent))
            placed.add(name)
        for name in made:
            (self._placed / name).parent.mkdir(parents=True, exist_ok=True)
            rename_known(self.made / name, self._placed / name)
        if self._target.is_dir():
            for name in sorted(placed):
                (self._target / name).parent.mkdir(parents=True, exist_ok=True)
                rename_known(self._placed / name, self._target / name)
        else:
            self._target.parent.mkdir(exist_ok=True)
            self._placed.rename(self._target)


def _link(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(text)
