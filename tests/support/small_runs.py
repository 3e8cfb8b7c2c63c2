"""Runs that train in seconds, with many checkpoints."""

from pathlib import Path

from circuit_lab.training import parse_recipe, train

MODULAR = {
    "task": {"kind": "modular", "operation": "a+b", "p": 7, "train_share": 0.6, "seed": 1},
    "net": {
        "kind": "shared_transformer",
        "layer_map": [0],
        "d_model": 12,
        "n_heads": 3,
        "d_mlp": 20,
        "act_fn": "relu",
        "normalization_type": "none",
    },
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 1.0, "betas": [0.9, 0.98], "warmup_steps": 0},
    "training": {"n_steps": 40, "batch_size": "full", "loss_dtype": "float64"},
    "evaluation": {"every": 10},
    "checkpoints": {"every": 10},
}
FULL_BATCH = MODULAR | {
    "task": {"kind": "modular", "p": 7, "n_train": 20, "seed": 1},
    "net": MODULAR["net"] | {"attn_bias": False},
    "training": MODULAR["training"] | {"resume_every": 9},
    "checkpoints": {"every": 20},
}
"""The same on exactly 20 pairs, without biases in the attention."""
TWO_HOP = {
    "task": {
        "kind": "two_hop",
        "n_entities": 20,
        "n_relations": 8,
        "out_degree": 8,
        "ood_share": 0.34,
        "test_id_share": 0.15,
        "seed": 3,
    },
    "net": {"kind": "shared_transformer", "layer_map": [0, 0], "d_model": 12, "n_heads": 3, "d_mlp": 20},
    "training": {"n_steps": 40, "batch_size": 16},
    "evaluation": {"every": 20},
    "checkpoints": {"every": 20},
}


def train_run(tables: dict, run: Path, **changes) -> Path:
    """Train by the tables, some of them changed, each given as `table={key: value}`."""
    changed = {name: table | changes.get(name, {}) for name, table in tables.items()}
    return train(parse_recipe(changed, source="a test"), run, device="cpu", progress=False).run
