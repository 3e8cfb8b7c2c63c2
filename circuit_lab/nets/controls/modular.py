"""Known-answer controls: one-layer nets for modular arithmetic, wired by hand and exact by construction.

Queries are (a, b, =) with ids a, b in 0..p-1 and "=" = p; the logits at "=", position 2, are those of the p answers.

**The cosine network** answers (a + b) mod p as trained nets do (Nanda et al. 2023, arXiv 2301.05217; with weights in
closed form, Gromov 2023, arXiv 2301.02679, whose quadratic activation is ReLU here). With w = 2 pi k / p, s = a + b:

1. The embedding holds cos(w a) and sin(w a). Attention at "=" averages a's and b's, and doubles the average.
2. A neuron of phase phi computes relu(cos(w a + phi) + cos(w b + phi)) = relu(2 A cos(t + phi)), where
   A = cos(w (a - b) / 2) and t = w s / 2. A negative A shifts the phase by pi and leaves |A|.
3. relu(cos x) = 1/pi + cos(x) / 2 + sum over even n of r_n cos(n x), with r_2 = 2 / (3 pi), r_4 = -2 / (15 pi), ...
   The phases are 2 pi j / J, J odd. Summed over them with the output weights cos(2 phi), a harmonic n survives only if
   n = 2 or -2 modulo J, and becomes J/2 cos(n t); with -sin(2 phi) it becomes J/2 sin(n t), or -J/2 sin(n t). As J is
   odd and at least 5, n is even: n = 2, 2 J - 2, 2 J + 2, 4 J - 2, ... Constant and first harmonic are gone.
4. The harmonic n = 2 gives |A| cos(w s) and |A| sin(w s). If J is a multiple of p, so do all others, because
   (2 m J +- 2) t = +-w s modulo 2 pi: the sums are exactly g |A| cos(w s) and g |A| sin(w s), where g is the first sum
   at t = 0 and |A| = 1. With fewer phases n = 2 J - 2 leaves a harmonic 3 / ((2 J - 2)^2 - 1) times as large.
5. The unembedding reads them with cos(w c) and sin(w c): logit(c) = scale * sum over k of |A_k| cos(w_k (s - c)).

So all p^2 answers are right: p is odd, so no A_k is 0, and only at c = s are all cosines 1. A single frequency is
enough, but its lead over the next answer is scale |A| (1 - cos(2 pi / p)), which is small for every pair and tiny where
|A| is; several frequencies make it large.

**The lookup table** has one neuron per listed pair. Two heads bring a and b to "=" as one-hot vectors into slots of
their own; a neuron fires when it finds both, and writes to its answer alone.

**The mixture** has both side by side, with slots, heads and neurons of their own: its logits are the sum of theirs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from circuit_lab.nets.config import SharedTransformerConfig
from circuit_lab.nets.shared_transformer import HookedSharedTransformer

N_POSITIONS = 3
SHARPNESS = 20.0
"""How far the scores of attended positions lie above the others; exp(-20) is nothing beside 1 in float32."""
EQUALS_MARK = 8.0
"""How "=" is marked in the cosine network: so far above the waves that noise on them hardly tilts attention."""
COSINE_SCALE = 20.0
"""At p = 113, with five frequencies drawn at random, the right answer leads by 3 to 5 on the closest pair."""
TABLE_HEIGHT = 20.0
"""Logit of a listed pair's answer; the cross-entropy is then below 1e-6."""
DEFAULT_LOGIT = 0.01
"""Logit of the default answer; every listed pair's answer is above it."""
MIN_PHASES = 5
"""With three, the first harmonic would pass: 1 = -2 modulo 3."""


@dataclass(frozen=True)
class _Weights:
    """Views of the weights that belong to one part of a net, each indexed from 0."""

    W_E: Float[Tensor, "d_vocab n_slots"]
    W_pos: Float[Tensor, "n_ctx n_slots"]
    W_Q: Float[Tensor, "n_heads n_slots d_head"]
    W_K: Float[Tensor, "n_heads n_slots d_head"]
    W_V: Float[Tensor, "n_heads n_slots d_head"]
    W_O: Float[Tensor, "n_heads d_head n_slots"]
    W_in: Float[Tensor, "n_slots n_neurons"]
    b_in: Float[Tensor, " n_neurons"]
    W_out: Float[Tensor, "n_neurons n_slots"]
    W_U: Float[Tensor, "n_slots d_vocab_out"]


