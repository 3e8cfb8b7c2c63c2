"""Parts of a recursive transformer, in TransformerLens's names: rotary attention, SwiGLU, norm, block, embeddings.

Weights stand as TransformerLens has them, `[d_in, d_out]`, and `[head, d_model, d_head]` in attention; there are no
biases. Every module draws its own in `reset_parameters`, from a LeCun normal cut at two standard deviations: standard
deviation 1 / sqrt(numbers read), after the cut.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets.components import is_hooked, look_up, new_weight
from circuit_lab.nets.recursive_config import RecursiveTransformerConfig
from circuit_lab.nets.tied_weights import tied_copy

Rotation = tuple[Float[Tensor, "pos d_head"], Float[Tensor, "pos d_head"]]
"""Cosine and sine of the angle by which each position turns each coordinate of a head."""

_CUT = 2.0
"""Initial weights are cut at this many standard deviations of the uncut normal."""
_STD_AFTER_CUT = math.sqrt(1 - 2 * _CUT * math.exp(-(_CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(_CUT / 2**0.5))


def draw_truncated(weight: Tensor, *, std: float, generator: torch.Generator) -> None:
    """Draw from a normal cut at two of its standard deviations, such that `std` is what is left after the cut.

    Args:
        weight: The tensor to fill, on the CPU.
        std: Standard deviation of the result.
        generator: Source of the draws.
    """
    uncut = std / _STD_AFTER_CUT
    with torch.no_grad():
        nn.init.trunc_normal_(weight, std=uncut, a=-_CUT * uncut, b=_CUT * uncut, generator=generator)


def rotation(n_positions: int, d_head: int, *, base: float, device: torch.device, dtype: torch.dtype) -> Rotation:
    """Angles of rotary positions: position times base^(-2 i / d_head) for coordinate i and its partner.

    Args:
        n_positions: How many positions, counted from 0 at the first prefix position.
        d_head: Width of a head, even.
        base: Base of the wavelengths.
        device: Where the result goes.
        dtype: Type of the result; angles are computed in float64.

    Returns:
        Cosines and sines.
    """
    frequency = base ** (-torch.arange(0, d_head, 2, device=device, dtype=torch.float64) / d_head)
    angle = torch.arange(n_positions, device=device, dtype=torch.float64)[:, None] * frequency.repeat(2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _turn(x: Float[Tensor, "n pos n_heads d_head"], by: Rotation) -> Float[Tensor, "n pos n_heads d_head"]:
    """Turn each coordinate of the first half with its partner in the second."""
    cosine, sine = (part[:, None] for part in by)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class ScalelessNorm(nn.Module):
    """RMSNorm without weights: the state divided by its root mean square along one axis.

    `hook_scale` sees the divisor, sqrt(mean square + eps), of size 1 along that axis; `hook_normalized` the quotient.
    """

    def __init__(self, *, eps: float, axis: int) -> None:
        super().__init__()
        self.eps, self.axis = eps, axis
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "n pos d_model"]) -> Float[Tensor, "n pos d_model"]:
        """The normed state."""
        scale = self.hook_scale((x.square().mean(dim=self.axis, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale)


class SwiGLU(nn.Module):
    """`(silu(x W_gate) * (x W_in)) W_out`, with TransformerLens's names for a gated MLP."""

    def __init__(self, d_in: int, d_mlp: int) -> None:
        super().__init__()
        self.W_gate = new_weight(d_in, d_mlp)
        self.W_in = new_weight(d_in, d_mlp)
        self.W_out = new_weight(d_mlp, d_in)
        self.hook_pre = HookPoint()
        self.hook_pre_linear = HookPoint()
        self.hook_post = HookPoint()

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw `W_gate`, `W_in`, `W_out` in that order."""
        for weight in (self.W_gate, self.W_in, self.W_out):
            draw_truncated(weight, std=len(weight) ** -0.5, generator=generator)

    def forward(self, x: Float[Tensor, "n rows d_in"]) -> Float[Tensor, "n rows d_in"]:
        """What the MLP adds to each row."""
        gate = F.silu(self.hook_pre(x @ self.W_gate))
        return self.hook_post(gate * self.hook_pre_linear(x @ self.W_in)) @ self.W_out


class RecursiveAttention(nn.Module):
    """Multi-head attention, to every position or to none that comes later, with rotary positions if given a rotation.

    `hook_rot_q` and `hook_rot_k` exist in nets with rotary positions only. `hook_result` is computed only while it has
    a hook.
    """

    def __init__(self, cfg: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.attn_scale, self.is_causal = cfg.d_head**0.5, cfg.attention_dir == "causal"
        self.W_Q = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_K = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_V = new_weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_O = new_weight(cfg.n_heads, cfg.d_head, cfg.d_model)
        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        if cfg.positions == "rotary":
            self.hook_rot_q = HookPoint()
            self.hook_rot_k = HookPoint()
        self.hook_attn_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = HookPoint()
        self.hook_result = HookPoint()

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw `W_Q`, `W_K`, `W_V`, `W_O` in that order; each reads d_model numbers."""
        for weight in (self.W_Q, self.W_K, self.W_V, self.W_O):
            draw_truncated(weight, std=self.W_Q.shape[1] ** -0.5, generator=generator)

    def forward(self, x: Float[Tensor, "n pos d_model"], by: Rotation | None) -> Float[Tensor, "n pos d_model"]:
        """What attention adds to the stream.

        Args:
            x: The stream.
            by: The rotation of queries and keys; None for none.

        Returns:
            The output at each position.
        """
        q = self.hook_q(torch.einsum("npm,hmd->nphd", x, self.W_Q))
        k = self.hook_k(torch.einsum("npm,hmd->nphd", x, self.W_K))
        v = self.hook_v(torch.einsum("npm,hmd->nphd", x, self.W_V))
        if by is not None:
            q, k = self.hook_rot_q(_turn(q, by)), self.hook_rot_k(_turn(k, by))
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / self.attn_scale
        if self.is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(diagonal=1)
            scores = scores.masked_fill(later, -torch.inf)
        scores = self.hook_attn_scores(scores)
        pattern = self.hook_pattern(scores.softmax(dim=-1))
        z = self.hook_z((pattern @ v.transpose(1, 2)).transpose(1, 2))
        if is_hooked(self.hook_result):
            return self.hook_result(torch.einsum("nphd,hdm->nphm", z, self.W_O)).sum(dim=2)
        return z.flatten(2) @ self.W_O.flatten(0, 1)


