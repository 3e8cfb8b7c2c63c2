"""The average of the weights: by hand, in a run, in its checkpoints, and through an interruption."""

import pytest
import torch
from cut_runs import cut_at
from safetensors.torch import load_file
from torch import nn

from circuit_lab.tasks import build_task
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, split_scores, train
from circuit_lab.training.learner import Learner
from circuit_lab.training.weight_average import WeightAverage


@pytest.fixture
def averaging(tables):
    tables["training"]["ema_decay"] = 0.9
    return parse_recipe(tables, source="a test")


def test_by_hand():
    """Weight 1, then 3, then 5, with decay 3/4: 1, 1.5, 2.375."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
        average, seen = WeightAverage(net, decay=0.75), []
        for weight in (3.0, 5.0):
            net.weight.fill_(weight)
            average.update()
            seen.append(average.tensors["weight"].item())
    assert seen == [1.5, 2.375]
    with average.in_the_net():
        assert net.weight.item() == 2.375
    assert net.weight.item() == 5.0


def test_the_trained_weights_come_back_bit_by_bit_even_after_an_error():
    net = nn.Linear(7, 5)
    average, before = WeightAverage(net, decay=0.5), [weight.clone() for weight in net.parameters()]
    for tensor in average.tensors.values():
        tensor.add_(1.0)
    with pytest.raises(RuntimeError, match="inside"), average.in_the_net():
        assert not torch.equal(net.weight, before[0])
        raise RuntimeError("inside")
    assert all(torch.equal(weight, old) for weight, old in zip(net.parameters(), before, strict=True))


def test_checkpoints_and_metrics_are_of_the_average_and_the_state_holds_both(averaging, tmp_path):
    """Against a loop over the same steps that averages by the formula."""
    run = train(averaging, tmp_path / "run", progress=False, device="cpu")
    task = build_task(averaging.task)
    learner = Learner(averaging, task, torch.device("cpu"), None)
    mean = {name: weight.detach().clone() for name, weight in learner.net.named_parameters()}
    for step in range(40):
        learner.step(step)
        mean = {name: 0.9 * mean[name] + 0.1 * weight.detach() for name, weight in learner.net.named_parameters()}
    checkpoint, state = load_checkpoint(run.checkpoint), load_file(run.run / "resume.safetensors")
    for name, weight in checkpoint.net.named_parameters():
        assert torch.allclose(weight, mean[name], atol=1e-6), name
        assert torch.equal(weight, state[f"average/{name}"])
    trained = {name: state[f"weight/{name}"] for name in mean}
    assert all(torch.equal(weight, trained[name]) for name, weight in learner.net.named_parameters())
    assert max(float((trained[name] - mean[name]).abs().max()) for name in mean) > 1e-2, "the two must differ"
    last = read_metrics(run.run)[-1]
    scores = split_scores(checkpoint.net, task)
    assert {name: last[f"loss/{name}"] for name in scores} == {name: score.loss for name, score in scores.items()}
    norm = torch.stack([weight.square().sum() for weight in mean.values()]).sum().sqrt()
    assert last["weight_norm"] == pytest.approx(float(norm), rel=1e-5)
    assert last["weights"] == "averaged" and checkpoint.recipe["training"]["ema_decay"] == 0.9


def test_averaging_does_not_change_how_the_weights_are_trained(recipe, averaging, tmp_path):
    plain, averaged = (train(r, tmp_path / n, progress=False) for r, n in ((recipe, "plain"), (averaging, "averaged")))
    state = load_file(averaged.run / "resume.safetensors")
    assert read_metrics(plain.run)[-1]["weights"] == "trained"
    for name, weight in load_checkpoint(plain.checkpoint).net.named_parameters():
        assert torch.equal(weight, state[f"weight/{name}"]), name


@pytest.mark.parametrize("stop", [1, 13, 39])
def test_a_run_cut_off_anywhere_ends_with_the_same_bytes(averaging, tmp_path, stop):
    whole = train(averaging, tmp_path / "whole", progress=False)
    with cut_at(stop):
        train(averaging, tmp_path / "cut", progress=False)
    resumed = train(averaging, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == stop // 9 * 9
    for name in ("resume.safetensors", "metrics.jsonl", "checkpoints/step-00000040.safetensors"):
        assert (resumed.run / name).read_bytes() == (whole.run / name).read_bytes(), name


def test_a_state_without_its_average_is_refused(recipe, averaging, tmp_path):
    plain, averaged = (train(r, tmp_path / n, progress=False) for r, n in ((recipe, "plain"), (averaging, "averaged")))
    state = (plain.run / "resume.safetensors").read_bytes()
    (averaged.run / "resume.safetensors").write_bytes(state)
    with pytest.raises(ValueError, match=r"of another net: missing \['average/blocks.0.attn.W_K', .* unknown \[\]"):
        train(averaging, averaged.run, progress=False)


@pytest.mark.parametrize("decay", [1.0, -0.1, 1.5])
def test_a_decay_that_averages_nothing_is_refused(tables, decay):
    tables["training"]["ema_decay"] = decay
    with pytest.raises(ValueError, match=rf"training.ema_decay: .* \(got {decay}\)"):
        parse_recipe(tables, source="a test")