@dataclass(frozen=True)
class _Part:
    """A mechanism with slots of the residual stream, heads and neurons of its own.

    Attributes:
        n_slots: Coordinates of the residual stream.
        n_heads: Attention heads.
        d_head: Width that its heads need.
        n_neurons: MLP neurons.
        wire: Writes its weights over zeros.
    """

    n_slots: int
    n_heads: int
    d_head: int
    n_neurons: int
    wire: Callable[[_Weights], None]


def cosine_network(
    p: int, *, frequencies: Sequence[int], n_phases: int | None = None, scale: float = COSINE_SCALE
) -> HookedSharedTransformer:
    """A true circuit: (a + b) mod p by the trigonometric algorithm, for all p^2 pairs.

    Args:
        p: The modulus, an odd prime.
        frequencies: The k of each cosine, distinct, in 1..(p-1)/2. Three to five give clear margins.
        n_phases: Neurons per frequency, odd and at least 5. By default p (9 at p = 3), or give a multiple of it: the
            logits are then exactly those of step 5 above. Fewer leave small harmonics, which may cost some answers.
        scale: Logit that a frequency adds to the right answer where a = b, and at most elsewhere; > 0.

    Returns:
        A causal net of one layer, without norms.
    """
    return _side_by_side(p, [_cosine_part(p, frequencies, n_phases, scale)])


def lookup_table(
    p: int,
    pairs: Int[Tensor, "n 2"],
    answers: Int[Tensor, " n"],
    *,
    heights: Float[Tensor, " n"] | None = None,
    default_answer: int = 0,
) -> HookedSharedTransformer:
    """No circuit: one neuron per listed pair, which writes its answer. With all pairs it is perfect all the same.

    A pair that is not listed has a logit only at `default_answer`, so that no tie decides. It is thus right by accident
    where that is the true answer, in 1 of p pairs for (a + b) mod p, and wrong everywhere else.

    Args:
        p: Number of elements.
        pairs: Rows (a, b), each once.
        answers: The answer of each pair; any table, not addition alone.
        heights: Logit of each answer, above `DEFAULT_LOGIT`; `TABLE_HEIGHT` by default.
        default_answer: What the net answers to all other pairs.

    Returns:
        A causal net of one layer, without norms.
    """
    heights = torch.full((len(answers),), TABLE_HEIGHT) if heights is None else heights
    return _side_by_side(p, [_table_part(p, pairs, answers, heights, default_answer)])


def mixture(
    p: int,
    *,
    frequencies: Sequence[int],
    pairs: Int[Tensor, "n 2"],
    answers: Int[Tensor, " n"],
    table_height: float,
    cosine_scale: float = COSINE_SCALE,
    n_phases: int | None = None,
) -> HookedSharedTransformer:
    """A cosine network whose logits on the listed pairs have a lookup table's added.

    Where table_height > 2 * len(frequencies) * cosine_scale, the table decides every listed pair, whatever it says:
    with the default phases, the cosines' logits are never further apart. All other pairs get the cosine network's
    logits, to rounding.

    Args:
        p: The modulus, an odd prime.
        frequencies: As in `cosine_network`.
        pairs: Rows (a, b), each once.
        answers: The table's answer to each pair.
        table_height: Logit that the table adds to a listed pair's answer, above `DEFAULT_LOGIT`.
        cosine_scale: The cosine network's `scale`.
        n_phases: As in `cosine_network`.

    Returns:
        A causal net of one layer, without norms.
    """
    heights = torch.full((len(answers),), table_height)
    cosines = _cosine_part(p, frequencies, n_phases, cosine_scale)
    return _side_by_side(p, [cosines, _table_part(p, pairs, answers, heights, default_answer=None)])


