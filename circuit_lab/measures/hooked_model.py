"""What the measures ask of a model, ours or a TransformerLens 4 bridge, in one place.

They differ in how a forward pass is resumed, in how the answer's logits are read, and in where a state may be replaced;
nothing else in `measures` needs to know which it has. A recursive net has two streams and may have positions before
those of the tokens: to *read* a state, take `states_at`, which has the tokens' positions; to *run on* from it, take
`resume_states`, which has every row that the later steps read, and replace the rows that `rows_of` names.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.nets import HookedNet, HookedRecursiveTransformer, LensSite, find_lens_site
from circuit_lab.nets.components import at_position
from circuit_lab.nets.sites import lens_sites_of_layers, sites_to_resume

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    HookedModel = HookedNet | TransformerBridge
    """A net of ours, or any model in a TransformerLens 4 bridge whose blocks have the classic hook names."""
else:  # Bridges take a second to import; whoever has one has imported them.
    HookedModel = HookedNet | torch.nn.Module

FwdHooks = Sequence[tuple[str, Callable[[Tensor, HookPoint], Tensor | None]]]
"""(hook name, function of the activation and its HookPoint), as TransformerLens takes them."""

DEFAULT_BATCH_SIZE = 2048
"""Rows per forward pass unless the caller says otherwise: some 100 MB for a small net of ours."""


def check_model(model: HookedModel) -> None:
    """Refuse a model in training mode, where dropout would be measured as an effect.

    Args:
        model: Any hooked model.

    Raises:
        ValueError: If some module is in training mode.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode, so dropout may act; call model.eval() first")


def lens_sites(model: HookedModel) -> tuple[LensSite, ...]:
    """The states that a lens reads, in order: the embedding and every layer's, or recursive step's, output."""
    if isinstance(model, HookedNet):
        return model.lens_sites
    return lens_sites_of_layers(model.cfg.n_layers)


def device_of(model: HookedModel) -> torch.device:
    """Where the model's weights are."""
    return next(iter(model.parameters())).device


