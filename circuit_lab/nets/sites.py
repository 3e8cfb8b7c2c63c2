"""The states of a net that a logit lens may read, that a patch may replace and that a forward pass may start from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LensSite:
    """A state of the residual stream between layers.

    Attributes:
        label: Its name in tables and figures: "embed", "resid_post 0", "resid_post 1", ...
        hook_name: The HookPoint that sees it.
        layer: Layers that have run when the stream is in this state: 0 at the embedding.
    """

    label: str
    hook_name: str
    layer: int


def lens_sites_of_layers(n_layers: int) -> tuple[LensSite, ...]:
    """The embedding and the output of every layer, in order."""
    outputs = (
        LensSite(label=f"resid_post {layer}", hook_name=f"blocks.{layer}.hook_resid_post", layer=layer + 1)
        for layer in range(n_layers)
    )
    return (LensSite(label="embed", hook_name="blocks.0.hook_resid_pre", layer=0), *outputs)


def find_lens_site(sites: tuple[LensSite, ...], name: str) -> LensSite:
    """The site with this label or hook name.

    Args:
        sites: The sites of a net.
        name: A label or a hook name.

    Returns:
        The site.

    Raises:
        ValueError: If no site has that name.
    """
    for site in sites:
        if name in (site.label, site.hook_name):
            return site
    valid = ", ".join(f"{site.label!r} ({site.hook_name})" for site in sites)
    raise ValueError(f"there is no lens site {name!r} in this net; it has: {valid}")
