"""Nodes that missed messages: one file brings them to the server's state, bit for bit."""

import itertools
import os
import random
from copy import copy

import numpy as np
import pytest

from benchmarks.catch_up import ratios
from tests.edge.test_edge import INITIAL, KEY, SCHEMA, number, story
from utils.edge import EdgeNode
from utils.edge import program as edge
from utils.edge.catch_up import catch_up, same_state
from utils.edge.state_file import write_state
from utils.message import Base, Coding, Shared, UpdateFormatError, draft_update, encode_update, unpack_message
from utils.message.container import read_sign_key, split_messages
from utils.message.streams import BaseMissingError, NothingNewError
from utils.system import files


def followed(messages, node=None):
    """A copy of a node, and what became of it after each of the messages."""
    node = EdgeNode(SCHEMA, INITIAL) if node is None else node
    states = [copy(node)]
    for data in messages:
        node = copy(node)
        node.receive(data)
        states.append(node)
    return states


@pytest.mark.parametrize(("begin", "end"), list(itertools.combinations(range(6), 2)))
def test_a_node_that_missed_messages_catches_up(begin, end):
    messages = [data for data, *_ in story()]
    states = followed(messages)
    data, node = catch_up(states[begin], messages[begin:end]), copy(states[begin])
    node.receive(data)
    assert same_state(node, states[end]) and (node.serving is node.line) == (states[end].serving is states[end].line)
    for later in messages[end:]:
        node.receive(later)
    assert same_state(node, states[5])
    assert len(data) <= sum(map(len, messages[begin:end]))
    # Rounds 2 and 3 stand by: only a node that does not serve round 1's network yet needs that one, too.
    assert len(split_messages(data)) == (2 if end in (3, 4) and begin < 2 else 1)


def changes(line, base, where, by, *, bits=32, round):
    """A message that adds `by` to the weights `where` of the base; and the line that it leads to."""
    new = (INITIAL if base.reinitialize else line).copy()
    new[where] += np.float32(by)
    draft = draft_update(Shared(SCHEMA, INITIAL, line), new, Coding("sparse", bits), base)
    return encode_update(draft, round=round), draft.result


def test_what_was_undone_is_not_sent():
    """100 weights change, then another round starts again at the initial network and changes 3: those 3 are sent."""
    first, line = changes(INITIAL, Base(), range(100), 0.1, round=0)
    second, _ = changes(line, Base(reinitialize=True), [5, 6, 7], 0.2, round=1)
    node = EdgeNode(SCHEMA, INITIAL)
    data = catch_up(node, [first, second])
    assert data == second  # which is as small as it gets
    third, _ = changes(line, Base(), range(100), -0.05, round=1)
    merged = catch_up(node, [first, third])
    header = unpack_message(merged).header
    assert header.round == 1 and len(merged) < 0.7 * (len(first) + len(third))
    assert merged not in (first, third)


def test_more_messages_than_a_file_may_hold_are_made_anew(monkeypatch):
    """Three messages of 4 bits are together smaller than a lossless one that leads to the same line."""
    line, messages = INITIAL, []
    for round_ in range(3):
        data, line = changes(line, Base(), range(80 * round_, 80 * round_ + 80), 0.1, bits=4, round=round_)
        messages.append(data)
    node = EdgeNode(SCHEMA, INITIAL)
    assert catch_up(node, messages) == b"".join(messages)
    monkeypatch.setattr("utils.message.container._MOST_MESSAGES", 2)
    data, after = catch_up(node, messages), copy(node)
    assert len(split_messages(data)) == 1 and len(data) > sum(map(len, messages))
    after.receive(data)
    assert np.array_equal(after.line, line) and after.round == 2


def test_quantised_values_arrive_as_they_are():
    line, messages = INITIAL, []
    for round_ in range(4):
        data, line = changes(line, Base(), range(round_ * 20, round_ * 20 + 60), 0.1, bits=6, round=round_)
        messages.append(data)
    node = EdgeNode(SCHEMA, INITIAL)
    node.receive(catch_up(node, messages))
    assert np.array_equal(node.line, line) and node.round == 3


