"""Locks: another holder is busy, and nothing else is; a holder that dies frees its lock."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.script_runs import ROOT
from utils.system.locks import BusyError, locked

HOLDER = """
import sys, time
from pathlib import Path
from utils.system.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(path, seconds):
    command = [sys.executable, "-c", HOLDER, str(path), str(seconds)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_lock_is_busy_while_another_process_lives(tmp_path):
    path = tmp_path / ".lock"
    with hold(path, 60) as holder:
        with pytest.raises(BusyError, match=str(path)):
            with locked(path):
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locked(path):
        with pytest.raises(BusyError), locked(path):
            pass
    with locked(path):
        pass


def test_waiting_for_a_lock(tmp_path):
    with hold(tmp_path / ".lock", 1), locked(tmp_path / ".lock", wait=True):
        pass
    order = []

    def work(name):
        with locked(tmp_path / ".lock", wait=True):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[::2] == order[1::2] and sorted(order[::2]) == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.EACCES])
def test_where_locks_fail_a_warning_says_so_and_work_goes_on(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    done = []
    with pytest.warns(UserWarning, match=f"{tmp_path}/.lock cannot be locked here .{os.strerror(number)}."):
        with locked(tmp_path / ".lock"):
            done.append(1)
    assert done == [1]


def test_a_system_without_locks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.system.locks.fcntl", None)  # as on Windows
    with pytest.warns(UserWarning, match="cannot be locked here .this system has no such locks.: see that no other"):
        with locked(tmp_path / ".lock"):
            pass


def test_a_planted_link_is_not_opened_and_content_stays(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".lock").symlink_to(victim)
    with pytest.raises(OSError) as refused, locked(tmp_path / ".lock"):
        pass
    assert refused.value.errno == errno.ELOOP and victim.read_text() == "mine"
    with locked(victim):
        pass
    assert victim.read_text() == "mine"


def test_a_child_that_outlives_the_block_holds_nothing(tmp_path):
    with locked(tmp_path / ".lock"):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
    try:
        with locked(tmp_path / ".lock"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
