"""Perturbations of known-answer controls: weight noise, and other coordinates for the same function."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from circuit_lab.nets.shared_transformer import HookedSharedTransformer

WRITES_STREAM = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
"""Parameters whose last axis is the residual stream."""
READS_STREAM = ("W_Q", "W_K", "W_V", "W_in", "W_U")
"""Parameters whose last axis but one is the residual stream."""


def with_noise(
    net: HookedSharedTransformer, *, std_share: float, generator: torch.Generator
) -> HookedSharedTransformer:
    """A copy of the net with Gaussian noise on every weight.

    Args:
        net: The net, of any depth; it stays as it is, and its hooks are not copied.
        std_share: Standard deviation of the noise as a share of each matrix's or bias's own, over all its entries; a
            matrix whose entries are all equal gets none.
        generator: Where the noise comes from.

    Returns:
        The noisy copy. Layers that share a block still share it.

    Raises:
        ValueError: If `std_share` is negative or not finite.
    """
    if not 0 <= std_share < math.inf:
        raise ValueError(f"std_share must be finite and >= 0, got {std_share}; 0.1 is a tenth of each matrix's std")
    noisy = _copy(net)
    with torch.no_grad():
        for weight in noisy.parameters():
            noise = torch.randn(weight.shape, generator=generator, device=generator.device, dtype=weight.dtype)
            weight += std_share * weight.std(correction=0) * noise.to(weight.device)
    return noisy


def rotated(net: HookedSharedTransformer, *, generator: torch.Generator) -> HookedSharedTransformer:
    """A copy of the net that computes the same in other coordinates of the residual stream.

    The basis is a random rotation or rotoreflection. Logits, attention, neurons and lens readings stay as they are, to
    rounding; every state of the stream is turned.

    Args:
        net: The net, of any depth; it stays as it is, and its hooks are not copied.
        generator: Draws the basis.

    Returns:
        The turned copy. Layers that share a block still share it.
    """
    return in_basis(net, random_orthogonal(net.cfg.d_model, generator=generator))


def in_basis(net: HookedSharedTransformer, basis: Float64[Tensor, "d_model d_model"]) -> HookedSharedTransformer:
    """A copy of the net whose states are those of the net times an orthogonal matrix.

    Args:
        net: The net; it stays as it is.
        basis: The orthogonal matrix: row i is where coordinate i goes.

    Returns:
        The copy, which computes the same function. Layers that share a block still share it.
    """
    _check_norms(net)
    turned = _copy(net)
    basis = basis.to(net.device)
    with torch.no_grad():
        for name, weight in turned.named_parameters():
            kind = name.rpartition(".")[2]
            if kind in WRITES_STREAM:
                weight.copy_(weight.double() @ basis)
            elif kind in READS_STREAM:
                weight.copy_(basis.T @ weight.double())
    return turned


def random_orthogonal(size: int, *, generator: torch.Generator) -> Float64[Tensor, "size size"]:
    """A random orthogonal matrix, uniform over all of them (Haar)."""
    gaussian = torch.randn(size, size, generator=generator, device=generator.device, dtype=torch.float64)
    orthogonal, triangle = torch.linalg.qr(gaussian)
    # QR is unique, hence uniform, only with a positive diagonal (Mezzadri 2007, arXiv math-ph/0609050).
    return orthogonal * triangle.diagonal().sign()


def _copy(net: HookedSharedTransformer) -> HookedSharedTransformer:
    """A net with the same weights, tied as before, and without hooks."""
    copy = HookedSharedTransformer(net.cfg).to(device=net.device, dtype=net.dtype).train(net.training)
    copy.load_unique_state_dict(net.unique_state_dict())
    return copy


def _check_norms(net: HookedSharedTransformer) -> None:
    """Refuse norms that do not commute with rotations."""
    if net.cfg.normalization_type is None:
        return
    if net.cfg.normalization_type != "RMS":
        raise ValueError(
            f"a net with normalization_type = {net.cfg.normalization_type!r} is another function in another basis: "
            "LayerNorm subtracts the mean over coordinates; rotate a net without norms, or with RMS norms"
        )
    for name, weight in net.named_parameters():
        if name.endswith(".w") and not torch.all(weight == weight[0]):
            raise ValueError(
                f"{name} scales coordinates by {weight.min().item():g} to {weight.max().item():g}, so the net is "
                "another function in another basis; rotate a net whose RMS norms have equal weights"
            )