def test_a_node_that_missed_the_deployment_of_a_sparse_network():
    kept = np.flatnonzero(np.arange(SCHEMA.num_weights) % 3 == 0)
    line, deployed, messages = INITIAL, None, []
    for round_ in range(4):
        shared = Shared(SCHEMA, INITIAL, line, deployed)
        base = Base(reinitialize=round_ == 2)
        new = shared.state(base).copy()
        new[kept[round_::5]] += np.float32(0.3)
        if round_ == 0:
            new[np.setdiff1d(np.arange(SCHEMA.num_weights), kept)] = 0
        coding = Coding("pruned", deploys=True) if round_ == 0 else Coding("sparse")
        draft = draft_update(shared, new, coding, base, kept if round_ == 0 else None)
        messages.append(encode_update(draft, round=round_))
        line = draft.result
        deployed = np.isin(np.arange(SCHEMA.num_weights), kept)
    states = followed(messages)
    for begin in range(4):
        node = copy(states[begin])
        if begin == 0:
            with pytest.raises(BaseMissingError, match="sparse network"):
                node.receive(messages[1])
        node.receive(catch_up(node, messages[begin:]))
        assert same_state(node, states[4])


def test_a_catch_up_is_applied_whole_or_not_at_all():
    messages = [data for data, *_ in story()]
    states = followed(messages)
    data = catch_up(states[0], messages[:4])  # two messages
    first, second = map(bytes, split_messages(data))
    node = copy(states[0])
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    for bad, reason in (
        (damaged, "checksum"),
        (second + first, "another base|order"),
        (first + first, "order|already"),
        (data[:-5], "wrong length"),
        (data + data, "not in the order"),
        (first * 1001, "more than 1,000"),
    ):
        with pytest.raises(UpdateFormatError, match=reason):
            node.receive(bad)
        assert same_state(node, states[0])
    node.receive(data)
    with pytest.raises(NothingNewError):
        node.receive(data)
    later = copy(states[2])  # serves what the first of the two leads to
    later.receive(data)
    assert same_state(later, node) and same_state(node, states[4])


def test_a_signed_catch_up():
    messages = [data for data, *_ in story(KEY)]
    node = EdgeNode(SCHEMA, INITIAL, key=KEY)
    data = catch_up(node, messages[:2])
    assert unpack_message(data, KEY).header.signed
    node.receive(data)
    assert np.array_equal(node.line, story()[1][1])


def server_of_forty_rounds():
    """The messages of 40 rounds, some of which send nothing, and the server's copy of the node after each."""
    states, messages = [EdgeNode(SCHEMA, INITIAL)], []
    draws = np.random.RandomState(7)
    standing_by = 0
    for round_ in range(40):
        before = states[-1]
        if draws.random_sample() < 0.2:
            continue
        reinitialize = round_ in (0, 9, 22, 33)
        standing_by = 3 if reinitialize and round_ else max(0, standing_by - 1)
        base = Base(reinitialize) if draws.random_sample() < 0.9 or reinitialize else Base(shrink_perturb=(0.5, 0.25))
        coding = Coding(("sparse", "dense")[round_ % 11 == 5], (32, 6, 4)[round_ % 3])
        new = before.shared.state(base) + np.float32(0.1) * number(round_ + 1)
        if coding.kind == "sparse":
            kept = draws.random_sample(SCHEMA.num_weights) < 0.9
            new[: SCHEMA.num_weights][kept] = before.shared.state(base)[: SCHEMA.num_weights][kept]
        data = encode_update(draft_update(before.shared, new, coding, base), round=round_, serve=not standing_by)
        after = copy(before)
        after.receive(data)
        messages.append(data)
        states.append(after)
    return messages, states


class PowerCut(BaseException):
    pass