class RecursiveBlock(nn.Module):
    """Token mixing, then an MLP, each added to the stream, which is normed after each: `norm(x + part(x))`.

    With "position_mlp", `pos_mlp` reads each coordinate of the stream over all positions, its hooks see
    `[n, d_model, d_position_mlp]`, and the norm after it runs over positions instead of coordinates.
    """

    def __init__(self, cfg: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.mixes_by_attention = cfg.token_mixing == "attention"
        self.hook_resid_pre = HookPoint()
        if self.mixes_by_attention:
            self.attn = RecursiveAttention(cfg)
            self.hook_attn_out = HookPoint()
        else:
            self.pos_mlp = SwiGLU(cfg.n_positions, cfg.d_position_mlp)
            self.hook_pos_mlp_out = HookPoint()
        self.ln1 = ScalelessNorm(eps=cfg.eps, axis=-1 if self.mixes_by_attention else -2)
        self.hook_resid_mid = HookPoint()
        self.mlp = SwiGLU(cfg.d_model, cfg.d_mlp)
        self.hook_mlp_out = HookPoint()
        self.ln2 = ScalelessNorm(eps=cfg.eps, axis=-1)
        self.hook_resid_post = HookPoint()

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights of the token mixing, then those of the MLP."""
        (self.attn if self.mixes_by_attention else self.pos_mlp).reset_parameters(generator)
        self.mlp.reset_parameters(generator)

    def forward(self, stream: Float[Tensor, "n pos d_model"], by: Rotation | None) -> Float[Tensor, "n pos d_model"]:
        """The stream after this layer.

        Args:
            stream: The stream before it, with what is injected already added.
            by: The rotation of queries and keys; None for none.

        Returns:
            The stream at every position.
        """
        pre = self.hook_resid_pre(stream)
        if self.mixes_by_attention:
            mixed = self.hook_attn_out(self.attn(pre, by))
        else:
            mixed = self.hook_pos_mlp_out(self.pos_mlp(pre.transpose(1, 2)).transpose(1, 2))
        mid = self.hook_resid_mid(self.ln1(pre + mixed))
        return self.hook_resid_post(self.ln2(mid + self.hook_mlp_out(self.mlp(mid))))


def make_tied_recursive_blocks(cfg: RecursiveTransformerConfig) -> list[RecursiveBlock]:
    """One module per effective layer; modules of the same block hold the same Parameters."""
    first = [RecursiveBlock(cfg) for _ in range(cfg.n_blocks)]
    return first + [tied_copy(first[block_id]) for block_id in cfg.layer_map[cfg.n_blocks :]]


class PrefixedEmbed(nn.Module):
    """Token embedding `W_E`, behind a learned prefix `W_prefix` if the net has one."""

    W_prefix: nn.Parameter | None

    def __init__(self, cfg: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.W_E = new_weight(cfg.d_vocab, cfg.d_model)
        self.register_parameter("W_prefix", new_weight(cfg.n_prefix, cfg.d_model) if cfg.n_prefix > 0 else None)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw `W_E`; the prefix stays 0."""
        draw_truncated(self.W_E, std=self.W_E.shape[1] ** -0.5, generator=generator)

    def forward(self, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n prefix_and_pos d_model"]:
        """The prefix, then the embedding of each token."""
        embedded = look_up(tokens, self.W_E)
        if self.W_prefix is None:
            return embedded
        return torch.cat([self.W_prefix.expand(len(tokens), -1, -1), embedded], dim=1)


class PrefixedPosEmbed(nn.Module):
    """Learned embedding `W_pos` of every position, those of the prefix first."""

    def __init__(self, cfg: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.W_pos = new_weight(cfg.n_positions, cfg.d_model)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw `W_pos`."""
        draw_truncated(self.W_pos, std=self.W_pos.shape[1] ** -0.5, generator=generator)

    def forward(self, n: int, n_positions: int) -> Float[Tensor, "n n_positions d_model"]:
        """The first `n_positions` embeddings, the same for each of `n` rows."""
        return self.W_pos[:n_positions].repeat(n, 1, 1)


class PlainUnembed(nn.Module):
    """Unembedding `W_U`, without a bias."""

    def __init__(self, cfg: RecursiveTransformerConfig) -> None:
        super().__init__()
        self.W_U = new_weight(cfg.d_model, cfg.d_vocab_out)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw `W_U`."""
        draw_truncated(self.W_U, std=len(self.W_U) ** -0.5, generator=generator)

    def forward(self, state: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
        """The logits of each state."""
        return state @ self.W_U