def logits_at(model: HookedModel, residual: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab_out"]:
    """The logit lens: final norm (if any), then unembedding, of states of any stream."""
    if isinstance(model, HookedNet):
        return model.logits_at(residual)
    return model.unembed(model.ln_final(residual))


def answer_logits(
    model: HookedModel,
    tokens: Int[Tensor, "n n_ctx"],
    answer_position: Int[Tensor, " n"],
    *,
    fwd_hooks: FwdHooks = (),
) -> Float[Tensor, "n d_vocab_out"]:
    """The logits at each row's answer position, in one forward pass.

    Args:
        model: Any hooked model.
        tokens: Token ids.
        answer_position: The position of each row that is read.
        fwd_hooks: Hooks put on for this pass and taken off after it.

    Returns:
        Logits on the model's device.
    """
    with model.hooks(fwd_hooks=list(fwd_hooks)):
        if isinstance(model, HookedNet):
            return model(tokens, answer_only=True, answer_position=answer_position)
        device = device_of(model)
        return at_position(model(tokens.to(device)), answer_position.to(device))


def resumed_logits(
    model: HookedModel,
    residual: Float[Tensor, "n rows d_model"],
    answer_position: Int[Tensor, " n"],
    *,
    start_at: str,
    fwd_hooks: FwdHooks = (),
) -> Float[Tensor, "n d_vocab_out"]:
    """The logits at each row's answer position, resumed from a lens site.

    Args:
        model: Any hooked model.
        residual: What `resume_states` gives there, on the model's device.
        answer_position: The position of each row that is read.
        start_at: Label or hook name of a lens site. Only the layers after it run.
        fwd_hooks: Hooks put on for this pass and taken off after it.

    Returns:
        Logits on the model's device.
    """
    with model.hooks(fwd_hooks=list(fwd_hooks)):
        if isinstance(model, HookedNet):
            return model(
                start_at=start_at, residual=residual, answer_only=True, answer_position=answer_position.to(model.device)
            )
        layer = find_lens_site(lens_sites(model), start_at).layer
        position = answer_position.to(residual.device)
        if layer == model.cfg.n_layers:
            return logits_at(model, at_position(residual, position))
        return at_position(model(residual, start_at_layer=layer), position)


def keepers(found: dict[str, Tensor], hook_names: Sequence[str]) -> FwdHooks:
    """Hooks that put what they see into `found`, by name, and leave it as it is.

    They return it, too: a bridge hands some hooks a reshaped copy, which is on the way to the logits, and so has a
    gradient, only if it is returned.

    Args:
        found: Filled during the forward pass.
        hook_names: Full hook names.

    Returns:
        One hook per name.
    """

    def keeper(name: str) -> Callable[[Tensor, HookPoint], Tensor]:
        def keep(activation: Tensor, hook: HookPoint) -> Tensor:
            del hook
            found[name] = activation
            return activation

        return keep

    return [(name, keeper(name)) for name in dict.fromkeys(hook_names)]


def activations(
    model: HookedModel, tokens: Int[Tensor, "n n_ctx"], hook_names: Sequence[str], *, fwd_hooks: FwdHooks = ()
) -> dict[str, Tensor]:
    """What the named hooks see in one forward pass, by name, on the model's device.

    Args:
        model: Any hooked model.
        tokens: Token ids; one forward pass holds them all, so split them first.
        hook_names: Full hook names, such as `blocks.0.attn.hook_z`.
        fwd_hooks: Hooks put on for this pass and taken off after it; they act before the activations are kept.

    Returns:
        The activations.

    Raises:
        ValueError: If the model has no such hook.
    """
    found: dict[str, Tensor] = {}
    with model.hooks(fwd_hooks=[*fwd_hooks, *keepers(found, hook_names)]):
        model(tokens.to(device_of(model)))
    missing = [name for name in hook_names if name not in found]
    if missing:
        raise ValueError(f"the model has no activation {missing[0]!r}: its hook did not fire in a forward pass")
    return found


@torch.no_grad()
def states_at(
    model: HookedModel, tokens: Int[Tensor, "n n_ctx"], *, stage: str, batch_size: int = DEFAULT_BATCH_SIZE
) -> Float[Tensor, "n n_ctx d_model"]:
    """The state of each query at one lens site, to be read: at the tokens' positions alone.

    Args:
        model: Any hooked model.
        tokens: Token ids, at least one row.
        stage: Label or hook name of a lens site.
        batch_size: Rows per forward pass.

    Returns:
        States on the model's device.
    """
    name = find_lens_site(lens_sites(model), stage).hook_name
    batches = (activations(model, batch, [name])[name] for batch in tokens.split(batch_size))
    return torch.cat([state[:, n_prefix(model) :] for state in batches])


@torch.no_grad()
def resume_states(
    model: HookedModel, tokens: Int[Tensor, "n n_ctx"], *, stage: str, batch_size: int = DEFAULT_BATCH_SIZE
) -> Float[Tensor, "n rows d_model"]:
    """What `resumed_logits` needs of each query, to run on from one lens site.

    Args:
        model: Any hooked model.
        tokens: Token ids, at least one row.
        stage: Label or hook name of a lens site.
        batch_size: Rows per forward pass.

    Returns:
        The state at the site, one row per position (`rows_of` finds those of the tokens); in a recursive net behind it
        the other stream's and the input's, where the later steps read them (see `sites_to_resume`).
    """
    names = hooks_to_resume(model, stage)
    batches = (activations(model, batch, names) for batch in tokens.split(batch_size))
    return torch.cat([torch.cat([found[name] for name in names], dim=1) for found in batches])


def hooks_to_resume(model: HookedModel, stage: str) -> tuple[str, ...]:
    """Names of the hooks that see what `resume_states` gives, in its order."""
    return tuple(site.hook_name for site in sites_to_resume(lens_sites(model), stage))


def embedding_scale(model: HookedModel) -> float:
    """What a token's embedding is multiplied by at the first lens site: 1 but in recursive nets."""
    return model.embedding_scale if isinstance(model, HookedRecursiveTransformer) else 1.0


def n_prefix(model: HookedModel) -> int:
    """Positions that a state has before those of the tokens: a recursive net's learned prefix."""
    return model.cfg.n_prefix if isinstance(model, HookedRecursiveTransformer) else 0


def rows_of(model: HookedModel, positions: Sequence[int]) -> list[int]:
    """Rows of a whole state, or of what `resume_states` gives, at these token positions."""
    return [n_prefix(model) + position for position in positions]


def block_of_each_layer(model: HookedModel) -> tuple[int, ...]:
    """The block of parameters that each effective layer applies; in a bridge every layer has its own."""
    if isinstance(model, HookedNet):
        return model.cfg.layer_map
    return tuple(range(model.cfg.n_layers))


def mixer_of(model: HookedModel) -> Literal["attn", "pos_mlp"]:
    """What mixes positions in each layer: attention, or a recursive net's MLP over positions.

    Its output is seen by `hook_attn_out` or `hook_pos_mlp_out`.
    """
    by_mlp = isinstance(model, HookedRecursiveTransformer) and model.cfg.token_mixing == "position_mlp"
    return "pos_mlp" if by_mlp else "attn"


def has_several_streams(model: HookedModel) -> bool:
    """Whether the model has more than one stream, each rewritten in turn, as a recursive net does."""
    return len({site.stream for site in lens_sites(model)}) > 1