def _cosine_part(p: int, frequencies: Sequence[int], n_phases: int | None, scale: float) -> _Part:
    """The cosine network as a part of a net."""
    _check_cosines(p, frequencies)
    if n_phases is None:
        n_phases = p if p >= MIN_PHASES else 3 * p
    if n_phases < MIN_PHASES or n_phases % 2 == 0:
        raise ValueError(
            f"n_phases must be odd and at least {MIN_PHASES}, got {n_phases}; "
            "an even number leaves more harmonics than the odd ones beside it, and the default leaves none"
        )
    if not 0 < scale < math.inf:
        raise ValueError(f"the cosines' scale must be finite and > 0, got {scale}; the default is {COSINE_SCALE}")
    n_freq = len(frequencies)
    wave_number = 2 * torch.pi / p * torch.tensor(list(frequencies), dtype=torch.float64)
    return _Part(
        n_slots=4 * n_freq + 1,
        n_heads=1,
        d_head=2 * n_freq,
        n_neurons=n_freq * n_phases,
        wire=partial(
            _wire_cosines,
            angle=torch.arange(p)[:, None] * wave_number,
            phase=2 * torch.pi / n_phases * torch.arange(n_phases, dtype=torch.float64),
            scale=scale,
        ),
    )


def _wire_cosines(
    weights: _Weights, *, angle: Float64[Tensor, "p n_freq"], phase: Float64[Tensor, " n_phases"], scale: float
) -> None:
    """Slots: cos and sin of each frequency, cos and sin of the sum found, and the mark of "="."""
    p, n_freq = angle.shape
    waves, found, equals = slice(0, 2 * n_freq), slice(2 * n_freq, 4 * n_freq), 4 * n_freq
    wave = torch.cat([angle.cos(), angle.sin()], dim=1).float()
    weights.W_E[:p, waves] = wave
    weights.W_E[p, equals] = EQUALS_MARK
    # "=" scores itself down; a and b have no key, so each gets exactly half.
    weights.W_Q[0, equals, 0] = _query_weight(weights) / EQUALS_MARK
    weights.W_K[0, equals, 0] = -1.0 / EQUALS_MARK
    weights.W_V[0, waves, : 2 * n_freq].fill_diagonal_(1.0)
    weights.W_O[0, : 2 * n_freq, waves].fill_diagonal_(2.0)  # twice the average is the sum
    own_frequency = torch.eye(n_freq, dtype=torch.float64)
    weights.W_in[waves] = torch.cat([torch.kron(own_frequency, part) for part in (phase.cos(), -phase.sin())]).float()
    gain = 2 * phase.cos().relu() @ (2 * phase).cos()
    readout = torch.stack([(2 * phase).cos(), -(2 * phase).sin()]) * scale / gain
    weights.W_out[:, found] = torch.cat([torch.kron(own_frequency, part[:, None]) for part in readout], dim=1).float()
    weights.W_U[found] = wave.T


def _table_part(
    p: int,
    pairs: Int[Tensor, "n 2"],
    answers: Int[Tensor, " n"],
    heights: Float[Tensor, " n"],
    default_answer: int | None,
) -> _Part:
    """The lookup table as a part of a net."""
    _check_table(p, pairs, answers, heights)
    if default_answer is not None:
        _check_ids(p, "default_answer", torch.tensor(default_answer))
    wire = partial(_wire_table, p=p, pairs=pairs, answers=answers, heights=heights, default_answer=default_answer)
    return _Part(n_slots=4 * p + 3, n_heads=2, d_head=p, n_neurons=len(pairs), wire=wire)


def _wire_table(
    weights: _Weights,
    *,
    p: int,
    pairs: Int[Tensor, "n 2"],
    answers: Int[Tensor, " n"],
    heights: Float[Tensor, " n"],
    default_answer: int | None,
) -> None:
    """Slots: the token itself, a and b once attention brought them, the answer; marks of positions 0 and 1 and "="."""
    into_a, into_b, out, mark = p, 2 * p, 3 * p, 4 * p
    equals = mark + 2
    weights.W_E[:p, :p].fill_diagonal_(1.0)
    weights.W_E[p, equals] = 1.0
    if default_answer is not None:
        weights.W_E[p, out + default_answer] = DEFAULT_LOGIT
    for head, slot in enumerate((into_a, into_b)):  # head 0 reads position 0, head 1 position 1
        weights.W_pos[head, mark + head] = 1.0
        weights.W_Q[head, equals, 0] = _query_weight(weights)
        weights.W_K[head, mark + head, 0] = 1.0
        weights.W_V[head, :p, :p].fill_diagonal_(1.0)
        weights.W_O[head, :p, slot : slot + p].fill_diagonal_(1.0)
    neurons = torch.arange(len(pairs))
    weights.W_in[into_a + pairs[:, 0], neurons] = 1.0
    weights.W_in[into_b + pairs[:, 1], neurons] = 1.0
    weights.b_in.fill_(-1.5)  # 1/2 when both are there, so the output weight is twice the height
    weights.W_out[neurons, out + answers] = 2 * heights
    weights.W_U[out : out + p].fill_diagonal_(1.0)


