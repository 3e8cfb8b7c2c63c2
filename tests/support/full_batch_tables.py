"""Tables of a recipe that trains on all 20 pairs of a small modular task at once, but for its optimizer."""

FULL_BATCH = {
    "task": {"kind": "modular", "p": 7, "n_train": 20, "seed": 1},
    "net": {
        "kind": "shared_transformer",
        "layer_map": [0],
        "d_model": 12,
        "n_heads": 3,
        "d_mlp": 20,
        "act_fn": "relu",
        "normalization_type": "none",
        "attn_bias": False,
    },
    "training": {"n_steps": 40, "batch_size": "full", "loss_dtype": "float64", "resume_every": 9},
    "evaluation": {"every": 10},
    "checkpoints": {"every": 20},
}
