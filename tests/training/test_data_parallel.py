"""Several processes train one run: shares by hand, then real processes against one process."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tomli_w
import torch
from killed_runs import SERVER, files_of, start
from launched import call_train, ended, environment, free_port, launch
from small_runs import MODULAR

from circuit_lab.errors import InputError
from circuit_lab.sweeps import train_fleet
from circuit_lab.tasks import build_task
from circuit_lab.training import data_parallel, load_checkpoint, parse_recipe, read_metrics, train, train_many
from circuit_lab.training.data_parallel import ALONE, Processes, join_processes, own_device
from circuit_lab.training.learner import Learner

FLOAT64 = {"dtype": "float64", "loss_dtype": "float64"}
FULL_BATCH = MODULAR | {
    "task": {"kind": "modular", "p": 7, "n_train": 21, "seed": 1},
    "training": MODULAR["training"] | FLOAT64 | {"resume_every": 9},
}
"""Twenty-one items, all in every step."""
RESTRAINED = {
    "optimizer": {"l1": 1e-4, "l2": 1e-3, "max_gradient_norm": 0.5, "only": ["attention", "mlp"]},
    "training": {"ema_decay": 0.9},
}
"""Penalties, clipping, frozen weights and averaged ones."""


@pytest.fixture
def float64(tables):
    """Fifteen items a step, eight and seven where two share them."""
    return with_tables(tables, {"training": FLOAT64 | {"batch_size": 15}})


def with_tables(tables, changes):
    return {name: table | changes.get(name, {}) for name, table in tables.items()}


def learner(tables, processes=ALONE):
    recipe = parse_recipe(tables, source="a test")
    return Learner(recipe, build_task(recipe.task), torch.device("cpu"), None, processes)


# Shares, in one process.


def test_shares_by_hand():
    items = torch.tensor([10, 11, 12, 13, 14, 15, 16])
    assert [Processes(i, 3).share(items).tolist() for i in range(3)] == [[10, 13, 16], [11, 14], [12, 15]]
    assert [Processes(i, 3).weight_of_share(7) for i in range(3)] == [3 / 7, 2 / 7, 2 / 7]
    assert ALONE.share(items) is items and ALONE.weight_of_share(7) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 9, 23])
def test_every_item_is_in_one_share(size, count):
    processes = [Processes(index, count) for index in range(count)]
    shares = [each.share(torch.arange(size)) for each in processes]
    assert sorted(torch.cat(shares).tolist()) == list(range(size))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [each.weight_of_share(size) for each in processes] == [len(share) / size for share in shares]


@pytest.fixture
def in_turn(monkeypatch):
    """Calls one after the other what processes would call at once; only the last one gets the sum over all."""
    told = []

    def call(*actions):
        told.clear()
        results = [action() for action in actions]
        assert len(told) == len(actions)
        return results[-1]

    def add_what_was_told(numbers):
        told.append(numbers.clone())
        numbers.copy_(torch.stack(told).sum(0))

    monkeypatch.setattr(data_parallel.distributed, "all_reduce", add_what_was_told)
    return call


def weight_with(gradient):
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    weight.grad = None if gradient is None else torch.tensor(gradient, dtype=torch.float64)
    return weight


def test_gradients_and_losses_are_weighted_by_hand(in_turn):
    """.6 x (1, 2) + .4 x (11, -3) = (5, 0); .6 x 2 + .4 x 7 = 4. A weight without a gradient keeps none."""
    weights, others = [weight_with([1.0, 2.0]), weight_with(None)], [weight_with([11.0, -3.0]), weight_with(None)]
    loss = in_turn(
        lambda: Processes(1, 2).combine(others, torch.tensor(7.0), weight_of_share=0.4),
        lambda: Processes(0, 2).combine(weights, torch.tensor(2.0), weight_of_share=0.6),
    )
    assert (loss.item(), loss.dtype) == (pytest.approx(4), torch.float32)
    assert weights[0].grad.tolist() == pytest.approx([5, 0])
    assert weights[1].grad is None


@pytest.mark.parametrize("batch", ["drawn", "full"])
def test_one_step_on_unequal_shares_is_the_step_on_the_batch(float64, in_turn, monkeypatch, batch):
    tables = {"drawn": float64, "full": FULL_BATCH}[batch]
    whole = learner(tables)
    loss = whole.step(0)

    def shared():
        parts = [learner(tables, Processes(index, 2)) for index in (1, 0)]
        found = in_turn(*(lambda part=part: part.step(0) for part in parts))
        return found, max(
            float((weight - expected).detach().abs().max())
            for weight, expected in zip(parts[-1].net.parameters(), whole.net.parameters(), strict=True)
        )

    found, difference = shared()
    assert float(found) == pytest.approx(float(loss), abs=1e-13) and difference < 1e-12
    monkeypatch.setattr(Processes, "weight_of_share", lambda *_: 0.5)
    found, difference = shared()
    assert float(found) != pytest.approx(float(loss), abs=1e-4) and difference > 1e-6, "a plain mean of means"


def test_a_signal_that_one_process_received_stops_all_after_the_same_step(in_turn):
    main, other = Processes(0, 2), Processes(1, 2)

    def step(*processes):
        options = {"weight_of_share": 0.5}
        in_turn(*(lambda p=p: p.combine([weight_with([1.0, 1.0])], torch.tensor(1.0), **options) for p in processes))

    step(other, main)
    assert main.agreed_stop(None, look=True) is None
    step(main, other)
    assert other.agreed_stop(signal.SIGINT, look=True) is None, "it was not told before the step"
    step(other, main)
    assert main.agreed_stop(None, look=False) is None
    assert main.agreed_stop(None, look=True) == signal.SIGTERM
    step(main, other)
    assert other.agreed_stop(signal.SIGINT, look=True) == signal.SIGINT
    assert ALONE.agreed_stop(signal.SIGINT, look=True) == signal.SIGINT and ALONE.agreed_stop(None, look=True) is None


# What launchers say.


@pytest.fixture
def launched(monkeypatch):
    """As the second of two processes on this machine."""
    for name, value in environment(1, 2, 1).items():
        monkeypatch.setenv(name, value)


def test_each_process_has_its_own_gpu(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda:1")
    assert own_device(torch.device("cpu")) == torch.device("cpu")
    for one in ("cuda:0", "mps"):
        with pytest.raises(InputError, match=f"2 processes cannot train on one device '{one}'; choose cuda or cpu"):
            own_device(torch.device(one))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes need a GPU each, and this machine has 1; start at most 1"):
        own_device(torch.device("cuda"))


def test_without_a_launcher_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join_processes(torch.device("cpu")) is ALONE
    assert own_device(torch.device("mps")) == torch.device("mps")


def test_many_runs_are_refused(recipe, tmp_path, launched):
    for refused in (train_many, train_fleet):
        with pytest.raises(InputError, match=r"is for one process, and a launcher started 2 .*; start it without"):
            refused({tmp_path / "run": recipe}, device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


# Real processes.


def command(tables, folder, run, *settings):
    """The command line that trains by the tables."""
    (folder / "r.toml").write_text(tomli_w.dumps(tables))
    overrides = [part for setting in settings for part in ("--set", setting)]
    return ["train", str(folder / "r.toml"), "--out", str(run), "--device", "cpu", "--quiet", *overrides]


def assert_equal_up_to_rounding(run, expected):
    """Other sums make other last digits; 40 steps in float64 leave them below 1e-9."""
    assert files_of(run).keys() == files_of(expected).keys()
    assert (run / "run.toml").read_bytes() == (expected / "run.toml").read_bytes()
    for path in (expected / "checkpoints").iterdir():
        weights = load_checkpoint(run / "checkpoints" / path.name).net.unique_state_dict()
        for name, weight in load_checkpoint(path).net.unique_state_dict().items():
            assert torch.allclose(weights[name], weight, rtol=0, atol=1e-9), (path.name, name)
    for line, same in zip(read_metrics(run), read_metrics(expected), strict=True):
        assert line == {k: pytest.approx(v, rel=1e-8) if isinstance(v, float) else v for k, v in same.items()}


@pytest.mark.parametrize(("changes", "n_processes"), [({}, 2), (RESTRAINED, 2), ({}, 3)])
def test_processes_train_what_one_trains(float64, tmp_path, changes, n_processes):
    tables = with_tables(float64, changes)
    trained = ended(launch([command(tables, tmp_path, tmp_path / "run")] * n_processes, tmp_path), tmp_path)
    assert [each.code for each in trained] == [0] * n_processes, trained
    assert "Last checkpoint" in trained[0].printed and {each.printed for each in trained[1:]} == {""}
    one = train(parse_recipe(tables, source="a test"), tmp_path / "one", device="cpu", progress=False)
    assert_equal_up_to_rounding(tmp_path / "run", one.run)


def test_a_script_trains_a_full_batch_and_every_process_gets_the_result(tmp_path):
    assert learner(FULL_BATCH).inputs is not None, "its distinct inputs are looked up"
    port, results = free_port(), SERVER.SimpleQueue()
    arguments = (FULL_BATCH, str(tmp_path / "run"), results)
    processes = [start(call_train, environment(index, 2, port), *arguments) for index in (0, 1)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = sorted((results.get() for _ in processes), key=lambda each: each[0])
    assert [index for index, *_ in found] == ["0", "1"] and found[0][1] == found[1][1]
    one = train(parse_recipe(FULL_BATCH, source="a test"), tmp_path / "one", device="cpu", progress=False)
    assert found[0][1].accuracy == one.accuracy
    assert_equal_up_to_rounding(tmp_path / "run", one.run)


def test_one_process_does_not_load_accelerate(tables, tmp_path):
    results = SERVER.SimpleQueue()
    start(call_train, {"RANK": "0"}, tables, str(tmp_path / "run"), results).join(60)
    assert results.get()[2] is False


def test_a_run_is_stopped_by_a_signal_to_one_process_and_goes_on_in_any_number(float64, tmp_path):
    """The averaged weights, the moments and the step of the save must have reached the second process."""
    tables = with_tables(float64, {"training": {"n_steps": 300, "resume_every": 1000, "ema_decay": 0.9}})
    tables |= {"evaluation": {"every": 10}, "checkpoints": {"every": 300}}
    cut = tmp_path / "cut"
    processes = launch([command(tables, tmp_path, cut)] * 2, tmp_path)
    deadline = time.monotonic() + 60
    while not (cut / "metrics.jsonl").exists() or len(read_metrics(cut)) < 3:
        assert time.monotonic() < deadline and processes[1].is_alive()
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGTERM)
    stopped = ended(processes, tmp_path)
    assert [each.code for each in stopped] == [128 + signal.SIGTERM] * 2
    assert stopped[0].printed.count("\n") == 1 and "the same command continues it" in stopped[0].printed
    assert stopped[1].printed == ""
    step = int(stopped[0].printed.split("stopped at step ")[1].split(";")[0])
    assert 20 <= step < 300
    whole = train(parse_recipe(tables, source="a test"), tmp_path / "whole", device="cpu", progress=False)
    for n_processes in (1, 2):
        run = shutil.copytree(cut, tmp_path / f"by-{n_processes}")
        resumed = ended(launch([command(tables, tmp_path, run)] * n_processes, tmp_path), tmp_path)
        assert [each.code for each in resumed] == [0] * n_processes, resumed
        assert f"Continued from step {step}." in resumed[0].printed
        assert_equal_up_to_rounding(run, whole.run)


@pytest.mark.parametrize(
    ("folder", "settings", "message"),
    [
        (
            "run",
            [["optimizer.l2=0.1"]] * 2,
            "holds a run of another recipe: optimizer.l2 was 0.0 and is 0.1; choose another",
        ),
        (
            "new",
            [["training.batch_size=1"]] * 2,
            "a batch of 1 items cannot be split among 2 processes; start at most 1, or",
        ),
        ("new", [["training.n_stops=1"]] * 2, "training.n_stops"),
        ("run", [[], ["training.seed=6"]], "process 1 of 2: its training.seed is 6, and that of the main process is 5"),
    ],
)
def test_what_is_refused_is_said_once_and_nothing_is_written(float64, tmp_path, folder, settings, message):
    run = train(parse_recipe(float64, source="a test"), tmp_path / "run", device="cpu", progress=False).run
    before = files_of(run)
    commands = [command(float64, tmp_path, tmp_path / folder, *each) for each in settings]
    refused = ended(launch(commands, tmp_path), tmp_path)
    assert [each.code for each in refused] == [2, 2], refused
    assert refused[0].printed.count("\n") == 1 and message in refused[0].printed
    assert refused[1].printed == ""
    assert files_of(run) == before and not (tmp_path / "new").exists()


def test_processes_of_two_folders_are_refused(float64, tmp_path):
    commands = [command(float64, tmp_path, tmp_path / name) for name in ("one", "other")]
    refused = ended(launch(commands, tmp_path), tmp_path)
    assert [each.code for each in refused] == [2, 2], refused
    assert "process 1 of 2: its run folder is" in refused[0].printed and refused[1].printed == ""
    assert not (tmp_path / "one").exists() and not (tmp_path / "other").exists()


def test_a_mistake_before_the_processes_meet_is_said_by_the_one_that_made_it(float64, tmp_path):
    """The main one would wait for the other, as launchers end all when one has failed."""
    missing = [*command(float64, tmp_path, tmp_path / "run"), "--device", "cuda:7"]
    waiting, other = launch([command(float64, tmp_path, tmp_path / "run"), missing], tmp_path)
    other.join(60)
    waiting.kill()
    printed = (tmp_path / "printed-1").read_text()
    assert other.exitcode == 2
    assert printed.startswith("circuit-lab: process 1 of 2: device 'cuda:7' is not available")


def test_training_that_diverges_ends_in_all_processes(float64, tmp_path):
    diverging = command(float64, tmp_path, tmp_path / "run", "optimizer.learning_rate=1e300")
    processes = ended(launch([diverging] * 2, tmp_path), tmp_path)
    assert [each.code for each in processes] == [2, 2]
    assert processes[0].printed.count("\n") == 1 and "training diverged" in processes[0].printed
    assert processes[1].printed == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "training"),
    [
        ("torch.distributed.run --nproc-per-node 2 --master-port PORT -m circuit_lab", {"compile": True}),
        ("accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port PORT --module circuit_lab", {}),
    ],
    ids=["torchrun", "accelerate"],
)
def test_launchers_start_it(float64, tmp_path, launcher, training):
    trained_by = command(with_tables(float64, {"training": training}), tmp_path, tmp_path / "run")
    arguments = [sys.executable, "-m", *launcher.replace("PORT", str(free_port())).split(), *trained_by]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count("Last checkpoint") == 1
    alone = [sys.executable, "-m", "circuit_lab", *trained_by, "--out", str(tmp_path / "one")]
    subprocess.run(alone, capture_output=True, timeout=120, check=True)
    assert_equal_up_to_rounding(tmp_path / "run", tmp_path / "one")
    small = ["--out", str(tmp_path / "small"), "--set", "training.batch_size=1"]
    refused = subprocess.run([*arguments, *small], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode != 0 and refused.stderr.count("circuit-lab: a batch of 1 items") == 1
    assert not (tmp_path / "small").exists()
