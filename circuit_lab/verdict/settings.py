"""How a net is diagnosed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """How a net is diagnosed; the meaning of each is that of `diagnose`.

    Attributes:
        seed: Seed of partners, random subspaces, samples and resamples.
        n_partners: Transplants per two-hop query, test and site.
        max_queries_per_split: Queries read of each split at most.
    """

    seed: int = 0
    n_partners: int = 6
    max_queries_per_split: int = 10_000
