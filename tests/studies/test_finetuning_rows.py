"""Finetuned nets: which questions are asked of them, and which numbers count."""

from math import isnan, nan

import pandas as pd
import pytest
import torch

from circuit_lab.studies import finetuning as ft
from circuit_lab.tasks import build_task
from circuit_lab.tasks.transfer_config import TransferConfig


@pytest.fixture(scope="module")
def task():
    settings = {"n_entities": 13, "n_relations": 8, "out_degree": 5, "ood_share": 0.25, "test_id_share": 0.1}
    return build_task(TransferConfig(**settings, new_per_entity=1.5, kept_per_new=4.0, retention="none"))


def test_questions_part_each_split_by_the_old_fact_that_is_kept(task):
    kept_task = build_task(task.config.model_copy(update={"retention": "closed"}))
    kept = {(h, r) for h, r, last in kept_task.training.tokens.tolist() if last == task.pad_token}
    kept -= {(h, r) for h, r, _ in task.splits["atomic_ood"].tokens.tolist()}
    asked = {question.name: question.select(task.splits[question.split]) for question in ft._questions(task)}
    for inside, outside, split, hop in (
        (ft.NEW_KEPT, ft.NEW_OTHER, "hop1_ood", 1),
        (ft.KEPT_NEW, ft.OTHER_NEW, "hop2_ood", 0),
    ):
        of_split = task.splits[split]
        is_kept = torch.tensor([tuple(task.facts[row, :2].tolist()) in kept for row in of_split.facts[:, hop]])
        assert 0 < is_kept.sum() < len(is_kept)
        assert torch.equal(asked[inside].tokens, of_split.tokens[is_kept])
        assert torch.equal(asked[outside].tokens, of_split.tokens[~is_kept])
    trained = {tuple(row) for row in kept_task.training.tokens.tolist()}
    assert {tuple(row) for row in asked[ft.KEPT].tokens.tolist()} <= trained
    assert not {tuple(row) for row in asked[ft.OTHER].tokens.tolist()} & trained
    assert len(asked[ft.KEPT]) + len(asked[ft.OTHER]) == len(task.splits["train_inferred"])


@pytest.mark.parametrize(("of_new_facts", "expected"), [(0.9, 0.25), (0.89, nan), (nan, nan)])
def test_a_number_counts_only_where_the_new_facts_are_learnt(of_new_facts, expected):
    rows = pd.DataFrame(
        [
            ("a", ft.NEW_FACTS, ft.ACCURACY, of_new_facts),
            ("a", ft.NEW_KEPT, ft.ACCURACY, 0.25),
            ("a", ft.NEW_KEPT, ft.HOP1, 0.75),
            ("b", ft.NEW_KEPT, ft.ACCURACY, 1.0),
        ],
        columns=["condition", "split", "quantity", "value"],
    )
    found = ft.value_of(rows, "a", ft.NEW_KEPT, ft.ACCURACY)
    assert found == expected or (isnan(found) and isnan(expected))
    assert isnan(ft.value_of(rows, "b", ft.NEW_KEPT, ft.ACCURACY)), "nothing says that b has learnt them"
    assert isnan(ft.value_of(rows, "a", ft.NEW_NEW, ft.ACCURACY))