def _query_weight(weights: _Weights) -> float:
    """The weight that makes a score of SHARPNESS with a key of 1; scores are divided by sqrt(d_head)."""
    return SHARPNESS * weights.W_Q.shape[2] ** 0.5


def _side_by_side(p: int, parts: Sequence[_Part]) -> HookedSharedTransformer:
    """A net of parts that meet in the logits alone."""
    config = SharedTransformerConfig(
        layer_map=(0,),
        d_model=sum(part.n_slots for part in parts),
        n_heads=sum(part.n_heads for part in parts),
        d_head=max(part.d_head for part in parts),
        d_mlp=max(1, sum(part.n_neurons for part in parts)),  # an empty table has no neuron
        d_vocab=p + 1,
        d_vocab_out=p,
        n_ctx=N_POSITIONS,
        act_fn="relu",
        normalization_type=None,
        attn_bias=False,
    )
    net = HookedSharedTransformer(config)
    slot = head = neuron = 0
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        for part in parts:
            slots = slice(slot, slot := slot + part.n_slots)
            heads = slice(head, head := head + part.n_heads)
            neurons = slice(neuron, neuron := neuron + part.n_neurons)
            part.wire(_weights_of_part(net, slots, heads, neurons))
    return net.eval()


def _weights_of_part(net: HookedSharedTransformer, slots: slice, heads: slice, neurons: slice) -> _Weights:
    """Views of the rows and columns that belong to these slots, heads and neurons."""
    attn, mlp = net.blocks[0].attn, net.blocks[0].mlp
    return _Weights(
        W_E=net.embed.W_E[:, slots],
        W_pos=net.pos_embed.W_pos[:, slots],
        W_Q=attn.W_Q[heads, slots],
        W_K=attn.W_K[heads, slots],
        W_V=attn.W_V[heads, slots],
        W_O=attn.W_O[heads, :, slots],
        W_in=mlp.W_in[slots, neurons],
        b_in=mlp.b_in[neurons],
        W_out=mlp.W_out[neurons, slots],
        W_U=net.unembed.W_U[slots],
    )


def _check_cosines(p: int, frequencies: Sequence[int]) -> None:
    """Refuse a modulus or frequencies with which some answer would not be the only maximum."""
    if p < 3 or p % 2 == 0:
        raise ValueError(f"p must be an odd prime, got {p}; at an even p some pairs have only zeros as cosines")
    top = (p - 1) // 2
    outside = [k for k in frequencies if not 1 <= k <= top]
    if outside or len(frequencies) == 0 or len(set(frequencies)) < len(frequencies):
        raise ValueError(
            f"frequencies must be distinct and lie in 1..{top} (p = {p}), at least one, got {list(frequencies)}; "
            "p - k has the same cosine as k"
        )
    if math.gcd(p, *frequencies) > 1:
        raise ValueError(
            f"p must be an odd prime, got {p}, which shares a factor with all of frequencies = {list(frequencies)}, "
            "so that several answers tie"
        )


def _check_table(p: int, pairs: Int[Tensor, "n 2"], answers: Int[Tensor, " n"], heights: Float[Tensor, " n"]) -> None:
    """Refuse pairs and answers that are no elements, repeated pairs, and heights below the default answer's."""
    _check_ids(p, "pairs", pairs)
    _check_ids(p, "answers", answers)
    listed, counts = pairs.unique(dim=0, return_counts=True)
    if (counts > 1).any():
        repeated = tuple(listed[counts.argmax()].tolist())
        raise ValueError(f"pairs must be listed once each, got {repeated} more than once; their heights would add up")
    if not ((heights > DEFAULT_LOGIT) & heights.isfinite()).all():
        raise ValueError(
            f"heights must be finite and above the default answer's logit, {DEFAULT_LOGIT}, "
            f"got {heights.min().item():g}..{heights.max().item():g}"
        )


def _check_ids(p: int, name: str, ids: Int[Tensor, "..."]) -> None:
    """Refuse ids that are no element."""
    outside = ids[(ids < 0) | (ids >= p)]
    if len(outside) > 0:
        raise ValueError(f"{name} must lie in 0..{p - 1} (p = {p}), got {outside[0].item()}")
