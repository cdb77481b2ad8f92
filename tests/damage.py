"""Damage to files, at random: a value or a cell that is another, bytes that are, another kind of file."""

import csv
import io
import json
import os

JUNK = [
    None, True, False, 0, 1, -1, 2, 0.5, 2**53, 2**63, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "x", "7",
    "\x1b[2J\x1b]0;title\x07", "a\nleft out: nothing", "=HYPERLINK(1)", "\udcff", "\u202e", "x" * 2_000_000, [], [[]], {},
    {"a": {"b": []}}, [1] * 100_000, ["\x1b[31m"], [None], [float("nan")],
]  # fmt: skip
CELLS = ["", "nan", "inf", "-1", "1e400", "1" * 4000, "9" * 5000, "x", "\0", "1_0", "0x1", "\x1b[1m", "=1+1", "0.5", "2", "1" * 2_000_000, '"']


def places(tree, path=()):
    """The paths of all values in a JSON tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*path, key)
        yield from places(value, (*path, key))


def damage_json(path, rng):
    tree = json.loads(path.read_text())
    *above, last = rng.choice(list(places(tree)))
    parent = tree
    for key in above:
        parent = parent[key]
    choice = rng.random()
    if choice < 0.2:
        del parent[last]
    elif choice < 0.3 and isinstance(parent, dict):
        parent[rng.choice(["\x1b[7m", "new", ""])] = rng.choice(JUNK)
    else:
        parent[last] = rng.choice(JUNK)
    path.write_text(json.dumps(tree))


def damage_csv(path, rng):
    rows = list(csv.reader(io.StringIO(path.read_text())))
    choice = rng.random()
    if choice < 0.2:
        rng.choice(rows).pop()
    elif choice < 0.3:
        rows.remove(rng.choice(rows))
    elif choice < 0.4:
        rows.append(rng.choice(rows))
    else:
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(CELLS)
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")


def damage_bytes(path, rng):
    data = bytearray(path.read_bytes())
    choice = rng.randrange(5)
    if choice == 0:
        del data[rng.randrange(len(data)) :]
    elif choice == 1:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif choice == 2:
        data[:0] = b"\xff\xfe"
    elif choice == 3:
        data += rng.randbytes(100)
    else:
        data = b"[" * 100_000 + b"]" * 100_000
    path.write_bytes(data)


def replace_file(path, rng):
    path.unlink()
    choice = rng.randrange(7)
    if choice == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.mkdir()
    elif choice == 2:
        path.symlink_to(rng.choice(["nowhere", path.name, "/dev/zero", "/dev/full", "..", "/"]))
    elif choice == 3:
        with open(path, "wb") as file:
            file.truncate(3 << 30)  # zeros that take no place
    elif choice == 4:
        path.write_text("")
