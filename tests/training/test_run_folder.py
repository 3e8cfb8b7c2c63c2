"""Run folders: kills at every file operation, disks that are full, damaged metrics, training that diverges."""

import errno
import multiprocessing
import os
import resource
import signal
import stat
from pathlib import Path

import pytest
import torch

from circuit_lab.errors import InputError
from circuit_lab.training import parse_recipe, read_metrics, resolve_device, train, training_run
from circuit_lab.training.learner import Learner
from circuit_lab.training.run_folder import append_metrics, write_atomically

OPERATIONS = {(os, "fsync"), (Path, "replace"), (Path, "mkdir")}


class Killed(BaseException):
    """Stands for SIGKILL: no `except Exception` sees it, and nothing is tidied up."""


@pytest.fixture
def short(tables):
    """A run with every kind of file operation in it, in a few steps."""
    tables["training"] |= {"n_steps": 6, "resume_every": 4}
    tables["evaluation"], tables["checkpoints"] = {"every": 2}, {"every": 3}
    return parse_recipe(tables, source="a test")


def train_until_killed(recipe, run, *, at, after):
    """Train, killed just before or just after the operation number `at`; whether the run was killed."""
    n_done = 0

    def killing(real):
        def operation(*args, **kwargs):
            nonlocal n_done
            n_done += 1
            if n_done == at and not after:
                raise Killed
            result = real(*args, **kwargs)
            if n_done == at:
                raise Killed
            return result

        return operation

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, killing(getattr(owner, name)))
        try:
            train(recipe, run, progress=False)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(
    ("after", "every"),
    [(False, 4), pytest.param(False, 1, marks=pytest.mark.slow), pytest.param(True, 1, marks=pytest.mark.slow)],
)
def test_a_kill_at_any_file_operation_resumes_to_the_same_bytes(short, tmp_path, after, every):
    whole = train(short, tmp_path / "whole", progress=False)
    metrics = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    at = 1
    while train_until_killed(short, tmp_path / str(at), at=at, after=after):
        resumed = train(short, tmp_path / str(at), progress=False)
        assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes(), f"operation {at}"
        assert (tmp_path / str(at) / "metrics.jsonl").read_bytes() == metrics, f"operation {at}"
        assert not list((tmp_path / str(at)).rglob("*.partial")), f"operation {at}"
        at += every
    assert at > 30, "folder, recipe, metrics, checkpoints and resume states must all have been interrupted"


