"""The recipes of analyses/recipes: each net at each scale, alike where they should be, as published at paper scale."""

import json
from pathlib import Path

import pytest

from circuit_lab.tasks import build_task
from circuit_lab.training import load_recipe

FOLDER = Path(__file__).parents[2] / "analyses" / "recipes"
NETS, SCALES = ("universal", "shared", "standard", "recursive"), ("small", "medium", "paper")


def recipe(net, scale):
    return load_recipe(FOLDER / f"{net}-{scale}.toml")


def test_there_is_one_for_every_net_and_scale():
    expected = {f"{net}-{scale}.toml" for net in (*NETS, "modular") for scale in SCALES}
    assert {path.name for path in FOLDER.glob("*.toml")} == expected


@pytest.mark.parametrize("scale", SCALES)
def test_the_nets_of_a_scale_are_asked_the_same(scale):
    """The recursive net in answer slots beyond the small scale, as its authors ask it."""
    tasks = {net: recipe(net, scale).task.model_dump() for net in NETS}
    slots = tasks["recursive"].pop("answer_slots")
    assert (slots is None) == (scale == "small")
    assert [tasks[net].pop("answer_slots") for net in NETS[:-1]] == [None] * 3
    assert all(task == tasks["recursive"] for task in tasks.values())


@pytest.mark.parametrize("scale", SCALES)
def test_transformers_of_a_scale_differ_in_their_sharing_alone(scale):
    tables = {net: recipe(net, scale).model_dump() for net in NETS[:-1]}
    maps = {net: table["net"].pop("layer_map") for net, table in tables.items()}
    depth = len(maps["standard"])
    assert maps["standard"] == list(range(depth))
    assert maps["universal"] == [0] * depth
    assert maps["shared"] == list(range(depth // 2)) * 2
    for table in tables.values():
        table.pop("about")
    assert tables["universal"] == tables["shared"] == tables["standard"]


def test_the_slots_of_the_medium_scale_fit_its_vocabulary():
    task = build_task(recipe("recursive", "medium").task)
    assert (task.d_vocab, task.n_ctx) == (225, 5)
    assert int(task.training.answer_position.max()) == 3


def test_the_published_sizes():
    """[He] arXiv 2601.09049 and its released command; [Wang] arXiv 2405.15071: GPT-2's width, heads and depth."""
    net, transformer = recipe("recursive", "paper"), recipe("shared", "paper")
    task = net.task
    assert (task.n_entities, task.n_relations, task.out_degree, task.ood_share, task.phi) == (2000, 200, 20, 0.05, 18.0)
    config = net.net_config(d_vocab=2201, d_vocab_out=2201, n_ctx=5)
    assert (config.n_layers, config.d_mlp, config.n_positions) == (28, 4096, 21)
    assert (net.optimizer.betas, net.optimizer.weight_decay, net.optimizer.warmup_steps) == ((0.9, 0.95), 1.0, 2000)
    assert (net.training.loss, net.training.loss_dtype, net.training.ema_decay) == ("stablemax", "float64", 0.999)
    config = transformer.net_config(d_vocab=2201, d_vocab_out=2201, n_ctx=3)
    assert (config.n_layers, config.n_blocks, config.d_head, config.d_mlp) == (8, 4, 64, 3072)
    assert {each.training.batch_size for each in (net, transformer)} == {512}


def test_the_published_sizes_of_modular_arithmetic():
    """[Varma] arXiv 2309.02390; [Nanda] arXiv 2301.05217 for what that leaves open."""
    published, small = recipe("modular", "paper"), recipe("modular", "small")
    assert (published.task.operation, published.task.p) == ("a+b", 113)
    assert published.training.n_steps == 100_000
    for each, width in ((published, 128), (recipe("modular", "medium"), 128), (small, 64)):
        config = each.net_config(d_vocab=each.task.p + 1, d_vocab_out=each.task.p, n_ctx=3)
        assert (config.d_model, config.n_heads, config.d_mlp, config.n_layers) == (width, 4, 4 * width, 1)
        assert (config.act_fn, config.normalization_type, config.attn_bias) == ("relu", None, False)
        assert (each.optimizer.learning_rate, each.optimizer.weight_decay, each.optimizer.betas) == (
            1e-3,
            1,
            (0.9, 0.98),
        )
        assert (each.training.batch_size, each.training.loss_dtype) == ("full", "float64")


def test_the_cost_table_has_a_line_for_every_recipe():
    rows = json.loads((FOLDER / "cost.json").read_text())["recipes"]
    assert {row["recipe"] for row in rows} == {path.stem for path in FOLDER.glob("*.toml")}
    lines = [line for line in (FOLDER / "cost.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert [line.split()[1] for line in lines] == [row["recipe"] for row in rows]
    for row in rows:
        written = load_recipe(FOLDER / f"{row['recipe']}.toml").training
        size = row["n_items"] if written.batch_size == "full" else written.batch_size
        assert (row["n_steps"], row["batch_size"]) == (written.n_steps, size)
