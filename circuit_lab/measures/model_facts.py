"""What tells one kind of model from another where a measure must know: streams, attention, layers' names, norms."""

from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures.hooked_model import HookedModel, has_several_streams, lens_sites, mixer_of
from circuit_lab.nets import HookedNet, HookedRecursiveTransformer, LensSite

ATTENTION_KINDS = ("attn_out", "z", "q", "k", "v", "pattern", "pattern_entry")
"""Kinds of activations that attention alone has."""


def is_bridge(model: HookedModel) -> bool:
    """Whether the model is a TransformerLens 4 bridge and not a net of ours."""
    return not isinstance(model, HookedNet)


def is_causal(model: HookedModel) -> bool:
    """Whether no position sees a later one."""
    return model.cfg.attention_dir == "causal"


def sites_read(sites: tuple[LensSite, ...], number: int) -> tuple[int, ...]:
    """The lens sites whose states make the next one, by number, earliest first.

    In a recursive net an inner step reads the input and both streams, a commit both streams; one that is still the
    fixed initial one has no site.

    Args:
        sites: All sites of a net.
        number: Which of them is made.

    Returns:
        Numbers of those that it is made of; none for the first.

    >>> from circuit_lab.nets.sites import lens_sites_of_cycles, lens_sites_of_layers
    >>> [sites_read(lens_sites_of_layers(2), number) for number in range(3)]
    [(), (0,), (1,)]
    >>> cycles = lens_sites_of_cycles(h_cycles=2, l_cycles=1, n_blocks=1)
    >>> [f"{cycles[i].label}: {sites_read(cycles, i)}" for i in range(1, 5)]
    ['H0.L0: (0,)', 'H0.commit: (1,)', 'H1.L0: (0, 1, 2)', 'H1.commit: (2, 3)']
    """
    earlier = sites[:number]
    if not earlier or earlier[0].stream == "residual":
        return tuple(range(number)[-1:])
    streams = ("input", "z_L", "z_H") if sites[number].stream == "z_L" else ("z_L", "z_H")
    last = (max((i for i, site in enumerate(earlier) if site.stream == stream), default=None) for stream in streams)
    return tuple(sorted(i for i in last if i is not None))


def site_before(model: HookedModel, layer: int) -> LensSite:
    """The last lens site that a layer comes after, from where its own hooks fire in a resumed pass."""
    return next(site for site in reversed(lens_sites(model)) if site.layer <= layer)


def layer_names(model: HookedModel) -> tuple[str, ...]:
    """What each effective layer is called: its number, or in a recursive net its step (and block, if it has several).

    Args:
        model: Any hooked model.

    Returns:
        Such as "0", "1", ...; "H0.L0", "H0.commit", ...; "H0.L0 block 0", "H0.L0 block 1", ....
    """
    if not has_several_streams(model):
        return tuple(map(str, range(model.cfg.n_layers)))
    names = []
    for before, site in zip(lens_sites(model), lens_sites(model)[1:], strict=False):
        n_blocks = site.layer - before.layer
        names += [site.label] if n_blocks == 1 else [f"{site.label} block {block}" for block in range(n_blocks)]
    return tuple(names)


def check_kind(model: HookedModel, kind: str) -> None:
    """Refuse a kind of activation that the model's layers do not have.

    Args:
        model: Any hooked model.
        kind: Such as "attn_out", "pos_mlp_out" or "mlp_out".

    Raises:
        ValueError: If it belongs to the other way of mixing positions.
    """
    has_attention = mixer_of(model) == "attn"
    if kind in ATTENTION_KINDS and not has_attention:
        raise ValueError(
            f'this net mixes positions by an MLP (token_mixing = "position_mlp"), so there is no {kind}; '
            "its output is pos_mlp_out"
        )
    if kind == "pos_mlp_out" and has_attention:
        raise ValueError("this net mixes positions by attention, so there is no pos_mlp_out; its output is attn_out")


def final_normed(model: HookedModel, states: Float[Tensor, "n pos d_model"]) -> Float[Tensor, "n pos d_model"]:
    """What the unembedding reads of these states: their final norm, or themselves in a recursive net."""
    return states if isinstance(model, HookedRecursiveTransformer) else model.ln_final(states)


def unembedding_bias(model: HookedModel) -> Float[Tensor, " d_vocab_out"]:
    """The bias of the unembedding; zeros where there is none."""
    if isinstance(model, HookedRecursiveTransformer):
        return model.W_U.new_zeros(model.W_U.shape[1])
    return model.b_U.detach()
