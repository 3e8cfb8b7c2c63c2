"""Locating and reading share no query."""

import torch

from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.two_hop import diagnose as two_hop


def rows(*queries):
    return [tuple(row) for part in queries for row in part.tokens.tolist()]


def test_the_parts_share_no_query_and_miss_none(small_task):
    training = small_task.splits["train_inferred"]
    parts = two_hop.divide_training(training, torch.Generator().manual_seed(1), max_queries=10_000)
    everything = rows(parts.locating, parts.receivers, parts.partners, parts.reading)
    assert sorted(everything) == sorted(rows(training))
    assert len(set(everything)) == len(everything)
    assert (len(parts.locating), len(parts.receivers), len(parts.partners)) == (79, 79, 237)
    other = two_hop.divide_training(training, torch.Generator().manual_seed(2), max_queries=10_000)
    assert rows(other.locating) != rows(parts.locating)


def test_what_locates_a_site_is_read_nowhere(small_task, monkeypatch):
    """What the locator is given, and what is read, as the diagnosis itself hands them out."""
    located_on, read = [], []

    def locating(net, queries, pool, **options):
        located_on.extend(rows(queries, pool))
        return locate(net, queries, pool, **options)

    def reading(net, queries, n_in_split, partners, located, generator):
        read.extend(rows(queries, partners.pool))
        return read_split(net, queries, n_in_split, partners, located, generator)

    locate, read_split = two_hop.locate_sites, two_hop.read_split
    monkeypatch.setattr(two_hop, "locate_sites", locating)
    monkeypatch.setattr(two_hop, "read_split", reading)
    diagnosis = diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))
    assert len(located_on) == 158 and len(read) > 500
    assert not set(located_on) & set(read)
    assert diagnosis.n_candidates == 6 and "of 6 sites, tried on 79 training queries" in " ".join(diagnosis.reasons)
