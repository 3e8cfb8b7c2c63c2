"""An implementation of its own, a position and a head at a time, and nets small enough for paper."""

import math

import pytest
import torch
from recursive_nets import RECURSIVE, kept_recursive_net, recursive_tokens

from circuit_lab.nets import RecursiveTransformerConfig, build_net


def normed(vector, eps):
    return vector / math.sqrt(sum(float(x) ** 2 for x in vector) / len(vector) + eps)


def swiglu(vector, mlp):
    gate, linear = mlp.W_gate.T @ vector, mlp.W_in.T @ vector
    return mlp.W_out.T @ (gate / (1 + torch.exp(-gate)) * linear)


def turned(vector, position, base):
    """Each coordinate of the first half is turned with its partner in the second."""
    half = len(vector) // 2
    out = vector.clone()
    for i in range(half):
        angle = position * base ** (-2 * i / len(vector))
        a, b = vector[i], vector[half + i]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[half + i] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attended(states, attn, cfg):
    outputs = [torch.zeros_like(state) for state in states]
    for head in range(cfg.n_heads):
        q, k, v = ([w[head].T @ state for state in states] for w in (attn.W_Q, attn.W_K, attn.W_V))
        if cfg.positions == "rotary":
            q, k = ([turned(x, position, cfg.rotary_base) for position, x in enumerate(xs)] for xs in (q, k))
        for position, query in enumerate(q):
            weights = [math.exp(float(query @ key) / math.sqrt(len(key))) for key in k]
            z = sum(weight / sum(weights) * value for weight, value in zip(weights, v, strict=True))
            outputs[position] = outputs[position] + attn.W_O[head].T @ z
    return outputs


def applied(states, block, cfg):
    """One block on the states of one row, a list over positions."""
    if cfg.token_mixing == "attention":
        mixed = attended(states, block.attn, cfg)
        mid = [normed(state + added, cfg.eps) for state, added in zip(states, mixed, strict=True)]
    else:
        channels = torch.stack(states).T
        mid = list(torch.stack([normed(channel + swiglu(channel, block.pos_mlp), cfg.eps) for channel in channels]).T)
    return [normed(state + swiglu(state, block.mlp), cfg.eps) for state in mid]


def naive_pass(net, tokens):
    """Every stream after every step, by label, and the logits, of one row."""
    cfg = net.cfg
    prefix = [] if net.embed.W_prefix is None else list(net.embed.W_prefix)
    x = [*prefix, *(net.W_E[token] for token in tokens.tolist())]
    if cfg.positions == "learned":
        x = [(state + net.pos_embed.W_pos[position]) / math.sqrt(2) for position, state in enumerate(x)]
    x = [math.sqrt(cfg.d_model) * state for state in x]
    z_L, z_H = [net.z_L_init] * len(x), [net.z_H_init] * len(x)
    seen = {"embed": torch.stack(x)}
    for h in range(cfg.h_cycles):
        for step in range(cfg.l_cycles + 1):
            is_commit = step == cfg.l_cycles
            states = [a + b if is_commit else a + b + c for a, b, c in zip(z_L, z_H, x, strict=True)]
            for block in range(cfg.n_blocks):
                states = applied(states, net.blocks[block], cfg)
            z_L, z_H = (z_L, states) if is_commit else (states, z_H)
            seen[f"H{h}.commit" if is_commit else f"H{h}.L{step}"] = torch.stack(states)
    return seen, torch.stack([net.W_U.T @ state for state in z_H[cfg.n_prefix :]])


@pytest.mark.parametrize("name", RECURSIVE)
@torch.no_grad()
def test_every_step_equals_the_naive_one(name):
    net, tokens = kept_recursive_net(name), recursive_tokens(2)
    logits, cache = net.run_with_cache(tokens)
    for row in range(2):
        seen, expected = naive_pass(net, tokens[row])
        assert list(seen) == [site.label for site in net.lens_sites]
        for site in net.lens_sites:
            torch.testing.assert_close(cache[site.hook_name][row], seen[site.label], rtol=0, atol=1e-10)
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-10)


def micro_net(**changes):
    """Two coordinates, every weight 0, streams that start at 0."""
    sizes = {"n_blocks": 1, "h_cycles": 1, "l_cycles": 1, "d_model": 2, "n_heads": 1, "d_vocab": 3, "n_ctx": 2}
    net = build_net(RecursiveTransformerConfig(**{**sizes, **changes}, eps=1e-20)).double().eval()
    with torch.no_grad():
        for weight in net.unique_state_dict().values():
            weight.zero_()
        net.W_E[1] = torch.tensor([3.0, 4.0])
        net.W_U.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 10.0]]))
    return net


def test_by_hand_without_mixing():
    """x = sqrt(2) (3, 4) has root mean square 5; norming it, also a second and a third time, gives sqrt(2) (.6, .8)."""
    expected = math.sqrt(2) * torch.tensor([0.6, 0.8, 8.6], dtype=torch.float64)
    torch.testing.assert_close(micro_net()(torch.tensor([[1, 1]]))[0, 1], expected)


def test_by_hand_both_streams_enter():
    """z_H starts at -x / 2 + (0, 1) and z_L at -x / 2, so z_L + z_H + x = (0, 1), normed (0, sqrt(2)).

    The commit adds z_H: (0, sqrt(2)) - (3, 4) / sqrt(2) + (0, 1), normed.
    """
    net = micro_net()
    x = math.sqrt(2) * torch.tensor([3.0, 4.0], dtype=torch.float64)
    net.z_L_init.copy_(-x / 2)
    net.z_H_init.copy_(-x / 2 + torch.tensor([0.0, 1.0]))
    _, cache = net.run_with_cache(torch.tensor([[1, 1]]))
    torch.testing.assert_close(cache["resid_post", 0][0, 0], torch.tensor([0.0, math.sqrt(2)], dtype=torch.float64))
    summed = torch.tensor([-3 / math.sqrt(2), math.sqrt(2) + 1 - 4 / math.sqrt(2)], dtype=torch.float64)
    torch.testing.assert_close(cache["resid_post", 1][0, 0], summed / summed.square().mean().sqrt())


def test_by_hand_swiglu():
    """Neuron 0 reads gate 1 * a, linear 2 * a and writes 3 to coordinate 1: silu(a) 2 a 3."""
    net = micro_net()
    mlp = net.blocks[0].mlp
    with torch.no_grad():
        mlp.W_gate[0, 0], mlp.W_in[0, 0], mlp.W_out[0, 1] = 1.0, 2.0, 3.0
        out = mlp(torch.tensor([[[0.5, 7.0]]], dtype=torch.float64))
    silu = 0.5 / (1 + math.exp(-0.5))
    torch.testing.assert_close(out[0, 0], torch.tensor([0.0, silu * 2 * 0.5 * 3], dtype=torch.float64))


def test_by_hand_position_mlp_norms_over_positions():
    """Two positions with tokens 1 and 0: coordinate 0 reads (3, 0) over positions, normed sqrt(2) (1, 0)."""
    net = micro_net(token_mixing="position_mlp", n_heads=0)
    _, cache = net.run_with_cache(torch.tensor([[1, 0]]))
    expected = math.sqrt(2) * torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cache["resid_mid", 0][0], expected)
