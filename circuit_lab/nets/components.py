"""Embeddings, norms, attention and MLP with HookedTransformer's parameter names, shapes and hook names.

Every module draws its own weights in `reset_parameters`, from N(0, `weight_std`), in the order in which its class
lists them; biases start at 0 and norm weights at 1. A bias that the config leaves out is a constant zero buffer, which
no state_dict and no optimiser sees.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.distinct_inputs import DistinctInputs
from circuit_lab.nets.prefix_tree import Prefixes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def new_weight(*shape: int) -> nn.Parameter:
    """A weight to be drawn later, on the CPU and in float32 whatever torch's defaults are."""
    return nn.Parameter(torch.zeros(shape, device="cpu", dtype=torch.float32))


def _add_bias(module: nn.Module, name: str, shape: tuple[int, ...], *, trained: bool) -> None:
    """Give `module` a bias: a Parameter, or a zero buffer for the tools that read it anyway."""
    if trained:
        module.register_parameter(name, new_weight(*shape))
    else:
        module.register_buffer(name, torch.zeros(shape, device="cpu", dtype=torch.float32), persistent=False)


def _draw(module: nn.Module, names: tuple[str, ...], *, std: float, generator: torch.Generator | None) -> None:
    """Draw the named weights from N(0, std) in the order given; set the module's other parameters to 0."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            parameter.zero_()
        for name in names:
            getattr(module, name).normal_(0.0, std, generator=generator)


def look_up(
    tokens: Int[Tensor, "*batch"], embedding: Float[Tensor, "d_vocab d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """The row of each token.

    Args:
        tokens: Token ids.
        embedding: A row per token.

    Returns:
        The rows.

    Raises:
        ValueError: If a token has no row (on the CPU; an accelerator reports that in its own way).
    """
    try:
        return F.embedding(tokens, embedding)
    except IndexError as error:
        raise ValueError(
            f"tokens must lie in 0..{len(embedding) - 1} (d_vocab = {len(embedding)}), "
            f"got {int(tokens.min())}..{int(tokens.max())}"
        ) from error


class Embed(nn.Module):
    """Token embedding `W_E`."""

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.weight_std = cfg.weight_std
        self.W_E = new_weight(cfg.d_vocab, cfg.d_model)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw `W_E`; from the global generator when none is given, as TransformerLens's `reinitialized` wants."""
        _draw(self, ("W_E",), std=self.weight_std, generator=generator)

    def forward(self, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos d_model"]:
        """The embedding of each token."""
        return look_up(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned position embedding `W_pos`."""

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.weight_std = cfg.weight_std
        self.W_pos = new_weight(cfg.n_ctx, cfg.d_model)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw `W_pos`."""
        _draw(self, ("W_pos",), std=self.weight_std, generator=generator)

    def forward(self, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos d_model"]:
        """The embedding of each position, the same for every row of `tokens`."""
        n, pos = tokens.shape
        # A copy, not a view: a hook that edits in place must not reach the weights.
        return self.W_pos[:pos].repeat(n, 1, 1)


class Unembed(nn.Module):
    """Unembedding `W_U` with bias `b_U`."""

    b_U: Tensor

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.weight_std = cfg.weight_std
        self.W_U = new_weight(cfg.d_model, cfg.d_vocab_out)
        _add_bias(self, "b_U", (cfg.d_vocab_out,), trained=cfg.unembed_bias)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw `W_U`; the bias becomes 0."""
        _draw(self, ("W_U",), std=self.weight_std, generator=generator)

    def forward(self, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
        """The logits of each state."""
        return residual @ self.W_U + self.b_U


class Norm(nn.Module):
    """LayerNorm or RMSNorm with hooks on the divisor and on the result.

    `hook_scale` sees the divisor, sqrt(variance + eps); `hook_normalized` the quotient, before weight and bias. Without
    hooks torch's fused kernel is used; it equals the hooked computation to rounding.
    """

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.centred = cfg.normalization_type == "LN"
        self.w = new_weight(cfg.d_model)
        if self.centred:
            self.b = new_weight(cfg.d_model)
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the weight to 1 and the bias to 0."""
        with torch.no_grad():
            self.w.fill_(1.0)
            if self.centred:
                self.b.zero_()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The normed state."""
        if is_hooked(self.hook_scale) or is_hooked(self.hook_normalized):
            return self._forward_with_hooks(x)
        if self.centred:
            return F.layer_norm(x, self.w.shape, self.w, self.b, self.eps)
        return F.rms_norm(x, self.w.shape, self.w, self.eps)

    def _forward_with_hooks(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The same, step by step."""
        if self.centred:
            x = x - x.mean(dim=-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(dim=-1, keepdim=True) + self.eps).sqrt())
        normalized = self.hook_normalized(x / scale)
        return normalized * self.w + self.b if self.centred else normalized * self.w


def make_norm(cfg: SharedTransformerConfig) -> nn.Module:
    """A norm as the config asks; the identity when it asks for none."""
    return nn.Identity() if cfg.normalization_type is None else Norm(cfg)


def is_hooked(module: nn.Module) -> bool:
    """Whether the module has a forward or backward hook, of TransformerLens or of torch."""
    return bool(
        module._forward_hooks or module._backward_hooks or module._forward_pre_hooks or module._backward_pre_hooks
    )


class Attention(nn.Module):
    """Multi-head attention, causal or bidirectional.

    The heads' projections are single matrix products over all heads. `hook_result`, which holds `n_heads` times as much
    as any other activation, is computed only while it has a hook.
    """

    b_Q: Tensor
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor
    forbidden: Tensor

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.attn_scale = cfg.d_head**0.5
        self.W_Q = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_K = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_V = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_O = new_weight(cfg.n_heads, cfg.d_head, cfg.d_model)
        for name in ("b_Q", "b_K", "b_V"):
            _add_bias(self, name, (cfg.n_heads, cfg.d_head), trained=cfg.attn_bias)
        _add_bias(self, "b_O", (cfg.d_model,), trained=cfg.attn_bias)
        later_positions = torch.ones(cfg.n_ctx, cfg.n_ctx, dtype=torch.bool, device="cpu").triu(diagonal=1)
        self.register_buffer("forbidden", later_positions, persistent=False)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = HookPoint()
        self.hook_result = HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw `W_Q`, `W_K`, `W_V`, `W_O` in that order; the biases become 0."""
        _draw(self, ("W_Q", "W_K", "W_V", "W_O"), std=self.cfg.weight_std, generator=generator)

    def forward(
        self, x: Float[Tensor, "n pos d_model"], query_position: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n query d_model"]:
        """What attention adds to the stream, at every position or at one position of each row.

        Args:
            x: The (normed) stream.
            query_position: The position of each row to compute; None for all.

        Returns:
            The output at each query position (one if `query_position` is given).
        """
        pos = x.shape[1]
        queries = x if query_position is None else at_position(x, query_position).unsqueeze(1)
        q = self.hook_q(self._heads(queries, self.W_Q, self.b_Q))
        k = self.hook_k(self._heads(x, self.W_K, self.b_K))
        v = self.hook_v(self._heads(x, self.W_V, self.b_V))
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / self.attn_scale
        if self.cfg.attention_dir == "causal":
            scores = scores.masked_fill(self._forbidden(pos, query_position), -torch.inf)
        pattern = self.hook_pattern(self.hook_attn_scores(scores).softmax(dim=-1))
        z = self.hook_z((pattern @ v.transpose(1, 2)).transpose(1, 2))
        if is_hooked(self.hook_result):
            result = torch.einsum("nphd,hdm->nphm", z, self.W_O)
            return self.hook_result(result).sum(dim=2) + self.b_O
        return z.flatten(2) @ self.W_O.flatten(0, 1) + self.b_O

    def at_answers(self, x: Float[Tensor, "distinct d_model"], inputs: DistinctInputs) -> Float[Tensor, "n d_model"]:
        """What attention adds at the answer position of each query.

        Args:
            x: The (normed) stream of each distinct pair of token and position.
            inputs: Which of them stand where.

        Returns:
            As `forward` at these positions.
        """
        q = self._heads(x[inputs.asked], self.W_Q, self.b_Q)
        k, v = self._heads(x, self.W_K, self.b_K), self._heads(x, self.W_V, self.b_V)
        of_pairs = torch.einsum("qhd,khd->qkh", q, k).flatten(0, 1) / self.attn_scale
        scores = F.embedding(inputs.query[:, None] * len(x) + inputs.row, of_pairs)
        if self.cfg.attention_dir == "causal":
            answer_position = inputs.position[inputs.asked[inputs.query]]
            forbidden = self.forbidden[:, : inputs.row.shape[1]][answer_position]
            scores = scores.masked_fill(forbidden[..., None], -torch.inf)
        return self._write(scores, _rows_of(v, inputs.row))

    def at_prefixes(
        self, x: Float[Tensor, "prefixes d_model"], prefixes: Prefixes, query: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n d_model"]:
        """What attention adds at the end of each prefix, or of some of them.

        Args:
            x: The (normed) stream at the end of each prefix.
            prefixes: Which follow which.
            query: The prefixes to compute; None for all.

        Returns:
            As `forward` of a causal net there.
        """
        ancestors, ended = prefixes.ancestors, prefixes.ended
        queries = x
        if query is not None:
            ancestors, ended, queries = ancestors[query], ended[query], F.embedding(query, x)
        q = self._heads(queries, self.W_Q, self.b_Q)
        k, v = self._heads(x, self.W_K, self.b_K), self._heads(x, self.W_V, self.b_V)
        scores = (q[:, None] * _rows_of(k, ancestors)).sum(dim=-1) / self.attn_scale
        return self._write(scores.masked_fill(ended[..., None], -torch.inf), _rows_of(v, ancestors))

    def _write(
        self, scores: Float[Tensor, "n pos n_heads"], values: Float[Tensor, "n pos n_heads d_head"]
    ) -> Float[Tensor, "n d_model"]:
        """What one query of each row writes into the stream."""
        z = (scores.softmax(dim=1)[..., None] * values).sum(dim=1)
        return z.flatten(1) @ self.W_O.flatten(0, 1) + self.b_O

    def _heads(
        self,
        x: Float[Tensor, "*batch d_model"],
        weight: Float[Tensor, "n_heads d_model d_head"],
        bias: Float[Tensor, "n_heads d_head"],
    ) -> Float[Tensor, "*batch n_heads d_head"]:
        """Project onto all heads at once."""
        flat_weight = weight.transpose(0, 1).flatten(1)
        return F.linear(x, flat_weight.T, bias.flatten()).unflatten(-1, bias.shape)

    def _forbidden(self, pos: int, query_position: Int[Tensor, " n"] | None) -> Bool[Tensor, "..."]:
        """Where a query may not look, shaped to broadcast over `[n, n_heads, query, pos]`."""
        if query_position is None:
            return self.forbidden[:pos, :pos]
        return self.forbidden[:, :pos][query_position, None, None]


class MLP(nn.Module):
    """One hidden layer of `d_mlp` neurons."""

    b_in: Tensor
    b_out: Tensor

    def __init__(self, cfg: SharedTransformerConfig) -> None:
        super().__init__()
        self.weight_std = cfg.weight_std
        self.act_fn = ACTIVATIONS[cfg.act_fn]
        self.W_in = new_weight(cfg.d_model, cfg.d_mlp)
        self.W_out = new_weight(cfg.d_mlp, cfg.d_model)
        _add_bias(self, "b_in", (cfg.d_mlp,), trained=cfg.mlp_bias)
        _add_bias(self, "b_out", (cfg.d_model,), trained=cfg.mlp_bias)
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw `W_in`, `W_out` in that order; the biases become 0."""
        _draw(self, ("W_in", "W_out"), std=self.weight_std, generator=generator)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the MLP adds to the stream."""
        neurons = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        return F.linear(self.hook_post(self.act_fn(neurons)), self.W_out.T, self.b_out)


def _rows_of(
    x: Float[Tensor, "distinct n_heads d_head"], rows: Int[Tensor, "n pos"]
) -> Float[Tensor, "n pos n_heads d_head"]:
    """The state of each row of every query."""
    return F.embedding(rows, x.flatten(1)).unflatten(-1, x.shape[1:])


def at_position(x: Float[Tensor, "n pos d"], position: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    """The state of each row at the row's own position."""
    return x[torch.arange(len(x), device=x.device), position]


def check_answer_arguments(return_type: str, answer_only: bool, answer_position: Tensor | None) -> None:
    """Refuse arguments of a net's `forward` that do not fit together.

    Args:
        return_type: Must be "logits".
        answer_only: Whether one position of each row is wanted.
        answer_position: Which; None for the last.

    Raises:
        ValueError: If another type is asked for, or a position without `answer_only`.
    """
    if return_type != "logits":
        raise ValueError(f'return_type must be "logits", got {return_type!r}; compute a loss from the logits')
    if answer_position is not None and not answer_only:
        raise ValueError("answer_position is given but answer_only is False; set answer_only=True")