def test_nodes_on_a_bad_link_catch_up(tmp_path, monkeypatch):
    """200 nodes, 40 rounds: messages get lost, come twice or late, and the power fails at any moment of a write."""
    messages, states = server_of_forty_rounds()
    by_round = {node.round: node for node in states}
    chance = random.Random(1)
    replace, moments = os.replace, [0]

    def failing_replace(source, target):
        moment = chance.random()
        moments[0] += moment < 0.1
        if moment < 0.05:
            raise PowerCut
        replace(source, target)
        if moment < 0.1:
            raise PowerCut

    monkeypatch.setattr(files.os, "fsync", lambda _: None)
    monkeypatch.setattr(files.os, "replace", failing_replace)
    made, refusals, known = {}, set(), {state.line.tobytes() for state in states}

    def reload(path):
        node = EdgeNode.load(path)
        # A node that missed a message may serve an older network than the server believes: never another one.
        assert node.line.tobytes() == by_round[node.round].line.tobytes() and node.serving.tobytes() in known
        return node

    for number_ in range(200):
        path = tmp_path / f"{number_}.safetensors"
        fresh = EdgeNode(SCHEMA, INITIAL)
        while not path.exists():
            try:
                fresh.save(path)
            except PowerCut:
                pass
        arrived = [data for data in messages if chance.random() > 0.3 for _ in range(1 + (chance.random() < 0.1))]
        for i in range(len(arrived) - 1):
            if chance.random() < 0.1:
                arrived[i], arrived[i + 1] = arrived[i + 1], arrived[i]
        node = reload(path)
        for data in arrived:
            try:
                node.receive(data)
            except PowerCut:
                node = reload(path)
            except UpdateFormatError as error:
                refusals.add(type(error))
        last_heard, node = node.round, reload(path)
        assert node.round == last_heard
        if node.round < states[-1].round:
            if node.round not in made:
                place = next(i for i, state in enumerate(states) if state.round == node.round)
                made[node.round] = catch_up(states[place], messages[place:])
            try:
                node.receive(made[node.round])
            except PowerCut:
                continue  # it serves what it served, or the server's: `reload` saw to that
        assert same_state(reload(path), states[-1])
    assert refusals == {NothingNewError, BaseMissingError} and moments[0] > 50 and len(made) > 10


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "updates").mkdir(parents=True)
    write_state(folder / "initial.safetensors", SCHEMA, INITIAL)
    for round_, (data, *_) in enumerate(story()):
        (folder / "updates" / f"round_{round_:03}.dpu").write_bytes(data)
    return folder


def test_the_program_catches_up(run_folder, tmp_path, capsys):
    node, whole, file = (tmp_path / name for name in ("node.safetensors", "whole.safetensors", "catch_up.dpu"))
    EdgeNode(SCHEMA, INITIAL).save(node)
    updates = sorted(str(path) for path in (run_folder / "updates").iterdir())
    assert edge.main(["apply", "--node", str(node), updates[1]]) == 4
    advice = capsys.readouterr().err.strip().partition("catch up: python -m utils.edge ")[2]
    words = advice.replace("RUN_FOLDER", str(run_folder)).replace("FILE.dpu", str(file)).split()
    assert edge.main([*words, "--to", "3"]) == 0
    assert "from the network as shipped to round 3" in capsys.readouterr().out
    assert edge.main(["apply", "--node", str(node), str(file), updates[4]]) == 0
    assert edge.main(["apply", "--node", str(node), str(file)]) == 3
    assert edge.main(["replay", str(run_folder), "--out", str(whole)]) == 0
    assert whole.read_bytes() == node.read_bytes()
    capsys.readouterr()
    assert edge.main(["show", str(file), "--node", str(node)]) == 0
    assert capsys.readouterr().out.count("leads to") == 2
    assert edge.main(["catch_up", str(run_folder), "--from", "4", "--out", str(tmp_path / "none")]) == 3
    assert "nothing to catch up with" in capsys.readouterr().out and not (tmp_path / "none").exists()
    for wrong in (["--from", "x"], ["--from", "1"], ["--from", "1", "--to", "-2"]):
        assert edge.main(["catch_up", str(run_folder), *wrong, "--out", str(file)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_catch_up_without_the_run_s_key_says_so(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(0o600)
    (tmp_path / "updates").mkdir()
    write_state(tmp_path / "initial.safetensors", SCHEMA, INITIAL)
    for round_, (data, *_) in enumerate(story(read_sign_key(key))):
        (tmp_path / "updates" / f"round_{round_:03}.dpu").write_bytes(data)
    words = ["catch_up", str(tmp_path), "--from", "shipped", "--to", "1"]
    assert edge.main([*words, "--out", str(tmp_path / "plain.dpu")]) == 0
    assert "note: the run signs its messages" in capsys.readouterr().out
    assert edge.main([*words, "--out", str(tmp_path / "signed.dpu"), "--sign_key", str(key)]) == 0
    assert "note:" not in capsys.readouterr().out


def test_the_benchmark_s_ratios_by_hand(run_folder):
    messages, node, expected = [data for data, *_ in story()], EdgeNode(SCHEMA, INITIAL), []
    for first, second in itertools.pairwise(messages):
        expected.append(len(catch_up(node, [first, second])) / (len(first) + len(second)))
        node.receive(first)
    assert ratios(run_folder, 2) == expected and ratios(run_folder, 6) == []
    whole = len(catch_up(EdgeNode(SCHEMA, INITIAL), messages))
    assert ratios(run_folder, 5) == [whole / sum(map(len, messages))]
