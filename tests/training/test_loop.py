"""The loop: against a naive loop, which weights decay, exact resumption, folders and signals."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w
import torch
from cut_runs import cut_at
from torch.nn import functional as F

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import (
    TrainingInterrupted,
    load_checkpoint,
    parse_recipe,
    read_metrics,
    split_scores,
    train,
)
from circuit_lab.training.batches import STEPS_PER_CHUNK, BatchStream
from circuit_lab.training.learner import Learner
from circuit_lab.training.optimizer import FlatAdamW
from circuit_lab.training.recipe import OptimizerRecipe


def weights(run):
    return load_checkpoint(sorted((run / "checkpoints").iterdir())[-1]).net.unique_state_dict()


def test_equals_a_naive_loop(recipe, tmp_path):
    """The same batches, plain logits at every position, and AdamW written out (Loshchilov and Hutter, algorithm 2)."""
    result = train(recipe, tmp_path / "run", progress=False)
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx))
    stream = BatchStream(seed=5, n_items=len(task.training), batch_size=16)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in net.named_parameters()}
    clipped = []
    for step in range(40):
        batch = task.training[stream.rows(step)]
        logits = net(batch.tokens)[torch.arange(16), batch.answer_position]
        gradients = torch.autograd.grad(F.cross_entropy(logits, batch.answer), list(net.parameters()))
        norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
        clipped.append(bool(norm > 1.8))
        gradients = [g * min(1.0, 1.8 / float(norm)) for g in gradients]
        rate = 3e-3 * min(1.0, (step + 1) / 7)
        with torch.no_grad():
            for (name, p), gradient in zip(net.named_parameters(), gradients, strict=True):
                first, second = moments[name]
                if name.split(".")[-1].startswith("W"):
                    p.mul_(1 - rate * 0.5)
                first.mul_(0.9).add_(gradient, alpha=0.1)
                second.mul_(0.999).add_(gradient**2, alpha=0.001)
                scale = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                p.sub_(rate * first / (1 - 0.9 ** (step + 1)) / scale)
    for name, weight in load_checkpoint(result.checkpoint).net.unique_state_dict().items():
        if name.endswith("b_K"):
            continue  # it shifts all scores of a query alike: its gradient is rounding noise, which Adam scales up
        assert torch.allclose(weight, dict(net.named_parameters())[name], atol=2e-5), name
    assert set(clipped) == {True, False}, "both kinds of step must have been seen"


def test_one_step_of_decay_by_hand(recipe):
    """With no gradient a step multiplies matrices by 1 - rate x decay = .95 and leaves biases and norm scales."""
    net = build_net(recipe.net_config(d_vocab=5, d_vocab_out=5, n_ctx=3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(4.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer = FlatAdamW(net, OptimizerRecipe(weight_decay=0.5))
    optimizer.gather_gradients()
    optimizer.step(0.1)
    after = {name: float(parameter.detach().unique()) for name, parameter in net.named_parameters()}
    assert after.pop("embed.W_E") == pytest.approx(3.8)
    assert {after[f"blocks.0.{name}"] for name in ("attn.b_Q", "attn.b_O", "mlp.b_in", "ln1.w", "ln1.b")} == {4.0}
    decayed = {name.rpartition(".")[2] for name, value in after.items() if value == pytest.approx(3.8)}
    assert decayed == {"W_pos", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_U"}


def test_batches_depend_on_seed_and_step_alone():
    step = STEPS_PER_CHUNK + 3
    direct = BatchStream(seed=1, n_items=50, batch_size=8).rows(step)
    walked = BatchStream(seed=1, n_items=50, batch_size=8)
    in_order = [walked.rows(i) for i in range(step + 1)]
    assert torch.equal(direct, in_order[-1])
    assert not torch.equal(direct, BatchStream(seed=2, n_items=50, batch_size=8).rows(step))
    counts = torch.bincount(torch.cat(in_order), minlength=50)
    assert counts.min() > 0 and counts.max() < 2.2 * counts.float().mean()
    # Pinned: numpy guarantees this stream, and checkpoints already trained rest on it.
    assert BatchStream(seed=0, n_items=1000, batch_size=4).rows(0).tolist() == PINNED_ROWS


PINNED_ROWS = [271, 617, 24, 533]


@pytest.mark.parametrize("stop", [1, 9, 13, 39])
def test_resuming_after_any_save_ends_with_the_same_bytes(recipe, tables, tmp_path, stop):
    whole = train(recipe, tmp_path / "whole", progress=False)
    with cut_at(stop):
        train(recipe, tmp_path / "cut", progress=False)
    resumed = train(recipe, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == stop // 9 * 9
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(tables, tmp_path):
    """SIGKILL at a random moment, again and again until the run ends; then compare with an uninterrupted run."""
    seed = time.time_ns() % 10**6
    rng = random.Random(seed)
    tables["training"] |= {"n_steps": 1500, "resume_every": 50}
    tables["evaluation"], tables["checkpoints"] = {"every": 100}, {"every": 500}
    (tmp_path / "r.toml").write_text(tomli_w.dumps(tables))
    code = (
        "import sys; from circuit_lab.training import *\n"
        "print('loaded', flush=True); train(load_recipe(sys.argv[1]), sys.argv[2], progress=False)"
    )
    n_killed = 0
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "r.toml"), str(tmp_path / "cut")], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.2, 1.2))
        process.kill()
        n_killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert n_killed >= 1, f"seed {seed}"
    recipe = parse_recipe(tables, source="a test")
    resumed = train(recipe, tmp_path / "cut", progress=False)
    whole = train(recipe, tmp_path / "whole", progress=False)
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes(), f"seed {seed}"
    assert read_metrics(tmp_path / "cut") == read_metrics(tmp_path / "whole"), f"seed {seed}"


def test_a_signal_saves_first(recipe, tmp_path, monkeypatch):
    real, handler_before = Learner.step, signal.getsignal(signal.SIGINT)

    def step_then_signal(self, step):
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, step)

    monkeypatch.setattr(Learner, "step", step_then_signal)
    with pytest.raises(TrainingInterrupted, match="stopped at step 13; saved in .*the same command continues it"):
        train(recipe, tmp_path / "run", progress=False)
    monkeypatch.undo()
    assert train(recipe, tmp_path / "run", progress=False).resumed_at == 13
    assert signal.getsignal(signal.SIGINT) is handler_before


def test_an_interruption_comes_back_from_another_process():
    stop = pickle.loads(pickle.dumps(TrainingInterrupted(Path("a/run"), 13, signal.SIGTERM)))
    assert (stop.run, stop.step, stop.signal_number) == (Path("a/run"), 13, signal.SIGTERM)
    assert str(stop) == "stopped at step 13; saved in a/run; the same command continues it"


def test_a_finished_run_is_left_alone_and_can_be_prolonged(recipe, tables, tmp_path):
    first = train(recipe, tmp_path / "run", progress=False)
    before = first.checkpoint.read_bytes()
    assert train(recipe, tmp_path / "run", progress=False).resumed_at == 40
    assert first.checkpoint.read_bytes() == before
    tables["training"]["n_steps"] = 50
    longer = train(parse_recipe(tables, source="a test"), tmp_path / "run", progress=False)
    assert (longer.resumed_at, longer.checkpoint.name) == (40, "step-00000050.safetensors")


def test_other_folders_are_refused(recipe, tables, tmp_path):
    train(recipe, tmp_path / "run", progress=False)
    tables["optimizer"]["learning_rate"] = 1e-3
    with pytest.raises(ValueError, match=r"another recipe: optimizer.learning_rate was 0.003 and is 0.001"):
        train(parse_recipe(tables, source="a test"), tmp_path / "run", progress=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds other files \(such as todo.txt\) and no run.toml"):
        train(recipe, tmp_path / "notes", progress=False)
    with pytest.raises(ValueError, match="it is a file"):
        train(recipe, tmp_path / "notes" / "todo.txt", progress=False)
    assert sorted(p.name for p in (tmp_path / "notes").iterdir()) == ["todo.txt"]


def test_a_device_that_is_not_there(recipe, tmp_path):
    with pytest.raises(ValueError, match="device 'tpu' is not available; this machine has: auto, "):
        train(recipe, tmp_path / "run", device="tpu", progress=False)


def test_metrics_and_scores(recipe, tmp_path):
    result = train(recipe, tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 15, 20, 30, 40]
    checkpoint = load_checkpoint(result.checkpoint)
    scores = split_scores(checkpoint.net, checkpoint.task, batch_size=7)
    for name, queries in checkpoint.task.splits.items():
        logits = checkpoint.net(queries.tokens)[torch.arange(len(queries)), queries.answer_position]
        right = float((logits.argmax(-1) == queries.answer).float().mean())
        assert scores[name].accuracy == pytest.approx(right) == pytest.approx(lines[-1][f"accuracy/{name}"])
        assert scores[name].loss == pytest.approx(F.cross_entropy(logits, queries.answer).item(), rel=1e-5)


@pytest.mark.slow
def test_it_learns(tables, tmp_path):
    """Sixty times more steps bring the loss on the training items well below its start."""
    tables["training"] |= {"n_steps": 1200, "resume_every": 500}
    tables["evaluation"] = {"every": 600}
    tables["checkpoints"] = {"every": 1200}
    train(parse_recipe(tables, source="a test"), tmp_path / "run", progress=False)
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["loss/training"] < 0.6 * lines[0]["loss/training"]
    assert lines[-1]["accuracy/training"] > 3 * lines[0]["accuracy/training"]


def test_float64_and_scores_leave_the_random_state_alone(tables, tmp_path):
    tables["training"]["dtype"] = "float64"
    before = torch.get_rng_state()
    result = train(parse_recipe(tables, source="a test"), tmp_path / "run", progress=False)
    assert {w.dtype for w in weights(result.run).values()} == {torch.float64}
    assert torch.equal(before, torch.get_rng_state())
