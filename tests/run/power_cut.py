"""A disk that forgets, when its power is cut, what was not synced: content of files, and names in folders."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path


class ForgetfulDisk:
    """What of the files below `root` would outlast a power cut; the records lie in `beside`, on the same file system.

    A process calls `watch`, works, and dies at a given event. Then another process calls `cut`. What the disk keeps
    is only what POSIX promises: the content of a file as of its last fsync, and the names in a folder as of the last
    fsync of the folder. What came after is there or not, by chance; changes of names in their order.
    """

    def __init__(self, root: Path, beside: Path):
        self.root, self.beside = root, beside
        self._events, self._last = 0, 0
        self._listings: dict[str, list[dict[str, int]]] = {}  # by folder: as last synced, then after each change

    def watch(self, last: int) -> None:
        """From now on, count what this process asks of the disk; it kills itself at event number `last`; 0: never.

        All that is there now is on the disk.
        """
        self._last = last
        shutil.rmtree(self.beside, ignore_errors=True)
        self.beside.mkdir()
        for folder, _, files in os.walk(self.root):
            self._listings[folder] = [self._listing(folder)]
            for name in files:
                self._keep_content(os.path.join(folder, name))
        self._save()
        os.fsync = self._watched(os.fsync, lambda number: self._synced(os.readlink(f"/proc/self/fd/{number}")))
        os.replace = self._watched(os.replace, lambda old, new: self._changed(new))
        os.unlink = self._watched(os.unlink, lambda path, **_: self._changed(path))

    @property
    def events(self) -> int:
        """How many events there were, after the process has ended."""
        return int((self.beside / "events").read_text())

    def cut(self, rng: random.Random) -> None:
        """Turn what is below the root into what the disk may have after a power cut."""
        after = self.beside / "after"
        lists = json.loads((self.beside / "listings").read_text())
        self._rebuild(str(self.root), after, lists, rng, rng.choice([0.0, 0.5, 1.0]))
        shutil.rmtree(self.root)
        os.rename(after, self.root)

    def _rebuild(self, folder: str, after: Path, lists: dict, rng: random.Random, luck: float) -> None:
        after.mkdir()
        states = lists.get(folder, [{}])
        if rng.random() < luck:
            states = [*states, self._listing(folder)]
        for name, inode in rng.choice(states).items():
            source = os.path.join(folder, name)
            if inode == 0:
                self._rebuild(source, after / name, lists, rng, luck)
                continue
            durable, kept = self.beside / f"content-{inode}", self.beside / f"inode-{inode}"
            data = durable.read_bytes() if durable.exists() else b""
            current = kept.read_bytes() if kept.exists() else b""
            if current.startswith(data) and rng.random() < luck:
                data = current[: rng.randint(len(data), len(current))]
            (after / name).write_bytes(data)

    def _watched(self, plain: Callable, record: Callable) -> Callable:
        def call(*args, **more):
            self._event()
            result = plain(*args, **more)
            record(*args, **more)
            self._event()
            return result

        return call

    def _event(self) -> None:
        self._events += 1
        (self.beside / "events").write_text(str(self._events))
        if self._events == self._last:
            os.kill(os.getpid(), signal.SIGKILL)

    def _synced(self, path: str) -> None:
        if os.path.isdir(path):
            self._listings[path] = [self._listing(path)]
            self._save()
        elif path.startswith(f"{self.root}/"):
            self._keep_content(path)

    def _changed(self, path: str | Path) -> None:
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(folder):
            self._listings.setdefault(folder, [{}]).append(self._listing(folder))
            self._save()

    def _listing(self, folder: str) -> dict[str, int]:
        """Return the inodes of files by name, 0 for folders; each is linked to, so that no number is used again."""
        listing = {}
        for entry in os.scandir(folder):
            listing[entry.name] = 0 if entry.is_dir() else entry.inode()
            if not entry.is_dir() and str(folder).startswith(str(self.root)):
                self._link(entry.path, entry.inode())
        return listing

    def _link(self, path: str, inode: int) -> None:
        kept = self.beside / f"inode-{inode}"
        if not kept.exists():
            os.link(path, kept)

    def _keep_content(self, path: str) -> None:
        inode = os.stat(path).st_ino
        self._link(path, inode)
        shutil.copyfile(path, self.beside / "new")
        os.rename(self.beside / "new", self.beside / f"content-{inode}")

    def _save(self) -> None:
        (self.beside / "new").write_text(json.dumps(self._listings))
        os.rename(self.beside / "new", self.beside / "listings")
