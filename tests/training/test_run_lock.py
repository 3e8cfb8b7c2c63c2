"""One process trains into a folder at a time; a dead one holds nothing."""

import json
import os
import platform
import signal
import threading

import pytest
from killed_runs import SERVER, hold, start

from circuit_lab.errors import InputError
from circuit_lab.training import read_metrics, run_checkpoints, train
from circuit_lab.training.learner import Learner
from circuit_lab.training.run_lock import locked


def test_a_second_process_is_refused_until_the_first_is_killed(recipe, tmp_path):
    run, ready = tmp_path / "run", SERVER.Event()
    train(recipe, run, progress=False)
    holder = start(hold, str(run), ready)
    assert ready.wait(60)
    message = (
        rf"process {holder.pid} on '{platform.node()}' \(since '20\d\d-\d\d-\d\d \d\d:\d\d:\d\d' UTC\) is training in "
        r"run folder .*/run; wait until it is done, stop it, or choose another folder"
    )
    for _ in range(2):  # asking does not take it away from the holder, nor who that is
        with pytest.raises(InputError, match=message) as refused:
            train(recipe, run, progress=False)
    assert "\n" not in str(refused.value)
    assert len(run_checkpoints(run)) == 3 and read_metrics(run)[-1]["step"] == 40  # reading needs no lock
    holder.kill()
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    assert (run / ".holder.json").exists(), "a killed process tidies nothing up"
    assert train(recipe, run, progress=False).resumed_at == 40
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) == [".lock"]


def test_a_second_thread_is_refused(recipe, tmp_path):
    refused, holding, done = [], threading.Event(), threading.Event()

    def other():
        with locked(tmp_path / "run"):
            holding.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    assert holding.wait(60)
    try:
        with pytest.raises(InputError, match=f"process {os.getpid()} on .* is training in run folder"):
            train(recipe, tmp_path / "run", progress=False)
    finally:
        done.set()
        thread.join()
    assert train(recipe, tmp_path / "run", progress=False).resumed_at == 0
    assert not refused


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_whatever_ends_training_lets_go(recipe, tmp_path, monkeypatch, error):
    def fail(self, step):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", fail)
        with pytest.raises(error):
            train(recipe, tmp_path / "run", progress=False)
    with locked(tmp_path / "run"):
        pass


def test_it_is_held_while_training_and_no_longer(recipe, tmp_path, monkeypatch):
    seen, real = [], Learner.step

    def step(self, number):
        with pytest.raises(InputError, match=f"process {os.getpid()} on"), locked(tmp_path / "run"):
            pass
        seen.append(number)
        return real(self, number)

    monkeypatch.setattr(Learner, "step", step)
    train(recipe, tmp_path / "run", progress=False)
    assert seen == list(range(40))
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "1"}', '{"pid": 1, "host": "a"}', "x" * 5000, "\0\n"])
def test_a_holder_that_cannot_be_read_is_another_process(tmp_path, content):
    with locked(tmp_path):
        (tmp_path / ".holder.json").write_text(content)
        with pytest.raises(InputError, match="^another process is training in run folder"), locked(tmp_path):
            pass


def test_a_name_of_several_lines_stays_on_one(tmp_path):
    with locked(tmp_path):
        holder = {"pid": 1, "host": "a\nb\x1b[31m", "since": "now"}
        (tmp_path / ".holder.json").write_text(json.dumps(holder))
        with pytest.raises(InputError, match=r"process 1 on 'a\\nb\\x1b\[31m'") as refused, locked(tmp_path):
            pass
    assert "\n" not in str(refused.value)


def test_planted_links_are_not_followed(recipe, tmp_path):
    target = tmp_path / "precious.txt"
    target.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(target)
    with pytest.raises(InputError, match=r".lock in .*run leads out of that folder"):
        train(recipe, run, progress=False)
    message = r"cannot use .*run as run folder: cannot lock .*\.lock \(.*\); choose another"
    with pytest.raises(InputError, match=message), locked(run):
        pass
    (run / ".lock").unlink()
    (run / ".holder.json").symlink_to(target)
    with locked(run):
        assert not (run / ".holder.json").is_symlink()
    assert target.read_text() == "mine"


def test_a_folder_that_is_refused_gets_no_lock(recipe, tmp_path):
    (tmp_path / "todo.txt").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        train(recipe, tmp_path, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["todo.txt"]


def test_a_folder_of_a_process_killed_before_its_recipe_can_be_used(recipe, tmp_path):
    for name in (".lock", ".holder.json", "run.toml.0a1b2c3d.partial", "run.toml.partial"):
        (tmp_path / name).write_text("cut sh")
    assert train(recipe, tmp_path, progress=False).resumed_at == 0
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / ".holder.json").exists()


def test_a_place_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"cannot use .*file/run as run folder: cannot lock .*Not a directory"
    with pytest.raises(InputError, match=message), locked(tmp_path / "file" / "run"):
        pass
