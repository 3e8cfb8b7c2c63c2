"""Run folders: kills at every file operation, devices, damaged resume states."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from circuit_lab.training import load_checkpoint, loop, parse_recipe, resolve_device, train
from circuit_lab.training.checkpoint import METADATA_KEY, read_tensors

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


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_kill_at_any_file_operation_resumes_to_the_same_bytes(short, tmp_path, after):
    whole = train(short, tmp_path / "whole", progress=False)
    metrics = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    at = 1
    while train_until_killed(short, tmp_path / str(at), at=at, after=after):
        resumed = train(short, tmp_path / str(at), progress=False)
        assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes(), f"operation {at}"
        assert (tmp_path / str(at) / "metrics.jsonl").read_bytes() == metrics, f"operation {at}"
        assert not list((tmp_path / str(at)).rglob("*.partial")), f"operation {at}"
        at += 1
    assert at > 15, "folder, recipe, metrics, checkpoints and resume states must all have been interrupted"


def test_a_line_cut_short_is_dropped(short, tmp_path, monkeypatch):
    whole = train(short, tmp_path / "whole", progress=False)
    real = loop.append_metrics

    def cut(run, record):
        if record["step"] == 6:
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"step": 6, "learning_ra')
            raise Killed
        real(run, record)

    monkeypatch.setattr(loop, "append_metrics", cut)
    with pytest.raises(Killed):
        train(short, tmp_path / "cut", progress=False)
    monkeypatch.undo()
    resumed = train(short, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == 4
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("device", ["cpu:x", "cpu:3", "cuda:99", "meta", "CPU", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(ValueError, match=f"device '{device}' is not available; this machine has: auto, .*cpu"):
        resolve_device(device)


def test_devices_that_are_there():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")


def without(name):
    return lambda tensors: tensors.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("exp_avg/unembed.W_U"), r"missing \['exp_avg/unembed.W_U'\], unknown \[\]; delete it"),
        (without("weight/unembed.W_U"), r"missing \['weight/unembed.W_U'\], unknown \[\]; delete it"),
        (lambda t: t.update({"w": torch.ones(2)}), r"missing \[\], unknown \['w'\]; delete it"),
        (
            lambda t: t.update({"exp_avg/unembed.W_U": torch.ones(3)}),
            r"exp_avg/unembed.W_U must be \[12, 14\] torch.float32, got \[3\] torch.float32; delete it",
        ),
        (
            lambda t: t.update({"exp_avg_sq/unembed.W_U": t["exp_avg_sq/unembed.W_U"].double()}),
            r"exp_avg_sq/unembed.W_U must be \[12, 14\] torch.float32, got \[12, 14\] torch.float64",
        ),
    ],
)
def test_a_damaged_resume_state_is_refused(short, tmp_path, change, message):
    train(short, tmp_path / "run", progress=False)
    path = tmp_path / "run" / "resume.safetensors"
    metadata, tensors = read_tensors(path)
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors, metadata))
    with pytest.raises(ValueError, match=message):
        train(short, tmp_path / "run", progress=False)
    path.unlink()
    assert train(short, tmp_path / "run", progress=False).resumed_at == 0


def test_foreign_resume_states_are_refused(short, tmp_path):
    run = train(short, tmp_path / "run", progress=False)
    path = run.run / "resume.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    with pytest.raises(ValueError, match=f"is no resume state: its metadata has no key '{METADATA_KEY}'"):
        train(short, run.run, progress=False)
    assert load_checkpoint(run.checkpoint).step == 6
