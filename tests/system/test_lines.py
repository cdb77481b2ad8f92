"""Lines that are written while a program runs: whole or cut, and never the end of the program."""

import errno
import json

import pytest

from utils.system.lines import JsonLines


class FullDisk:
    """A file on a disk that takes some bytes, then none until there is room again."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def fileno(self):
        raise OSError(errno.EIO, "Input/output error")

    def close(self):
        raise OSError(errno.EIO, "Input/output error")


def opened(path, belongs=lambda values: True, said=None):
    lines = JsonLines(path, (said if said is not None else []).append)
    lines.open_after(belongs)
    return lines


def test_lines_are_plain_json(tmp_path):
    lines = opened(tmp_path / "a.jsonl")
    lines.add({"epoch": 1, "loss": 0.5, "val_acc": None})
    lines.add({"epoch": 2, "loss": float("nan"), "val_acc": float("inf")})
    text = (tmp_path / "a.jsonl").read_text()
    assert text == '{"epoch": 1, "loss": 0.5, "val_acc": null}\n{"epoch": 2, "loss": null, "val_acc": null}\n'


@pytest.mark.parametrize("tail, kept", [
    ('{"n": 3}\n{"n"', 3), ('{"n": 3}', 2), ("[]\n", 2), ('{"m": 3}\n{"n": 3}\n', 2), ("\x00\x00\n", 2), ("[" * 9999 + "\n", 2),
])  # fmt: skip
def test_what_is_cut_or_foreign_goes_when_it_is_opened_again(tmp_path, tail, kept):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n' + tail)
    opened(path, lambda values: values["n"] < 9).add({"n": 9})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [*range(1, kept + 1), 9]


def test_a_full_disk_ends_nothing_and_loses_nothing_once_there_is_room(tmp_path):
    said = []
    lines = opened(tmp_path / "a.jsonl", said=said)
    lines._file = FullDisk(lines._file, room=5)
    lines.add({"n": 1})
    lines.add({"n": 2})
    assert (tmp_path / "a.jsonl").read_text() == '{"n":'
    assert said == [f"{tmp_path / 'a.jsonl'} cannot be written (No space left on device); the run goes on"]
    lines._file.room = 1000
    lines.add({"n": 3})
    lines.sync()
    lines.close()
    assert (tmp_path / "a.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n{"n": 3}\n'


def test_what_cannot_be_opened_is_named_and_written_nowhere(tmp_path):
    said = []
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "victim")
    lines = opened(tmp_path / "a.jsonl", said=said)
    lines.add({"n": 1})
    lines.close()
    assert (tmp_path / "victim").read_text() == "mine" and len(said) == 1 and "a link" in said[0]
