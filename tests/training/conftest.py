"""A recipe that trains in a second: six entities, one narrow block applied twice."""

import pytest

from circuit_lab.training import parse_recipe

TABLES = {
    "task": {
        "kind": "two_hop",
        "n_entities": 8,
        "n_relations": 5,
        "out_degree": 5,
        "ood_share": 0.3,
        "test_id_share": 0.1,
        "seed": 1,
    },
    "net": {
        "kind": "shared_transformer",
        "layer_map": [0, 0],
        "d_model": 12,
        "n_heads": 3,
        "d_mlp": 20,
        "init_std": 0.3,
    },
    "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.5, "warmup_steps": 7, "max_gradient_norm": 1.8},
    "training": {"n_steps": 40, "batch_size": 16, "seed": 5, "resume_every": 9},
    "evaluation": {"every": 10},
    "checkpoints": {"every": 15},
}


@pytest.fixture
def tables():
    """The recipe's tables, a fresh copy."""
    return {name: dict(table) for name, table in TABLES.items()}


@pytest.fixture
def recipe(tables):
    return parse_recipe(tables, source="a test")
