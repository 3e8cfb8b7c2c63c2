"""Settings of the two-hop composition task: what is drawn, what is held out, what augmentation adds.

Source: [He] arXiv 2601.09049 and its released code. Symbols: `ood_share` is the paper's OOD ratio, `phi` its inferred /
atomic ratio, an `Augmentation` its (ratio, samples per fact) of one hop.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from circuit_lab.errors import quoted
from circuit_lab.tasks.settings import Number, Settings

MAX_TWO_HOP_QUERIES = 20_000_000
"""Compositions of two facts that are built at most; the largest published set has 800,000."""


class Augmentation(Settings):
    """How many training queries an OOD fact gets on one hop.

    Attributes:
        ratio: Share of the OOD facts on that hop of `test_ood` that are augmented, in [0, 1].
        samples_per_fact: At most so many queries for each of them, each with an ID fact on the other hop.
    """

    ratio: Number = Field(ge=0, le=1)
    samples_per_fact: int = Field(ge=0, strict=True)


class AugmentationPair(Settings):
    """A custom augmentation: what is added for OOD facts as hop 1 and as hop 2."""

    hop1: Augmentation
    hop2: Augmentation


class AnswerSlots(Settings):
    """Queries with a blank place for the answer, as recursive nets read them: see `in_answer_slots`.

    Attributes:
        d_vocab: Ids of the net.
        n_ctx: Positions of a row, at least 4: h, r1, r2 and the answer's.
    """

    d_vocab: int = Field(ge=1, strict=True)
    n_ctx: int = Field(ge=4, strict=True)


_NOTHING = Augmentation(ratio=0.0, samples_per_fact=0)
_FULL = Augmentation(ratio=1.0, samples_per_fact=18)
_HALF = Augmentation(ratio=0.5, samples_per_fact=9)

AUGMENTATION_REGIMES: dict[str, tuple[Augmentation, Augmentation]] = {
    "natural": (_NOTHING, _NOTHING),
    "both_full": (_FULL, _FULL),
    "both_half": (_HALF, _HALF),
    "first_hop_full": (_FULL, _NOTHING),
    "second_hop_full": (_NOTHING, _FULL),
}
"""The five regimes of [He] by name: (augmentation of hop 1, augmentation of hop 2)."""


class AugmentedSettings(Settings):
    """Settings with a `regime` and an `augmentation`, of which a given augmentation replaces the default regime."""

    @model_validator(mode="before")
    @classmethod
    def _custom_augmentation_replaces_the_default_regime(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("augmentation") is not None and "regime" not in data:
            return data | {"regime": None}
        return data


class TwoHopConfig(AugmentedSettings):
    """Everything that determines a two-hop task; equal configs give equal tasks.

    `regime` and `augmentation` exclude each other: leave `regime` out when giving an `augmentation`.

    Attributes:
        kind: Names the task in the table that dispatches.
        n_entities: Entities, at least 2.
        n_relations: Relations.
        out_degree: Facts per entity, each with another relation; at most `n_relations`.
        ood_share: Share of the facts that are OOD, in (0, 1), rounded up to whole facts.
        test_id_share: Share of the ID-ID queries held out as `test_id`, in (0, 1), rounded up.
        phi: ID-ID training queries per ID fact, > 0; None keeps all that are not held out.
        regime: A key of `AUGMENTATION_REGIMES`.
        augmentation: A custom augmentation in place of a regime.
        leaked_share: Share of `test_ood` put into training, in [0, 1], rounded up: a contaminated control.
        shuffled_answers: Permute the answers of all two-hop queries, trained and held out alike: random labels, a
            negative control that only rote can learn. Facts and bridges stay, but no answer follows from them.
        answer_slots: Lays the queries out with a blank place for the answer; None asks them without.
        seed: Fixes every random choice, >= 0.
    """

    kind: Literal["two_hop"] = "two_hop"
    n_entities: int = Field(ge=2, strict=True)
    n_relations: int = Field(ge=1, strict=True)
    out_degree: int = Field(ge=1, strict=True)
    ood_share: Number = Field(default=0.05, gt=0, lt=1)
    test_id_share: Number = Field(default=0.005, gt=0, lt=1)
    phi: Number | None = Field(default=None, gt=0)
    regime: str | None = "natural"
    augmentation: AugmentationPair | None = None
    leaked_share: Number = Field(default=0.0, ge=0, le=1)
    shuffled_answers: bool = Field(default=False, strict=True)
    answer_slots: AnswerSlots | None = None
    seed: int = Field(default=0, ge=0, strict=True)

    @model_validator(mode="after")
    def _settings_agree(self) -> "TwoHopConfig":
        if self.out_degree > self.n_relations:
            raise ValueError(
                f"out_degree = {self.out_degree} is more than n_relations = {self.n_relations}, but the facts of an "
                f"entity have distinct relations; set out_degree to at most {self.n_relations} or raise n_relations"
            )
        if self.n_entities * self.out_degree**2 > MAX_TWO_HOP_QUERIES:
            raise ValueError(
                f"n_entities = {self.n_entities} with out_degree = {self.out_degree} make "
                f"{self.n_entities * self.out_degree**2:,} two-hop queries, n_entities * out_degree^2; at most "
                f"{MAX_TWO_HOP_QUERIES:,} are built, so lower one of them"
            )
        if (self.regime is None) == (self.augmentation is None):
            raise ValueError(
                f"give exactly one of regime and augmentation, got regime = {quoted(self.regime)} and "
                f"augmentation = {self.augmentation!r}; leave one of them out"
            )
        if self.regime is not None and self.regime not in AUGMENTATION_REGIMES:
            raise ValueError(
                f"unknown regime {quoted(self.regime)}; the regimes are: {', '.join(AUGMENTATION_REGIMES)}, "
                "or leave regime out and give an augmentation"
            )
        return self

    @property
    def hop_augmentations(self) -> tuple[Augmentation, Augmentation]:
        """The augmentation of hop 1 and of hop 2 that the regime or the custom setting stands for."""
        if self.augmentation is not None:
            return self.augmentation.hop1, self.augmentation.hop2
        assert self.regime is not None
        return AUGMENTATION_REGIMES[self.regime]


class TwoHopFolderConfig(Settings):
    """A two-hop task that was read from a dataset folder.

    Attributes:
        kind: Names the task in the table that dispatches.
        path: The folder, as given when it was read; in a checkpoint, without `..`.
        content_hash: SHA-256 of the vocabulary and the task hash, by which a changed folder is noticed.
        answer_slots: Lays the queries out with a blank place for the answer; None asks them without.
    """

    kind: Literal["two_hop_folder"] = "two_hop_folder"
    path: str
    content_hash: str = Field(pattern="^[0-9a-f]{64}$")
    answer_slots: AnswerSlots | None = None
