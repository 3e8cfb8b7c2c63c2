"""Damaged resume states: every one is refused, with what is wrong with it."""

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import MODULAR, train_run

from circuit_lab.errors import InputError
from circuit_lab.training import load_checkpoint, parse_recipe, train
from circuit_lab.training.checkpoint import METADATA_KEY, read_tensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run's folder and its recipe, and what its resume file holds; tests put the file back."""
    run = train_run(MODULAR, tmp_path_factory.mktemp("saved") / "run")
    recipe = parse_recipe(MODULAR, source="a test")
    return run, recipe, (run / "resume.safetensors").read_bytes()


def resume(saved, content):
    run, recipe, _ = saved
    (run / "resume.safetensors").write_bytes(content)
    return train(recipe, run, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "its JSON: Invalid JSON"),
        ("[1]", "its JSON: Input should be an object"),
        ("{}", "its step: Field required"),
        ('{"step": -1}', "its step: Input should be greater than or equal to 1"),
        ('{"step": 40}', "its state_hash: Field required"),
        ('{"step": 0}', "its step: Input should be greater than or equal to 1"),
        ('{"step": NaN}', "resume.safetensors is damaged: its "),
        ('{"step": 1.5}', "its step: Input should be a valid integer"),
        ('{"step": "40"}', "its step: Input should be a valid integer"),
        ('{"step": true}', "its step: Input should be a valid integer"),
        ('{"step": 41, "state_hash": "0"}', "resume.safetensors is of step 41, but the run has 40 steps"),
        ('{"step": 1e400}', "resume.safetensors is damaged: its "),
        ('{"step": 40, "state_hash": "0", "colour": 1}', "its colour: Extra inputs are not permitted"),
        ('{"step": 40, "state_hash": "0"}', "its content is not what was saved; delete it to train this run"),
        ("[" * 50_000, "its JSON: Invalid JSON"),
    ],
)
def test_wrong_metadata_of_a_resume_state(saved, tmp_path, metadata, message):
    path = tmp_path / "original.safetensors"
    path.write_bytes(saved[2])
    changed = safetensors.torch.save(read_tensors(path)[1], {METADATA_KEY: metadata})
    with pytest.raises(InputError, match=message) as error:
        resume(saved, changed)
    assert "\n" not in str(error.value)


@given(st.data())
def test_no_flipped_bit_of_a_resume_state_is_trained_on(saved, data):
    content = bytearray(saved[2])
    place = data.draw(st.one_of(st.integers(0, 2500), st.integers(0, len(content) - 1)))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        resume(saved, bytes(content))
    except InputError as error:
        assert "\n" not in str(error)
        return
    # Spaces of the header may change; what is loaded may not.
    parsed = read_tensors(saved[0] / "resume.safetensors")
    (saved[0] / "resume.safetensors").write_bytes(saved[2])
    before = read_tensors(saved[0] / "resume.safetensors")
    assert parsed[0] == before[0]
    assert all(torch.equal(parsed[1][name], before[1][name]) for name in before[1])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 200, -1])
def test_a_truncated_resume_state(saved, length):
    with pytest.raises(InputError, match=r"resume.safetensors"):
        resume(saved, saved[2][:length])


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
            r"exp_avg/unembed.W_U must be \[12, 7\] torch.float32, got \[3\] torch.float32; delete it",
        ),
        (
            lambda t: t.update({"exp_avg_sq/unembed.W_U": t["exp_avg_sq/unembed.W_U"].double()}),
            r"exp_avg_sq/unembed.W_U must be \[12, 7\] torch.float32, got \[12, 7\] torch.float64",
        ),
    ],
)
def test_a_state_of_another_net_is_refused(saved, tmp_path, change, message):
    path = tmp_path / "original.safetensors"
    path.write_bytes(saved[2])
    metadata, tensors = read_tensors(path)
    change(tensors)
    with pytest.raises(InputError, match=message):
        resume(saved, safetensors.torch.save(tensors, metadata))


def test_without_its_state_a_run_starts_again(saved):
    run, recipe, content = saved
    (run / "resume.safetensors").unlink()
    assert train(recipe, run, device="cpu", progress=False).resumed_at == 0
    assert (run / "resume.safetensors").read_bytes() == content


def test_foreign_resume_states_are_refused(saved):
    with pytest.raises(InputError, match=f"is no resume state: its metadata has no key '{METADATA_KEY}'"):
        resume(saved, safetensors.torch.save({"w": torch.ones(2)}))
    assert load_checkpoint(saved[0] / "checkpoints" / "step-00000040.safetensors").step == 40