def test_a_line_cut_short_is_dropped(short, tmp_path, monkeypatch):
    whole = train(short, tmp_path / "whole", progress=False)
    real = training_run.append_metrics

    def cut(run, record):
        if record["step"] == 6:
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"step": 6, "learning_ra')
            raise Killed
        real(run, record)

    monkeypatch.setattr(training_run, "append_metrics", cut)
    with pytest.raises(Killed):
        train(short, tmp_path / "cut", progress=False)
    monkeypatch.undo()
    resumed = train(short, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == 4
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("failing", [(os, "fsync"), (Path, "replace"), (Path, "open")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    write_atomically(tmp_path / "file", b"old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*failing, full)
        with pytest.raises(
            OSError, match="cannot write it: No space left on device; nothing was lost: .*/file'"
        ) as error:
            write_atomically(tmp_path / "file", b"new")
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path / "file")
    assert files(tmp_path) == {"file": b"old"}
    write_atomically(tmp_path / "file", b"new")
    assert files(tmp_path) == {"file": b"new"}


def in_child(function, *arguments):
    """Exit code of a forked child: 0 where the function says True."""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(0 if function(*arguments) else 1))
    process.start()
    process.join()
    return process.exitcode


def meets_a_limit(folder):
    """The kernel itself cuts a write short: a limit on the size of files stands for a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    write_atomically(folder / "file", b"old")
    append_metrics(folder, {"step": 1})
    n_refused = 0
    for write in (
        lambda: write_atomically(folder / "file", b"n" * 5000),
        lambda: append_metrics(folder, {"step": 2, "name": "n" * 5000}),
    ):
        try:
            write()
        except OSError as error:
            n_refused += error.errno == errno.EFBIG and str(folder) in str(error)
    return n_refused == 2 and files(folder) == {"file": b"old", "metrics.jsonl": b'{"step": 1}\n'}


def test_a_real_limit_cuts_nothing_short(tmp_path):
    assert in_child(meets_a_limit, tmp_path) == 0


def is_folder(descriptor):
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def test_a_folder_that_cannot_be_synced_is_no_error_but_a_broken_disk_is(tmp_path, monkeypatch):
    real, errors = os.fsync, {"code": errno.EINVAL}

    def fsync(descriptor):
        if is_folder(descriptor):
            raise OSError(errors["code"], "no")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "file", b"1")
    errors["code"] = errno.EIO
    with pytest.raises(OSError, match="it is whole, but a power cut may bring back what was there before: .*/file'"):
        write_atomically(tmp_path / "file", b"2")
    assert files(tmp_path) == {"file": b"2"}


def test_every_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    done, sync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append("folder" if is_folder(d) else "file"), sync(d)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_atomically(tmp_path / "file", b"1")
    assert done == ["file", "rename", "folder"]
    append_metrics(tmp_path, {"step": 1})
    assert done[3:] == ["file"]


def test_planted_links_are_not_written_through(tmp_path, monkeypatch):
    target = tmp_path / "precious"
    target.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
    (tmp_path / "file.00000000.partial").symlink_to(target)
    with pytest.raises(OSError, match="File exists; nothing was lost"):
        write_atomically(tmp_path / "file", b"theirs")
    (tmp_path / "metrics.jsonl").symlink_to(target)
    with pytest.raises(
        OSError, match="cannot write it: Too many levels of symbolic links; its earlier lines are untouched"
    ):
        append_metrics(tmp_path, {"step": 1})
    (tmp_path / "link").symlink_to(target)
    monkeypatch.undo()
    write_atomically(tmp_path / "link", b"ours")
    assert target.read_text() == "mine" and not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\n", "metrics.jsonl is damaged: 'utf-8' codec"),
        (b'{"step": 1}\n{"step": 2\n', r"metrics.jsonl line 2 is damaged: not JSON \("),
        (b"[" * 100_000 + b"\n", r"line 1 is damaged: not JSON \(maximum recursion"),
        (b'{"step": ' + b"9" * 5000 + b"}\n", r"line 1 is damaged: not JSON \(Exceeds"),
        (b"[1]\n", "line 1 is damaged: a record must have a whole number `step` >= 0, got '\\[1\\]'"),
        (b'{"step": true}\n', "a record must have a whole number `step`"),
        (b'{"step": -1}\n', "a record must have a whole number `step`"),
        (b'{"step": 1.0}\n', "a record must have a whole number `step`"),
        (b'{"step": NaN}\n', "a record must have a whole number `step`"),
        (b'{"stop": 1}\n', "a record must have a whole number `step`"),
        (b"\0\0\0\n", "line 1 is damaged: not JSON"),
        (b'{"step": 1, "accuracy/test": "0.5"}\n', "line 1 is damaged: accuracy/test must be a number"),
    ],
)
def test_damaged_metrics_are_named(short, tmp_path, content, message):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_metrics(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_metrics_that_are_no_file(short, tmp_path):
    assert read_metrics(tmp_path) == []
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="pipe, socket or device"):
        read_metrics(tmp_path)


def test_a_finished_run_without_its_last_metrics(short, tmp_path):
    run = train(short, tmp_path / "run", progress=False).run
    (run / "metrics.jsonl").unlink()
    with pytest.raises(
        InputError, match="metrics.jsonl has no line of step 6, the last of this finished run; restore it"
    ):
        train(short, run, progress=False)


def test_a_checkpoints_folder_that_is_a_file(short, tmp_path):
    run = train(short, tmp_path / "run", progress=False).run
    (run / "checkpoints").rename(tmp_path / "away")
    (run / "checkpoints").write_text("")
    with pytest.raises(InputError, match="cannot use .*run as run folder: its checkpoints is no folder"):
        train(short, run, progress=False)


def diverging(tables, **training):
    tables["optimizer"] |= {"learning_rate": 1e30, "warmup_steps": 0, "max_gradient_norm": 0.0}
    tables["training"] |= training
    return parse_recipe(tables, source="a test")


def test_training_that_diverges_stops_and_keeps_what_was_good(tables, tmp_path):
    message = (
        r"run: training diverged: after step 9 the loss is .* and the norm of the weights (nan|inf); "
        "nothing was saved before; train in another folder with a lower optimizer.learning_rate"
    )
    with pytest.raises(InputError, match=message):
        train(diverging(tables), tmp_path / "run", progress=False)
    run = tmp_path / "run"
    assert not (run / "resume.safetensors").exists() and [r["step"] for r in read_metrics(run)] == [0]


def test_the_last_good_state_outlives_a_divergence(recipe, tmp_path, monkeypatch):
    real = Learner.step

    def step(self, number):
        loss = real(self, number)
        if number == 20:
            with torch.no_grad():
                self.net.embed.W_E[3, 2] = torch.nan
        return loss

    monkeypatch.setattr(Learner, "step", step)
    with pytest.raises(InputError, match="after step 27 the loss is nan .*the state of step 18 is kept"):
        train(recipe, tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert train(recipe, tmp_path / "run", progress=False).resumed_at == 18


@pytest.mark.parametrize("device", ["cpu:x", "cpu:3", "cuda:99", "meta", "CPU", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=f"device '{device}' is not available; this machine has: auto, .*cpu"):
        resolve_device(device)


def test_devices_that_are_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
