"""Settings of two-hop questions in natural language: where the facts come from, and how a question is put.

The facts come from a file of two-hop questions, or from a drawn world of people, places and works that such a file
could hold. The splits and their augmentation are those of the two-hop task of [He] arXiv 2601.09049.
"""

from typing import Literal

from pydantic import Field, model_validator

from circuit_lab.tasks.settings import Number, Settings
from circuit_lab.tasks.two_hop_config import AnswerSlots, AugmentationPair, AugmentedSettings, TwoHopConfig

QuestionFormat = Literal["2wiki", "musique"]
"""Formats of question files: 2WikiMultihopQA (Ho et al. 2020) and MuSiQue (Trivedi et al. 2022)."""


class WorldConfig(Settings):
    """A drawn world: how many there are of each kind. Names do not depend on the seed, facts do.

    Attributes:
        n_people: People, half of them men.
        n_cities: Cities.
        n_companies: Companies.
        n_works: Books, films and the like.
        n_countries: Countries.
        seed: Fixes every fact, >= 0.
    """

    n_people: int = Field(default=16, ge=4, le=500, strict=True)
    n_cities: int = Field(default=5, ge=2, le=100, strict=True)
    n_companies: int = Field(default=4, ge=2, le=100, strict=True)
    n_works: int = Field(default=6, ge=2, le=190, strict=True)
    n_countries: int = Field(default=3, ge=2, le=20, strict=True)
    seed: int = Field(default=0, ge=0, strict=True)


class NaturalLanguageConfig(AugmentedSettings):
    """Two-hop questions over the facts of a question file, or of a drawn world.

    Exactly one of `path` and `world` is given; `regime` and `augmentation` exclude each other, as in `TwoHopConfig`.

    Attributes:
        kind: Names the task in the table that dispatches.
        path: A question file; empty for a drawn world.
        format: Its format; a world is always written as "2wiki".
        world: A world to draw in place of a file.
        content_hash: SHA-256 of the facts, by which a changed file is noticed; None takes the facts as they are. A
            built task has it filled in.
        form: "tokens": head, first and second relation, a token each. "words": "Ada Lovelace 's_mother 's_employer
            is", a token each.
        ood_share: Share of the facts that are OOD, in (0, 1), rounded up to whole facts.
        test_id_share: Share of the ID-ID queries held out as `test_id`, in (0, 1), rounded up.
        regime: A key of `AUGMENTATION_REGIMES`.
        augmentation: A custom augmentation in place of a regime.
        answer_slots: Lays the queries of the form "tokens" out with a blank place for the answer.
        seed: Fixes the splits and the augmentation, >= 0; the facts of a world have their own seed.
    """

    kind: Literal["natural_language"] = "natural_language"
    path: str = ""
    format: QuestionFormat = "2wiki"
    world: WorldConfig | None = None
    content_hash: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    form: Literal["tokens", "words"] = "tokens"
    ood_share: Number = Field(default=0.05, gt=0, lt=1)
    test_id_share: Number = Field(default=0.005, gt=0, lt=1)
    regime: str | None = "natural"
    augmentation: AugmentationPair | None = None
    answer_slots: AnswerSlots | None = None
    seed: int = Field(default=0, ge=0, strict=True)

    @model_validator(mode="after")
    def _settings_agree(self) -> "NaturalLanguageConfig":
        if bool(self.path) == (self.world is not None):
            raise ValueError(
                f"give exactly one of path and world, got path = {self.path!r} and world = {self.world!r}; path names "
                "a question file, world draws the facts of one"
            )
        if self.world is not None and self.format != "2wiki":
            raise ValueError(f'format = "{self.format}" is the format of a file, but a world has none; leave it out')
        if self.form == "words" and self.answer_slots is not None:
            raise ValueError(
                'answer_slots lays out the three tokens of a query; with form = "words" leave it out, or use '
                'form = "tokens"'
            )
        self.splitting(n_entities=2, n_relations=1)
        return self

    def splitting(self, *, n_entities: int, n_relations: int) -> TwoHopConfig:
        """The settings of splits and augmentation as those of a two-hop task of that size."""
        return TwoHopConfig(
            n_entities=n_entities,
            n_relations=n_relations,
            out_degree=1,
            ood_share=self.ood_share,
            test_id_share=self.test_id_share,
            regime=self.regime,
            augmentation=self.augmentation,
            seed=self.seed,
        )
