"""A folder with very many checkpoints, and reading what another process is writing."""

import os
import shutil
import time

import pytest
from killed_runs import SERVER, load_again_and_again, save_again_and_again, start
from small_runs import MODULAR, train_run

from circuit_lab.errors import InputError
from circuit_lab.training import (
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    parse_recipe,
    run_checkpoints,
    train,
)
from circuit_lab.training.learner import Learner

N_MANY = 10_000


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(MODULAR, tmp_path_factory.mktemp("runs") / "run")


def test_every_load_while_another_process_saves_is_whole(trained, tmp_path):
    path, ready, found = tmp_path / "checkpoint.safetensors", SERVER.Event(), SERVER.SimpleQueue()
    writer = start(save_again_and_again, str(checkpoint_path(trained, 40)), str(path), ready)
    assert ready.wait(60)
    reader = start(load_again_and_again, str(path), 200, found)
    reader.join(120)
    n_saved = load_checkpoint(path).step
    writer.kill()
    writer.join()
    assert reader.exitcode == 0, "each of the 200 must have been whole"
    steps = found.get()
    assert len(steps) == 200 and steps[-1] <= n_saved
    assert steps == sorted(steps)
    assert len(set(steps)) > 20, "the file must have changed while it was read"


@pytest.fixture(scope="module")
def crowded(trained, tmp_path_factory):
    """A run of 10,000 checkpoints: links to one file, since only their names count here."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("crowded") / "run")
    source = checkpoint_path(run, 10)
    for step in range(41, 41 + N_MANY - 4):
        os.link(source, checkpoint_path(run, step))
    return run


class FirstStep(Exception):
    """Training has begun."""


def test_ten_thousand_checkpoints_are_listed_and_resumed_within_a_second(crowded, monkeypatch, record_property):
    seconds = {}

    def timed(name, function, *arguments):
        begin = time.process_time()  # what other processes do meanwhile does not count
        result = function(*arguments)
        seconds[name] = time.process_time() - begin
        return result

    def resume():
        with pytest.raises(FirstStep):
            train(longer, crowded, device="cpu", progress=False)

    def step(self, number):
        raise FirstStep

    tables = MODULAR | {"training": MODULAR["training"] | {"n_steps": 50}}
    longer = parse_recipe(tables, source="a test")
    assert len(timed("run_checkpoints", run_checkpoints, crowded)) == N_MANY
    assert timed("latest_checkpoint", latest_checkpoint, crowded) == checkpoint_path(crowded, 40 + N_MANY - 4)
    monkeypatch.setattr(Learner, "step", step)
    timed("resume", resume)
    record_property("shown", f"10,000 checkpoints: {', '.join(f'{n} {s:.3f} s' for n, s in seconds.items())}")
    assert max(seconds.values()) < 1, seconds  # measured: listing .02, resuming .1


def test_order_is_by_number_beyond_eight_digits(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    shutil.copy(checkpoint_path(run, 10), checkpoint_path(run, 100_000_000))
    shutil.copy(checkpoint_path(run, 10), checkpoint_path(run, 99_999_999))
    assert latest_checkpoint(run).name == "step-100000000.safetensors"
    assert [path.name for path in run_checkpoints(run)][-2:] == [
        "step-99999999.safetensors",
        latest_checkpoint(run).name,
    ]


def test_checkpoints_that_lead_outside_are_refused(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    outside = shutil.move(checkpoint_path(run, 20), tmp_path / "elsewhere.safetensors")
    checkpoint_path(run, 20).symlink_to(outside)
    for read in (run_checkpoints, latest_checkpoint):
        with pytest.raises(InputError, match=r"step-00000020.safetensors in .*run leads out of that folder"):
            read(run)
    checkpoint_path(run, 20).unlink()
    checkpoint_path(run, 20).symlink_to(checkpoint_path(run, 10).name)  # inside: harmless
    assert len(run_checkpoints(run)) == 4
    shutil.move(run / "checkpoints", tmp_path / "moved")
    (run / "checkpoints").symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match=r"checkpoints in .*run leads out of that folder"):
        run_checkpoints(run)
    (tmp_path / "linked").symlink_to(trained)  # the whole run folder may stand elsewhere
    assert len(run_checkpoints(tmp_path / "linked")) == 4


@pytest.mark.parametrize("name", ["run.toml", "metrics.jsonl", "resume.safetensors", "checkpoints", ".lock"])
def test_training_into_links_that_lead_outside_is_refused(trained, tmp_path, name):
    run = shutil.copytree(trained, tmp_path / "run")
    outside = tmp_path / f"outside-{name.lstrip('.')}"
    shutil.move(run / name, outside)
    (run / name).symlink_to(outside)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=rf"{name} in .*run leads out of that folder, to .*outside-"):
        train(parse_recipe(MODULAR, source="a test"), run, device="cpu", progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
