"""Small nets whose sizes all differ and whose every parameter is random and non-zero."""

from collections.abc import Callable

import torch

from circuit_lab.nets import HookedSharedTransformer, SharedTransformerConfig, build_net

SIZES = {
    "layer_map": (0, 1, 0),
    "d_model": 12,
    "n_heads": 3,
    "d_head": 5,
    "d_mlp": 20,
    "d_vocab": 17,
    "d_vocab_out": 13,
    "n_ctx": 4,
}


def make_config(**changes) -> SharedTransformerConfig:
    return SharedTransformerConfig(**{**SIZES, **changes})


def make_net(*, seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> HookedSharedTransformer:
    """A net in eval mode with random biases and norm weights too, the latter around 1."""
    net = build_net(make_config(**changes)).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
            if name.endswith(".w"):
                parameter.add_(1.0)
    return net


def make_tokens(n: int = 6, *, seed: int = 1, n_ctx: int = 4, d_vocab: int = 17) -> torch.Tensor:
    return torch.randint(d_vocab, (n, n_ctx), generator=torch.Generator().manual_seed(seed))


def gradients_through(net: HookedSharedTransformer, logits_of: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """The gradient of every parameter when the log-probability of output 2, summed over the logits' rows, is wanted."""
    net.zero_grad()
    logits_of().log_softmax(-1)[:, 2].sum().backward()
    return [parameter.grad.clone() for parameter in net.parameters()]


VARIANTS = {
    "causal LN, cycle": {"unembed_bias": True},
    "bidirectional RMS, universal": {
        "attention_dir": "bidirectional",
        "normalization_type": "RMS",
        "layer_map": (0, 0, 0),
        "d_vocab_out": 17,
    },
    "causal without norms or biases": {
        "normalization_type": None,
        "attn_bias": False,
        "mlp_bias": False,
        "act_fn": "relu",
        "layer_map": (0, 1),
    },
}


def capture(net, tokens, *names):
    """Activations by hooks of our own."""
    seen = {}

    def keep(activation, hook):
        seen[hook.name] = activation.detach().clone()

    with torch.no_grad(), net.hooks(fwd_hooks=[(name, keep) for name in names]):
        net(tokens)
    return seen


def streams(net, tokens):
    """The residual stream before and after each half layer, in order, with TransformerLens's labels."""
    names = {}
    for layer in range(net.cfg.n_layers):
        names[f"{layer}_pre"] = f"blocks.{layer}.hook_resid_pre"
        names[f"{layer}_mid"] = f"blocks.{layer}.hook_resid_mid"
    names["final_post"] = f"blocks.{net.cfg.n_layers - 1}.hook_resid_post"
    seen = capture(net, tokens, *names.values())
    return {label: seen[name] for label, name in names.items()}


def final_normed(net, state, scale_of):
    """What the unembedding's direct path sees of `state`, centred and divided by the scale of `scale_of`."""
    if net.cfg.normalization_type is None:
        return state
    if net.cfg.normalization_type == "LN":
        state, scale_of = (x - x.mean(-1, keepdim=True) for x in (state, scale_of))
    return state / (scale_of.square().mean(-1, keepdim=True) + net.cfg.eps).sqrt() * net.ln_final.w


def constant_logits(net):
    """The part of the logits that no component writes."""
    return net.b_U + (net.ln_final.b @ net.W_U if net.cfg.normalization_type == "LN" else 0)


def metric(logits):
    return logits[:, -1, 3].mean() - logits[:, -1, 6].mean()


NORM_VARIANTS = {
    "causal, cycle": {},
    "bidirectional RMS, universal": {
        "attention_dir": "bidirectional",
        "normalization_type": "RMS",
        "layer_map": (0, 0, 0),
    },
    "post-norm": {"norm_position": "post"},
    "without norms": {"normalization_type": None, "layer_map": (0, 1)},
}
"""One net of each place and kind of norm."""

ONE_WIDE = {
    "layer_map": (0,),
    "d_model": 1,
    "n_heads": 1,
    "d_head": 1,
    "d_vocab": 2,
    "d_vocab_out": 2,
    "n_ctx": 1,
    "normalization_type": None,
    "act_fn": "relu",
    "attn_bias": False,
    "mlp_bias": False,
}
"""One position and one number wide, so that a result can be worked out by hand; give `d_mlp`."""
