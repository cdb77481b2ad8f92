"""The edge node: order and replays, standby, power cuts, the program, and life without torch."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np
import pytest

from utils.edge import EdgeNode
from utils.edge import program as edge
from utils.edge.run_files import deployed_in_run
from utils.edge.state_file import read_state, read_tensors, write_state, write_tensors
from utils.message import Base, Coding, Shared, UpdateFormatError, draft_update, encode_update
from utils.message.container import read_sign_key
from utils.message.numbers import code_floats
from utils.message.streams import StreamReader, StreamWriter, SymbolModel
from utils.schema import Schema

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Schema([
    ("fc1.weight", "weight", (12, 20)), ("fc2.weight", "weight", (4, 12)),
    ("fc1.bias", "rest", (12,)), ("bn.running_var", "buffer", (12,)),
])  # fmt: skip


def number(seed):
    return np.random.RandomState(seed).standard_normal(SCHEMA.size).astype(np.float32)


INITIAL = number(0)


def story(sign_key=None, run=""):
    """Five rounds: (message, line, served). Round 2 re-initialises into standby, round 4 serves again."""
    line, serving, told = INITIAL, INITIAL, []
    for round_ in range(5):
        reinitialize, serve = round_ in (0, 2), round_ not in (2, 3)
        base = INITIAL if reinitialize else line
        new = base + np.float32(0.1) * number(round_ + 1)
        kept = np.random.RandomState(round_).random_sample(SCHEMA.num_weights) < 0.9
        new[: SCHEMA.num_weights][kept] = base[: SCHEMA.num_weights][kept]
        draft = draft_update(Shared(SCHEMA, INITIAL, line, run=run), new, Coding("sparse"), Base(reinitialize))
        data = encode_update(draft, round=round_, serve=serve, sign_key=sign_key)
        line, serving = new, new if serve else serving
        told.append((data, line, serving))
    return told


def holds(node, line, serving):
    return np.array_equal(node.line, line) and np.array_equal(node.serving, serving)


def test_a_node_follows_the_server_through_standby():
    node = EdgeNode(SCHEMA, INITIAL)
    for round_, (data, line, serving) in enumerate(story()):
        node.receive(data)
        assert holds(node, line, serving) and node.round == round_
        assert (node.serving is not node.line) == (round_ in (2, 3))


def refused(node, data, reason):
    before = (node.line, node.serving, node.round, node.applied)
    copies = node.line.copy(), node.serving.copy()
    with pytest.raises(UpdateFormatError, match=reason):
        node.receive(data)
    assert all(
        a is b for a, b in zip(before, (node.line, node.serving, node.round, node.applied), strict=True)
    )
    assert holds(node, *copies)


def test_replays_gaps_and_wrong_order_are_refused():
    messages = [data for data, _, _ in story()]
    node = EdgeNode(SCHEMA, INITIAL)
    refused(node, messages[1], "another base")
    node.receive(messages[0])
    refused(node, messages[0], "already applied")
    node.receive(messages[2])  # re-initialises, so it builds on nothing but the initial weights
    refused(node, messages[1], "out of order: round 1 after round 2")
    refused(node, messages[4], "another base")
    other = EdgeNode(Schema([("fc.weight", "weight", (12, 20))]), INITIAL[:240])
    refused(other, messages[0], "another network")
    refused(node, messages[3][:-1], "wrong length")


def test_states_cannot_be_changed_by_accident():
    node = EdgeNode(SCHEMA, INITIAL)
    node.receive(story()[0][0])
    for state in (node.initial, node.line, node.serving):
        with pytest.raises(ValueError, match="read-only"):
            state[0] = 1


def test_a_node_with_a_key_takes_signed_messages_only():
    node = EdgeNode(SCHEMA, INITIAL, key=b"k")
    refused(node, story()[0][0], "not signed")
    refused(node, story(b"other")[0][0], "another key")
    node.receive(story(b"k")[0][0])


KEY = b"k" * 32


def test_a_signature_holds_for_one_run(tmp_path):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL, key=KEY, run="mine").save(path)
    node = EdgeNode.load(path, key=KEY)
    for run in ("", "other"):
        refused(node, story(KEY, run)[2][0], "for another run")  # re-initialises: fits every run with this network
    refused(EdgeNode(SCHEMA, INITIAL, key=KEY), story(KEY, "mine")[2][0], "for another run")
    node.receive(story(KEY, "mine")[0][0])
    EdgeNode.load(path, key=KEY).receive(story(KEY, "mine")[2][0])
    assert [data for data, *_ in story()] == [data for data, *_ in story(run="mine")]  # unsigned ones know no run


def test_a_node_that_was_set_up_with_a_key_needs_it(tmp_path):
    path, data = tmp_path / "node.safetensors", story(KEY)[0][0]
    EdgeNode(SCHEMA, INITIAL, key=KEY).save(path)
    assert KEY.hex().encode() not in path.read_bytes() and KEY not in path.read_bytes()
    for message in (data, story()[0][0]):
        refused(EdgeNode.load(path), message, "set up with a key, and without it")
        refused(EdgeNode.load(path, key=b"x" * 32), message, "set up with a key, and the one given is another")
    EdgeNode.load(path, key=KEY).receive(data)
    refused(EdgeNode.load(path), story()[1][0], "set up with a key")


def test_init_with_a_key(tmp_path, capsys):
    initial, node, key = (tmp_path / name for name in ("initial.safetensors", "node.safetensors", "key"))
    write_state(initial, SCHEMA, INITIAL, run="mine")
    key.write_bytes(b"a secret of enough bytes")
    key.chmod(0o600)
    message = tmp_path / "round_000.dpu"
    message.write_bytes(story(read_sign_key(key), "mine")[0][0])
    assert edge.main(["init", "--initial", str(initial), "--out", str(node), "--sign_key", str(key)]) == 0
    assert edge.main(["apply", "--node", str(node), str(message)]) == 2
    assert "set up with a key" in capsys.readouterr().err
    assert edge.main(["apply", "--node", str(node), "--sign_key", str(key), str(message)]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("content", "words"), [(b" \n", "empty"), (b"fifteen bytes..\n", "fewer than 16 bytes")])
def test_a_key_has_16_bytes(tmp_path, content, words):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match=f"key: .*{words}"):
        read_sign_key(tmp_path / "key")


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_key_file_that_does_not_end_is_refused():
    with pytest.raises(ValueError, match="/dev/zero: more than 1,048,576 bytes are no key"):
        read_sign_key("/dev/zero")


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read(run_folder, tmp_path, capsys, mode):
    key = tmp_path / "key"
    key.write_bytes(b"a secret of enough bytes")
    key.chmod(mode)
    with pytest.warns(UserWarning, match="key: others can read this key: chmod 600"):
        read_sign_key(key)
    edge.main(["init", "--initial", str(run_folder / "initial.safetensors"), "--out", str(tmp_path / "n"),
               "--sign_key", str(key)])  # fmt: skip
    assert capsys.readouterr().err == f"edge: warning: {key}: others can read this key: chmod 600 mends that\n"


@pytest.mark.parametrize("messages", [0, 1, 3, 5])
def test_a_node_survives_in_its_file(tmp_path, messages):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    for data, line, serving in story()[:messages]:
        EdgeNode.load(path).receive(data)
        node = EdgeNode.load(path)
        assert holds(node, line, serving)
        refused(node, data, "already applied")
    node = EdgeNode.load(path)
    assert node.round == messages - 1 and (node.serving is not node.line) == (messages in (3, 4))


def test_a_node_does_not_grow_with_its_messages(tmp_path):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    node, sizes, line, messages = EdgeNode.load(path), set(), INITIAL, []
    for round_ in range(20):
        draft = draft_update(Shared(SCHEMA, INITIAL, line), line + np.float32(1), Coding("dense"))
        messages.append(encode_update(draft, round=round_))
        line = node.receive(messages[-1]).result
        sizes.add(len(json.loads(read_tensors(path)[1]["node"])["applied"]))
    assert sizes == {1}
    for data in messages:
        refused(EdgeNode.load(path), data, "already applied|out of order")


SLOW_DISK = """
import os, sys, time
from utils.edge import program as edge
sync = os.fsync
os.fsync = lambda number: (print("writing", flush=True), time.sleep(1), sync(number))
sys.exit(edge.main(sys.argv[1:]))
"""


def test_of_two_applies_at_once_one_waits_and_nothing_is_lost(run_folder, tmp_path, capsys):
    path, updates = tmp_path / "node.safetensors", run_folder / "updates"
    EdgeNode(SCHEMA, INITIAL).save(path)
    (tmp_path / f".{path.name}.0123456789abcdef.tmp").write_bytes(b"of a killed one")
    slow = [sys.executable, "-c", SLOW_DISK, "apply", "--node", str(path), str(updates / "round_000.dpu")]
    with subprocess.Popen(slow, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "writing\n"
        assert edge.main(["apply", "--node", str(path), str(updates / "round_002.dpu")]) == 0
        assert "applied, round 0" in first.stdout.read()
    assert first.returncode == 0
    line = story()[2][1]  # re-initialises, so it builds on the first as well as on none
    node = EdgeNode.load(path)
    assert holds(node, line, story()[0][2]) and node.round == 2 and node.serving is not node.line
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_lock_is_not_made_beside_a_node_that_is_not_there(tmp_path, capsys):
    assert edge.main(["apply", "--node", str(tmp_path / "none"), "x"]) == 2
    assert "No such file" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_power_cut_between_write_and_rename(tmp_path, monkeypatch):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    node = EdgeNode.load(path)
    (first, line, serving), (second, *_) = story()[:2]
    node.receive(first)
    content = path.read_bytes()

    def cut(*_):
        raise KeyboardInterrupt("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            node.receive(second)
    assert holds(node, line, serving) and path.read_bytes() == content
    woken = EdgeNode.load(path)
    assert holds(woken, line, serving)
    woken.receive(second)
    assert EdgeNode.load(path).round == 1


def test_disk_full_leaves_node_and_file_untouched(tmp_path, monkeypatch):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    node, content = EdgeNode.load(path), path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        node.receive(story()[0][0])
    assert holds(node, INITIAL, INITIAL) and node.round == -1 and path.read_bytes() == content


def test_state_files_are_safetensors(tmp_path):
    path = tmp_path / "initial.safetensors"
    write_state(path, SCHEMA, INITIAL)
    schema, state = read_state(path)
    assert schema.fingerprint == SCHEMA.fingerprint and np.array_equal(state, INITIAL)
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0 and raw[8:9] == b"{" and len(raw) == 8 + length + 4 * SCHEMA.size
    tensors, metadata = read_tensors(path)
    assert tensors["fc1.weight"].shape == (12, 20) and "schema" in metadata


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: b"", "truncated"),
        (lambda raw: raw[:100], "truncated"),
        (lambda raw: raw[:-4], "damaged"),
        (lambda raw: raw[:8] + b"x" + raw[9:], "damaged"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "fingerprint"),
        (lambda raw: raw.replace(b"F32", b"F16"), "damaged"),
        (lambda raw: raw.replace(b"line/", b"lime/"), "missing"),
    ],
)
def test_damaged_node_files_are_named(tmp_path, change, reason):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"node.safetensors.*{reason}"):
        EdgeNode.load(path)


def rewritten(raw, change):
    """A safetensors file with another header: `change` gets it as an object, and returns an object or a text."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    changed = change(header) or header
    text = (changed if isinstance(changed, str) else json.dumps(changed)).encode()
    return len(text).to_bytes(8, "little") + text + raw[8 + length :]


