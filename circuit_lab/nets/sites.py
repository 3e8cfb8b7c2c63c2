"""The states of a net that a logit lens may read, that a patch may replace and that a forward pass may start from."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LensSite:
    """A state of the residual stream between layers.

    Attributes:
        label: Its name in tables and figures: "embed", "resid_post 0", "resid_post 1", ...; in a recursive net "embed",
            "H0.L0", "H0.L1", ..., "H0.commit", "H1.L0", ...
        hook_name: The HookPoint that sees it.
        layer: Layers that have run when the stream is in this state: 0 at the embedding.
        stream: Which stream it is a state of: a shared transformer has one, "residual"; a recursive net has the
            latent "z_L" and the answer "z_H", and an "input" that every inner step reads.
    """

    label: str
    hook_name: str
    layer: int
    stream: Literal["residual", "input", "z_L", "z_H"] = "residual"


def lens_sites_of_layers(n_layers: int) -> tuple[LensSite, ...]:
    """The embedding and the output of every layer, in order."""
    outputs = (
        LensSite(label=f"resid_post {layer}", hook_name=f"blocks.{layer}.hook_resid_post", layer=layer + 1)
        for layer in range(n_layers)
    )
    return (LensSite(label="embed", hook_name="blocks.0.hook_resid_pre", layer=0), *outputs)


def lens_sites_of_cycles(*, h_cycles: int, l_cycles: int, n_blocks: int) -> tuple[LensSite, ...]:
    """The embedding, then what every step of a recursive net leaves behind, in order.

    Args:
        h_cycles: Cycles, each ending with a commit, which rewrites z_H.
        l_cycles: Inner steps of each, which rewrite z_L.
        n_blocks: Layers of a step.

    Returns:
        `1 + h_cycles * (l_cycles + 1)` sites.
    """
    sites = [LensSite(label="embed", hook_name="hook_input", layer=0, stream="input")]
    for h_cycle in range(h_cycles):
        for step in (*(f"L{l_cycle}" for l_cycle in range(l_cycles)), "commit"):
            layer = len(sites) * n_blocks
            hook_name = f"blocks.{layer - 1}.hook_resid_post"
            stream = "z_H" if step == "commit" else "z_L"
            sites.append(LensSite(label=f"H{h_cycle}.{step}", hook_name=hook_name, layer=layer, stream=stream))
    return tuple(sites)


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


def sites_to_resume(sites: tuple[LensSite, ...], name: str) -> tuple[LensSite, ...]:
    """The sites whose states together let a forward pass run on from one of them.

    A shared transformer needs the state itself. A recursive net reads both streams, and the input in each inner step.

    Args:
        sites: The sites of a net.
        name: Label or hook name of the site to run on from.

    Returns:
        That site; then, where a later step reads them, the last state of the other stream before it (left out while
        that one is still the fixed initial one), and the input.

    >>> sites = lens_sites_of_cycles(h_cycles=2, l_cycles=2, n_blocks=1)
    >>> [[site.label for site in sites_to_resume(sites, label)] for label in ("H0.L0", "H0.commit", "H1.L1")]
    [['H0.L0', 'embed'], ['H0.commit', 'H0.L1', 'embed'], ['H1.L1', 'H0.commit']]
    """
    site = find_lens_site(sites, name)
    earlier, later = sites[: sites.index(site)], sites[sites.index(site) + 1 :]
    if site.stream in ("residual", "input") or not later:
        return (site,)
    other = next((found for found in reversed(earlier) if found.stream not in (site.stream, "input")), None)
    input_site = earlier[0] if any(found.stream == "z_L" for found in later) else None
    return tuple(found for found in (site, other, input_site) if found is not None)
