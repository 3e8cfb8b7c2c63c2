"""Checkpoints streamed through one net: the same as each loaded alone, with the same checks."""

import shutil

import pytest
import torch
from changed_checkpoints import rewrite
from small_runs import MODULAR, train_run

from circuit_lab.errors import InputError
from circuit_lab.tasks import build_task
from circuit_lab.training import (
    checkpoint_path,
    load_checkpoint,
    reference_model,
    run_checkpoints,
    save_checkpoint,
    stream_checkpoints,
)
from circuit_lab.training.run_folder import CHECKPOINTS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_run(MODULAR, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_the_stream_is_what_each_file_holds_in_order_of_step(run):
    for checkpoint, step in zip(stream_checkpoints(run), (10, 20, 30, 40), strict=True):
        alone = load_checkpoint(checkpoint_path(run, step))
        assert (checkpoint.step, checkpoint.path, checkpoint.weights_hash) == (step, alone.path, alone.weights_hash)
        assert (checkpoint.metrics, checkpoint.recipe) == (alone.metrics, alone.recipe)
        assert checkpoint.task.certificate == alone.task.certificate
        for name, weight in alone.net.unique_state_dict().items():
            assert torch.equal(checkpoint.net.unique_state_dict()[name], weight)
        assert not checkpoint.net.training


def test_one_net_and_one_task_carry_all(run):
    stream = stream_checkpoints(run)
    first = next(stream)
    before = first.net.embed.W_E.detach().clone()
    second = next(stream)
    assert second.net is first.net and second.task is first.task
    assert not torch.equal(first.net.embed.W_E, before)  # as the docstring warns
    first.net.train()
    assert not next(stream).net.training


def test_steps_are_ordered_as_numbers(run):
    loaded = load_checkpoint(checkpoint_path(run, 40))
    late = checkpoint_path(run, 123_456_789)
    save_checkpoint(late, net=loaded.net, task=loaded.task, step=123_456_789, metrics={})
    assert [c.step for c in stream_checkpoints(run)] == [10, 20, 30, 40, 123_456_789]
    (run / CHECKPOINTS / "step-00000050.safetensors.partial").write_bytes(b"a save that was killed")
    assert run_checkpoints(run)[-1] == late and len(run_checkpoints(run)) == 5


def test_a_damaged_checkpoint_is_named_when_its_turn_comes(run):
    path = checkpoint_path(run, 20)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # the last tensor's last number
    path.write_bytes(content)
    stream = stream_checkpoints(run)
    assert next(stream).step == 10
    with pytest.raises(
        ValueError, match="step-00000020.safetensors is damaged: its content is not what it was saved with"
    ):
        next(stream)


def test_a_checkpoint_of_another_run_is_refused(run):
    other = reference_model("modular-memorising")
    path = save_checkpoint(checkpoint_path(run, 25), net=other.net, task=other.task, step=25, metrics={})
    with pytest.raises(ValueError, match=r"step-00000025.* not of the same run as .*its net is another \(.*d_model"):
        list(stream_checkpoints(run))
    path.unlink()
    moved = checkpoint_path(run, 10).rename(checkpoint_path(run, 35))
    with pytest.raises(ValueError, match="is of step 10: its name is another step's; rename it to step-00000010"):
        list(stream_checkpoints(run))
    moved.unlink()


def test_a_checkpoint_of_the_same_net_on_another_task_is_refused(run):
    mine = load_checkpoint(checkpoint_path(run, 10))
    other = build_task(mine.task.config.model_copy(update={"seed": 99}))
    save_checkpoint(checkpoint_path(run, 25), net=mine.net, task=other, step=25, metrics={})
    with pytest.raises(InputError, match=r"step-00000025.* not of the same run as .*its task is another \(seed\)"):
        list(stream_checkpoints(run))


def test_a_run_that_an_older_version_began_is_one_run(run):
    """It wrote fewer of the task's settings; its data, which the hash tells, are the same."""

    def forget_later_settings(record):
        for name in ("split", "train_pairs"):
            del record["task"][name]

    rewrite(checkpoint_path(run, 10), forget_later_settings)
    assert [checkpoint.step for checkpoint in stream_checkpoints(run)] == [10, 20, 30, 40]


def test_what_is_no_run_folder(run, tmp_path):
    with pytest.raises(ValueError, match="is no run folder: nothing is there"):
        run_checkpoints(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no run folder: it is a file"):
        run_checkpoints(checkpoint_path(run, 10))
    with pytest.raises(ValueError, match="is no run folder: it has no checkpoints/"):
        next(stream_checkpoints(tmp_path))
    with pytest.raises(ValueError, match="device 'tpu' is not available"):
        next(stream_checkpoints(run, device="tpu"))
    for path in run_checkpoints(run):
        path.unlink()
    with pytest.raises(ValueError, match="has no checkpoint yet; train it further"):
        next(stream_checkpoints(run))