def with_part(part, text):
    return lambda header: header["__metadata__"].update({part: text})


def overlapping(header):
    header["line/fc1.bias"]["data_offsets"] = header["initial/fc1.bias"]["data_offsets"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (overlapping, "overlap"),
        (lambda header: header["line/fc1.bias"].update(shape=[-12], data_offsets=[0, -48]), "fc1.bias"),
        (lambda header: header["line/fc1.bias"].update(shape=[12.0]), "fc1.bias"),
        (lambda header: header["line/fc1.bias"].update(shape=[1 << 40, 1 << 40]), "fc1.bias"),
        (lambda header: header["line/fc1.bias"].update(shape=[1 << 70], data_offsets=[0, 1 << 72]), "damaged"),
        (lambda header: "[" * 200_000, "too deep"),
        (lambda header: json.dumps(header).replace('"F32"', "Infinity", 1), "Infinity"),
        (lambda header: '{"x": 1, ' + json.dumps(header).replace('"line/fc1.bias"', '"x"')[1:], "twice"),
        (with_part("node", '{"round": Infinity, "applied": []}'), "Infinity"),
        (with_part("node", '{"round": 1e999, "applied": []}'), "1e999"),
        (with_part("node", "[" * 200_000), "too deep"),
        (with_part("node", "[]"), "not an edge node"),
        (with_part("node", '{"round": 1.5, "applied": []}'), "not an edge node"),
        (with_part("node", '{"round": 1, "applied": [], "run": 5}'), "not an edge node"),
        (with_part("node", '{"round": 1, "applied": 7}'), "not an edge node"),
        (with_part("node", '{"round": 1, "applied": [], "key": 7}'), "not an edge node"),
        (with_part("inputs", 7), "no text"),
        (with_part("node", 7), "no text"),
        (with_part("schema", "[" * 200_000), "schema"),
        (with_part("schema", '[["a", "weight", [Infinity, 2]]]'), "schema"),
        (with_part("schema", '[["a", "weight", [1e999, 2]]]'), "schema"),
        (with_part("fingerprints", "[[]]"), "not an edge node"),
    ],
)
def test_hostile_node_files_are_refused_in_one_line(tmp_path, change, reason, capsys):
    path = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(path)
    path.write_bytes(rewritten(path.read_bytes(), change))
    assert edge.main(["apply", "--node", str(path), "x"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{path}: " in err and reason in err


def test_a_state_file_holds_finite_values(tmp_path):
    write_state(tmp_path / "s", SCHEMA, np.where(np.arange(SCHEMA.size) == 3, np.float32(np.inf), INITIAL))
    with pytest.raises(ValueError, match="s: .*not finite"):
        read_state(tmp_path / "s")


def test_a_message_that_is_far_too_large_is_not_read(tmp_path, capsys):
    path, large = tmp_path / "node.safetensors", tmp_path / "large.dpu"
    EdgeNode(SCHEMA, INITIAL).save(path)
    with open(large, "wb") as file:
        file.write(story()[0][0][:53] + (1 << 40).to_bytes(8, "little"))
        file.truncate(1 << 40)  # takes no disk; to read it all would end this process
    assert edge.main(["apply", "--node", str(path), str(large)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "large.dpu: more than 1,051,072 bytes" in err
    refused(EdgeNode.load(path), bytes(1 << 21), "more than 1,051,072 bytes")


@pytest.mark.parametrize("kind", ["cheap", "garbage"])
def test_few_bytes_cannot_make_much_work(kind):
    """Two kB that stand for two million values, each out of 551: all the same, or of noise that ends at once."""
    count, groups = 1 << 21, np.zeros(1 << 21, np.int64)
    old = np.full(count, np.float32(0.01))
    writer = StreamWriter()
    writer.raw(np.array([5, 8, 8]), np.array([20, 0, 254]))
    if kind == "cheap":
        SymbolModel(551).code(writer, np.zeros(5_000, np.int64), np.zeros(5_000, np.int64))
    data = writer.finish() + (np.random.RandomState(0).bytes(8_000) if kind == "garbage" else b"")
    start = time.process_time()
    with pytest.raises(UpdateFormatError, match="too few for 2,097,152 values|ends early|invalid code"):
        code_floats(StreamReader(data, "values"), groups, old, None)
    assert time.process_time() - start < 1.5


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "updates").mkdir(parents=True)
    write_state(folder / "initial.safetensors", SCHEMA, INITIAL)
    for round_, (data, _, _) in enumerate(story()):
        (folder / "updates" / f"round_{round_:03}.dpu").write_bytes(data)
    return folder


def test_a_refused_init_leaves_nothing_and_a_long_name_is_locked(run_folder, tmp_path, capsys):
    initial, there = str(run_folder / "initial.safetensors"), tmp_path / "there"
    there.mkdir()
    for out in (there, Path("/")):
        assert edge.main(["init", "--initial", initial, "--out", str(out)]) == 2
        assert f"{out} exists; remove it" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]
    assert edge.main(["init", "--initial", initial, "--out", str(there / ("n" * 250))]) == 0
    assert len(list(there.iterdir())) == 2


def test_program_from_init_to_replay(run_folder, tmp_path, capsys):
    node, rebuilt = tmp_path / "node.safetensors", tmp_path / "rebuilt.safetensors"
    updates = sorted(str(path) for path in (run_folder / "updates").iterdir())
    assert edge.main(["init", "--initial", str(run_folder / "initial.safetensors"), "--out", str(node)]) == 0
    assert edge.main(["apply", "--node", str(node), *updates]) == 0
    assert capsys.readouterr().out.count("applied, round") == 5
    assert edge.main(["replay", str(run_folder), "--out", str(rebuilt)]) == 0
    assert "5 messages" in capsys.readouterr().out
    assert rebuilt.read_bytes() == node.read_bytes()
    assert edge.main(["show", *updates]) == 0
    out = capsys.readouterr().out
    for words in ("the initial weights", "stands by", "positions", "fc1.weight", "12x20", "all layers"):
        assert words in out


def test_show_without_the_network(run_folder, tmp_path, capsys):
    alone = tmp_path / "alone" / "m.dpu"
    alone.parent.mkdir()
    alone.write_bytes((run_folder / "updates" / "round_001.dpu").read_bytes())
    assert edge.main(["show", str(alone)]) == 0
    assert "add --node" in capsys.readouterr().out


def test_signed_run(tmp_path, capsys):
    folder, key = tmp_path / "run", tmp_path / "key"
    (folder / "updates").mkdir(parents=True)
    key.write_bytes(b"a secret of enough bytes")
    key.chmod(0o600)
    write_state(folder / "initial.safetensors", SCHEMA, INITIAL)
    (folder / "updates" / "round_000.dpu").write_bytes(story(read_sign_key(key))[0][0])
    assert edge.main(["replay", str(folder), "--sign_key", str(key)]) == 0
    key.write_bytes(b"another secret of enough bytes")
    assert edge.main(["replay", str(folder), "--sign_key", str(key)]) == 2
    assert "another key" in capsys.readouterr().err


def test_exit_statuses_of_apply(run_folder, tmp_path, capsys):
    node = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(node)

    def apply(*rounds, flags=()):
        paths = [str(run_folder / "updates" / f"round_{number:03}.dpu") for number in rounds]
        return edge.main(["apply", "--node", str(node), *flags, *paths])

    assert apply(1) == 4
    assert "builds on another base" in capsys.readouterr().err
    assert apply(0, 1) == 0 and apply(1) == 3 and apply(0, 1) == 3
    out, err = capsys.readouterr()
    assert out.count("skipped") == 3 and not err
    assert apply(0, 1, 2) == 0 and apply(0, 3, flags=["--strict"]) == 2 and EdgeNode.load(node).round == 2
    assert "out of order" in capsys.readouterr().err
    (run_folder / "updates" / "round_003.dpu").write_bytes(story()[3][0][:-1] + b"x")
    assert apply(3) == 2 and apply(1, 4) == 4


@pytest.mark.parametrize("rounds", [(0, 0), (0, 1, 0)])
def test_messages_in_one_file_that_are_out_of_order_are_refused_and_not_skipped(run_folder, tmp_path, capsys, rounds):
    node, file = tmp_path / "node.safetensors", tmp_path / "several.dpu"
    EdgeNode(SCHEMA, INITIAL).save(node)
    file.write_bytes(b"".join(story()[number][0] for number in rounds))
    assert edge.main(["apply", "--node", str(node), str(file)]) == 2
    assert "not in the order of their rounds" in capsys.readouterr().err and EdgeNode.load(node).round == -1


def test_status(run_folder, tmp_path, capsys):
    node = tmp_path / "node.safetensors"
    EdgeNode(SCHEMA, INITIAL, key=KEY).save(node)
    content = node.read_bytes()
    assert edge.main(["status", "--node", str(node)]) == 0
    out = capsys.readouterr().out
    for words in ("none yet", SCHEMA.fingerprint.hex(), SCHEMA.state_fingerprint(INITIAL).hex(), "the line", "needed, by"):
        assert words in out
    for data, *_ in story(KEY)[:3]:
        EdgeNode.load(node, key=KEY).receive(data)
    assert edge.main(["status", "--node", str(node)]) == 0
    assert re.search(r"round +2\n.*older network; the line stands by", capsys.readouterr().out, re.DOTALL)
    assert node.read_bytes() != content and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apply", "--node", "{tmp}/none", "{run}/updates/round_000.dpu"], "No such file"),
        (["apply", "--node", "{run}/updates/round_000.dpu", "x"], "safetensors"),
        (["apply", "--node", "{run}/initial.safetensors", "x"], "not an edge node"),
        (["init", "--initial", "{run}/initial.safetensors", "--out", "{run}/initial.safetensors"], "exists"),
        (["init", "--initial", "{run}/initial.safetensors"], "--out"),
        (["show", "{run}/initial.safetensors"], "magic"),
        (["replay", "{tmp}"], "No such file"),
        (["status", "--node", "/proc/self/mem"], "/proc/self/mem: "),  # opens, and then cannot be read
        (["apply", "--node", "{tmp}/node", "/proc/self/mem"], "/proc/self/mem: "),
        (["replay", "{run}", "--sign_key", "{tmp}/empty"], "empty"),
        (["frobnicate"], "frobnicate"),
        ([], "COMMAND"),
    ],
)
def test_errors_are_one_line_and_status_2(run_folder, tmp_path, capsys, arguments, words):
    if "/proc/self/mem" in arguments and not Path("/proc/self/mem").exists():
        pytest.skip("needs /proc")
    EdgeNode(SCHEMA, INITIAL).save(tmp_path / "node")
    (tmp_path / "empty").write_bytes(b"")
    assert edge.main([a.format(run=run_folder, tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("edge: error: ") and words in error


def test_no_file_is_overwritten(run_folder, tmp_path, capsys):
    node = tmp_path / "node.safetensors"
    assert edge.main(["replay", str(run_folder), "--out", str(node)]) == 0
    before = node.read_bytes()
    for words in (
        ["replay", str(run_folder)], ["init", "--initial", str(run_folder / "initial.safetensors")],
        ["catch_up", str(run_folder), "--from", "0"], ["predict", "--node", str(node), "--model-from", str(run_folder)],
    ):  # fmt: skip
        assert edge.main([*words, "--out", str(node)]) == 2
        assert capsys.readouterr().err == f"edge: error: {node} exists; remove it, or choose another --out\n"
    assert node.read_bytes() == before


def test_replay_stops_at_a_missing_message(run_folder, capsys):
    (run_folder / "updates" / "round_003.dpu").unlink()
    assert edge.main(["replay", str(run_folder)]) == 2
    assert "round_004.dpu: builds on another base" in capsys.readouterr().err


@pytest.fixture
def recorded(run_folder):
    """The run with its records: six rounds, in the last of which nothing was sent."""
    rows = [f"{number},{int(number < 5)}" for number in range(6)]
    (run_folder / "rounds.csv").write_text("\n".join(["round,sent", *rows, ""]))
    files = [path for path in run_folder.rglob("*") if path.is_file()]
    digests = {
        path.relative_to(run_folder).as_posix(): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        for path in files
    }
    served = hashlib.sha256(story()[-1][2].tobytes()).hexdigest()
    (run_folder / "summary.json").write_text(json.dumps({"served_sha256": served, "files": digests}))
    return run_folder


def test_replay_of_a_whole_run(recorded, capsys):
    assert edge.main(["replay", str(recorded)]) == 0
    out = capsys.readouterr().out
    assert "5 messages" in out and "all fingerprints right" in out and "note" not in out


@pytest.mark.parametrize("records", ["rounds.csv summary.json", "rounds.csv", "summary.json"])
@pytest.mark.parametrize(
    ("lost", "names"), [([4], "round_004.dpu"), ([0, 3], "round_000.dpu, round_003.dpu"), (range(5), "round_002.dpu")]
)
def test_replay_says_which_messages_are_missing(recorded, lost, names, records, capsys):
    for name in {"rounds.csv", "summary.json"} - set(records.split()):
        (recorded / name).unlink()
    for number in lost:
        (recorded / "updates" / f"round_{number:03}.dpu").unlink()
    assert edge.main(["replay", str(recorded)]) == 2
    out, err = capsys.readouterr()
    assert "all fingerprints right" not in out and err.count("\n") == 1 and "missing: round_" in err and names in err


def damage(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes().replace(b"5,0", b"5,1") if name == "rounds.csv" else b"{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: damage(run, "rounds.csv"), "missing: round_005.dpu"),
        (lambda run: damage(run, "summary.json"), "summary.json: cannot be read"),
        (lambda run: (run / "rounds.csv").write_text("round\n0\n"), "rounds.csv: cannot be read"),
        (lambda run: (run / "summary.json").write_text('{"files": [[1, 2]], "served_sha256": "x"}'), "cannot be read"),
        (lambda run: (run / "rounds.csv").unlink(), "missing: rounds.csv"),
        (lambda run: (run / "updates" / "round_001.dpu").write_bytes(story()[0][0]), "changed .*: round_001.dpu"),
        (lambda run: (run / "updates" / "round_007.dpu").write_bytes(b"x"), "no round of this run: round_007.dpu"),
    ],
)
def test_replay_compares_with_the_records(recorded, change, words, capsys):
    change(recorded)
    assert edge.main(["replay", str(recorded)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(words, err)


@pytest.mark.parametrize("name", ["initial.safetensors", "updates/round_001.dpu", "rounds.csv", "summary.json"])
@pytest.mark.parametrize("plant", ["pipe", "zeros", "device"])
def test_replay_of_a_planted_run_ends(recorded, name, plant, capsys):
    """In one line, without waiting for a pipe, and without reading gigabytes or what never ends into memory."""
    (recorded / name).unlink()
    if plant == "pipe":
        os.mkfifo(recorded / name)
    elif plant == "device":
        (recorded / name).symlink_to("/dev/zero")
    else:
        with open(recorded / name, "wb") as file:
            file.truncate(1 << 40)
    for command in (["replay", str(recorded)], ["show", str(recorded / "updates" / "round_000.dpu")]):
        status = edge.main(command)
        out, err = capsys.readouterr()
        assert status == 2 and err.count("\n") == 1 or command[0] == "show" and status == 0, err


def test_a_sparse_network_in_a_planted_run_is_looked_for_within_bounds(run_folder):
    large = run_folder / "updates" / "round_000.dpu"
    with open(large, "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="round_000.dpu has more than 1,051,0"):
        deployed_in_run(run_folder)


def test_replay_compares_the_served_network(recorded, capsys):
    path = recorded / "summary.json"
    path.write_text(json.dumps({"served_sha256": "0" * 64}))  # as of a run from before there were checksums
    assert edge.main(["replay", str(recorded)]) == 2
    out, err = capsys.readouterr()
    assert "right" not in out and "lead to another network than summary.json says" in err


def test_replay_says_what_the_records_leave_open(recorded, capsys):
    (recorded / "summary.json").unlink()
    (recorded / "rounds.csv").write_text("round,sent\n0,1\n1,1\n2,1\n3,1\n4")  # killed while it wrote the last row
    assert edge.main(["replay", str(recorded)]) == 0
    assert "it has not finished; not yet in rounds.csv: round_004.dpu" in capsys.readouterr().out
    (recorded / "rounds.csv").unlink()
    assert edge.main(["replay", str(recorded)]) == 0
    assert "nothing says whether these are all" in capsys.readouterr().out


def test_messages_are_in_the_order_of_their_numbers(tmp_path):
    from utils.edge.run_files import message_files

    (tmp_path / "updates").mkdir()
    for number in (1000, 2, 999, 10000):
        (tmp_path / "updates" / f"round_{number:03}.dpu").touch()
    (tmp_path / "updates" / "round_1 (copy).dpu").touch()
    assert [path.stem for path in message_files(tmp_path)] == ["round_002", "round_999", "round_1000", "round_10000"]


WITHOUT_TORCH = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and name.partition(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"the edge node must not import {name}")
allowed = {"numpy", "constriction", "utils"}
sys.meta_path.insert(0, Forbid())
from utils.edge import program as edge
sys.exit(edge.main(sys.argv[1:]))
"""


def test_the_edge_imports_numpy_and_constriction_only(run_folder):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "replay", str(run_folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 messages" in done.stdout


@pytest.mark.parametrize("command", ["status --node", "init --out new --initial", "apply m.dpu --node", "show m.dpu --node"])
def test_files_that_are_none_are_one_line(command, tmp_path, monkeypatch, capsys):
    """Nothing at all, a name with a line break, a pipe that nobody writes to."""
    monkeypatch.chdir(tmp_path)
    Path("m.dpu").write_bytes(b"DPU")
    os.mkfifo("pipe")
    for name, words in (("", "'' names nothing"), ("a\nb", "a\\nb: No such file"), ("pipe", "pipe is no regular file")):
        assert edge.main([*command.split(), name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_node_in_the_place_of_a_first_network_and_the_other_way_round(run_folder, tmp_path, capsys):
    initial, node = run_folder / "initial.safetensors", tmp_path / "node"
    assert edge.main(["init", "--initial", str(initial), "--out", str(node)]) == 0
    assert edge.main(["init", "--initial", str(node), "--out", str(tmp_path / "other")]) == 2
    assert edge.main(["status", "--node", str(initial)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "an edge node's file: give the run's initial.safetensors" in first
    assert "not an edge node" in second and "`init` makes one" in second


@pytest.mark.slow
def test_the_edge_runs_in_an_environment_without_torch(run_folder, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    needs = [
        line
        for line in (ROOT / "requirements.txt").read_text().split()
        if line.startswith(("numpy", "constriction"))
    ]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *needs], check=True, timeout=600)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    done = subprocess.run(
        [python, "-m", "utils.edge", "replay", str(run_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "5 messages" in done.stdout


def test_tensor_files_hold_any_shape(tmp_path):
    tensors = {
        "a": np.float32(3.0).reshape(()),
        "b": np.zeros((0, 2), np.float32),
        "ü": np.ones((1, 2), np.float32),
    }
    write_tensors(tmp_path / "t", tensors, {"note": "x"})
    back, metadata = read_tensors(tmp_path / "t")
    assert metadata == {"note": "x"} and {name: t.shape for name, t in back.items()} == {
        "a": (),
        "b": (0, 2),
        "ü": (1, 2),
    }


def test_the_message_benchmark_reads_a_run(run_folder, capsys):
    from benchmarks.messages import measure

    measure(run_folder, first_round=1)
    out = capsys.readouterr().out
    assert "4 messages" in out and "varint gaps" in out and "positions / per-layer binary entropy" in out
