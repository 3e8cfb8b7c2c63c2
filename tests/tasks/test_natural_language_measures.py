"""The causal tests find the same partners for a query in words as in tokens: they go by position names, not columns."""

import pytest
import torch

from circuit_lab.measures.two_hop.partners import PartnerPool
from circuit_lab.tasks import build_task
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig, WorldConfig

WORLD = WorldConfig(n_people=6, n_cities=2, n_companies=2, n_works=2, n_countries=2, seed=1)


@pytest.fixture(scope="module")
def forms():
    return [build_task(NaturalLanguageConfig(world=WORLD, ood_share=0.2, form=form)) for form in ("tokens", "words")]


@pytest.mark.parametrize("rule", ["hop1_receivers", "hop2_sources", "interchange_sources"])
@pytest.mark.parametrize("split", ["train_inferred", "test_ood"])
def test_partners_in_words_are_those_in_tokens(forms, rule, split):
    drawn = []
    for task in forms:
        pool = PartnerPool(task.splits["train_inferred"], generator=torch.Generator().manual_seed(0))
        drawn.append(getattr(pool, rule)(task.splits[split], n_partners=4))
    in_tokens, in_words = drawn
    assert in_tokens.exists.any()
    assert torch.equal(in_tokens.rows, in_words.rows)
    assert torch.equal(in_tokens.wanted, in_words.wanted)


def test_the_wanted_answer_of_a_hop_1_receiver_follows_from_the_facts(forms):
    words = forms[1]
    tails = {(h, r): t for h, r, t in words.facts.tolist()}
    pool, queries = words.splits["train_inferred"], words.splits["test_ood"]
    partners = PartnerPool(pool, generator=torch.Generator().manual_seed(1)).hop1_receivers(queries, n_partners=3)
    checked = 0
    for query, (rows, wanted) in enumerate(zip(partners.rows.tolist(), partners.wanted.tolist(), strict=True)):
        bridge = int(queries.intermediates["bridge"][query])
        for row, answer in zip(rows, wanted, strict=True):
            if row >= 0:
                relation2 = int(words.facts[pool.facts[row, 1], 1])
                assert tails[bridge, relation2] == answer
                checked += 1
    assert checked > len(queries)


def test_same_bridge_partners_differ_in_head_and_first_relation(forms):
    words = forms[1]
    pool = words.splits["train_inferred"]
    drawn = PartnerPool(pool, generator=torch.Generator().manual_seed(2)).same_bridge_other_tokens(pool, n_partners=3)
    own, other = words.facts[pool.facts[:, 0]], words.facts[pool.facts[drawn.rows.clamp(min=0), 0]]
    differs = (own[:, None, :2] != other[..., :2]).all(-1)
    assert drawn.exists.any()
    assert differs[drawn.exists].all()
