"""Faster arithmetic: what it changes and what not, and what is refused on which device."""

import json
import subprocess
import sys

import pytest
import tomli_w
import torch
from small_runs import FULL_BATCH

from circuit_lab.tasks import build_task
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, train
from circuit_lab.training.acceleration import check_acceleration, matmul_precision
from circuit_lab.training.learner import Learner

GPU = torch.device("cuda:0")
RECURSIVE_NET = {
    "kind": "recursive_transformer",
    "n_blocks": 1,
    "h_cycles": 2,
    "l_cycles": 1,
    "d_model": 12,
    "n_heads": 3,
    "positions": "learned",
}


def training_recipe(tables, **training):
    return parse_recipe(tables | {"training": tables["training"] | training}, source="a test").training


def first_gradients(tables, precision):
    """Gradients of the first step, by name, without clipping."""
    training = {**tables["training"], "precision": precision}
    optimizer = {**tables["optimizer"], "max_gradient_norm": 0.0}
    recipe = parse_recipe(tables | {"training": training, "optimizer": optimizer}, source="a test")
    learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    loss = learner.step(0)
    return float(loss), learner.optimizer.by_name([vector.grad for vector in learner.optimizer.vectors])


@pytest.mark.parametrize("net", ["shared", "recursive"])
def test_bf16_has_gradients_near_those_of_float32(tables, net):
    """bfloat16 keeps 8 bits: 0.4 % a product, a few per cent after some layers."""
    if net == "recursive":
        tables["net"] = RECURSIVE_NET
    (loss, exact), (short_loss, short) = (first_gradients(tables, precision) for precision in ("float32", "bf16"))
    assert short_loss == pytest.approx(loss, rel=0.02) and short_loss != loss
    for name, gradient in exact.items():
        if name.endswith("b_K"):
            continue  # it shifts all scores of a query alike: its gradient is rounding noise
        assert short[name].dtype == torch.float32
        assert float((short[name] - gradient).norm() / gradient.norm()) < 0.06, name


def test_a_bf16_run_ends_near_the_float32_run_and_is_evaluated_in_float32(tables, tmp_path):
    losses = {}
    for precision in ("float32", "bf16"):
        tables["training"]["precision"] = precision
        run = train(parse_recipe(tables, source="a test"), tmp_path / precision, progress=False, device="cpu")
        losses[precision] = [record["loss/training"] for record in read_metrics(run.run)]
        # Loading compares the logits with those saved to 1e-4, which bfloat16 would not reach.
        assert load_checkpoint(run.checkpoint).net.dtype == torch.float32
    assert losses["bf16"][0] == losses["float32"][0]
    assert losses["bf16"][-1] == pytest.approx(losses["float32"][-1], rel=0.01)
    assert losses["bf16"][-1] != losses["float32"][-1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "tf32"},
            r'precision = "tf32" needs an NVIDIA GPU from the Ampere generation on, but the device',
        ),
        (
            {"compile": True, "cuda_graphs": True},
            r"cuda_graphs = true needs an NVIDIA GPU, but the device is cpu; set ",
        ),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_before_anything_is_written(tables, tmp_path, settings, message):
    tables["training"] |= settings
    with pytest.raises(ValueError, match=message):
        train(parse_recipe(tables, source="a test"), tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_a_gpu_can_do_depends_on_its_generation(tables, monkeypatch):
    tf32 = training_recipe(tables, precision="tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(ValueError, match='from the Ampere generation on, but the device is cuda:0; set .*"float32"'):
        check_acceleration(tf32, GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    check_acceleration(tf32, GPU)
    bf16 = training_recipe(tables, precision="bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(ValueError, match="an NVIDIA GPU that has bfloat16, but the device is cuda:0"):
        check_acceleration(bf16, GPU)
    with pytest.raises(ValueError, match="needs a CPU, or .* but the device is mps"):
        check_acceleration(bf16, torch.device("mps"))


def test_a_missing_compiler_is_named(tables, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs the C\+\+ compiler no-such-compiler .*, which is not installed"):
        check_acceleration(training_recipe(tables, compile=True), torch.device("cpu"))
    check_acceleration(training_recipe(tables), torch.device("cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "bf16", "dtype": "float64"},
            'precision = "bf16" shortens float32 numbers, but training.dtype =',
        ),
        ({"cuda_graphs": True}, "cuda_graphs = true replays the compiled step, but training.compile = false"),
        ({"precision": "fp16"}, r"training.precision: Input should be 'float32', 'tf32' or 'bf16' \(got 'fp16'\)"),
        ({"compile": 1}, r"training.compile: Input should be a valid boolean \(got 1\)"),
    ],
)
def test_settings_that_contradict_each_other_are_named(tables, settings, message):
    with pytest.raises(ValueError, match=message):
        training_recipe(tables, **settings)


def test_tf32_is_switched_on_for_the_step_alone(tables):
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="inside"), matmul_precision(training_recipe(tables, precision="tf32")):
        assert torch.get_float32_matmul_precision() == "high"
        raise RuntimeError("inside")
    with matmul_precision(training_recipe(tables)):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before == "highest"


COMPARE = """
import json, sys
import torch
from circuit_lab.training import load_checkpoint, load_recipe, train
folder, weights = sys.argv[1], {}
for name, setting in (("plain", "false"), ("compiled", "true"), ("again", "true")):
    recipe = load_recipe(f"{folder}/recipe.toml", [f"training.compile={setting}"])
    if name == "again":  # cut in the middle, and continued by a new learner
        steps = recipe.training.n_steps
        half = recipe.training.model_copy(update={"n_steps": steps // 2})
        train(recipe.model_copy(update={"training": half}), f"{folder}/{name}", device="cpu", progress=False)
    run = train(recipe, f"{folder}/{name}", device="cpu", progress=False)
    weights[name] = load_checkpoint(run.checkpoint).net.unique_state_dict()
def furthest(a, b):
    return max(float((weights[a][n] - weights[b][n]).abs().max()) for n in weights[a] if not n.endswith("b_K"))
print(json.dumps([furthest("plain", "compiled"), furthest("compiled", "again")]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("net", ["shared", "recursive", "full batch"])
def test_a_compiled_run_takes_the_same_steps_and_resumes_bit_by_bit(tables, tmp_path, net):
    """In a process of its own, for there the types of arguments are not checked, which cannot be compiled."""
    if net == "recursive":
        tables["net"] = RECURSIVE_NET
    if net == "full batch":
        tables = FULL_BATCH
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tables))
    command = [sys.executable, "-c", COMPARE, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    from_plain, after_resuming = json.loads(printed.splitlines()[-1])
    assert from_plain < 1e-5
    assert after_resuming == 0.0
