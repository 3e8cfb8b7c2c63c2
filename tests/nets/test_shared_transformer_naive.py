"""Against a second implementation: one position, one head, one neuron layer at a time, straight from the weights."""

import math

import pytest
import torch

ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def naive_norm(weights, name, x, cfg):
    if cfg.normalization_type is None:
        return x
    if cfg.normalization_type == "LN":
        x = x - x.sum() / len(x)
    x = x / math.sqrt(float((x * x).sum() / len(x)) + cfg.eps) * weights[f"{name}.w"]
    return x + weights[f"{name}.b"] if cfg.normalization_type == "LN" else x


def naive_attention(weights, prefix, states, cfg):
    """What attention writes at each position, looping over queries, heads and keys."""
    bias = {name: weights.get(f"{prefix}.b_{name}", torch.zeros(())) for name in "QKVO"}
    outputs = []
    for i in range(len(states)):
        output = bias["O"].clone() if cfg.attn_bias else torch.zeros(cfg.d_model, dtype=torch.float64)
        visible = range(i + 1) if cfg.attention_dir == "causal" else range(len(states))
        for head in range(cfg.n_heads):
            q, k, v = (
                lambda x, name=name, head=head: (
                    x @ weights[f"{prefix}.W_{name}"][head] + (bias[name][head] if cfg.attn_bias else 0)
                )
                for name in "QKV"
            )
            exponentials = [math.exp(float(q(states[i]) @ k(states[j])) / math.sqrt(cfg.d_head)) for j in visible]
            for j, exponential in zip(visible, exponentials, strict=True):
                share = exponential / sum(exponentials)
                output = output + share * v(states[j]) @ weights[f"{prefix}.W_O"][head]
        outputs.append(output)
    return outputs


def naive_logits(net, tokens):
    weights, cfg = net.state_dict(), net.cfg
    rows = []
    for row in tokens.tolist():
        states = [weights["embed.W_E"][t] + weights["pos_embed.W_pos"][i] for i, t in enumerate(row)]
        for layer in range(cfg.n_layers):
            states = naive_block(weights, f"blocks.{layer}", states, cfg)
        if cfg.final_norm:
            states = [naive_norm(weights, "ln_final", x, cfg) for x in states]
        rows.append(torch.stack([x @ weights["unembed.W_U"] for x in states]) + weights.get("unembed.b_U", 0))
    return torch.stack(rows)


def naive_block(weights, prefix, states, cfg):
    is_pre = cfg.norm_position == "pre"
    read = [naive_norm(weights, f"{prefix}.ln1", x, cfg) if is_pre else x for x in states]
    states = [x + out for x, out in zip(states, naive_attention(weights, f"{prefix}.attn", read, cfg), strict=True)]
    if not is_pre:
        states = [naive_norm(weights, f"{prefix}.ln1", x, cfg) for x in states]
    written = []
    for x in states:
        read = naive_norm(weights, f"{prefix}.ln2", x, cfg) if is_pre else x
        neurons = read @ weights[f"{prefix}.mlp.W_in"] + weights.get(f"{prefix}.mlp.b_in", 0)
        hidden = ACTIVATIONS[cfg.act_fn](neurons)
        written.append(x + hidden @ weights[f"{prefix}.mlp.W_out"] + weights.get(f"{prefix}.mlp.b_out", 0))
    return written if is_pre else [naive_norm(weights, f"{prefix}.ln2", x, cfg) for x in written]


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
@pytest.mark.parametrize(
    "settings",
    [
        {"normalization_type": "LN", "unembed_bias": True},
        {"normalization_type": "LN", "norm_position": "post", "act_fn": "silu"},
        {"normalization_type": "LN", "final_norm": False, "eps": 0.1},
        {"normalization_type": "RMS", "act_fn": "gelu_new", "attn_bias": False},
        {"normalization_type": "RMS", "norm_position": "post", "final_norm": False, "mlp_bias": False},
        {"normalization_type": None, "act_fn": "relu", "attn_bias": False, "mlp_bias": False},
    ],
    ids=str,
)
def test_logits_equal_the_loops(make_net, tokens, attention_dir, settings):
    net = make_net(attention_dir=attention_dir, **settings)
    torch.testing.assert_close(net(tokens[:2]), naive_logits(net, tokens[:2]), rtol=0, atol=1e-12)


def test_fewer_positions_than_n_ctx(make_net, tokens):
    net = make_net(attention_dir="bidirectional")
    torch.testing.assert_close(net(tokens[:2, :3]), naive_logits(net, tokens[:2, :3]), rtol=0, atol=1e-12)
