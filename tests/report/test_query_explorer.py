"""The query explorer's data: every number of the exhibits in few bytes, and names that stay names."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from explorer_cases import HOSTILE, N_HEADS, N_LAYERS, QUERIES, SITES, TOP_K, VOCAB, by_hand, unpacked

from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.report.query_explorer import MODULAR_MEANINGS, TWO_HOP_MEANINGS, explorer_panel
from circuit_lab.report.templating import template
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.exhibits import gather_exhibits
from circuit_lab.verdict.modular.outcomes import Outcome as ModularOutcome
from circuit_lab.verdict.two_hop.outcomes import Outcome as TwoHopOutcome


@pytest.fixture(scope="module")
def case():
    return by_hand()


@pytest.fixture(scope="module")
def content(case):
    return unpacked(explorer_panel(*case))


@pytest.fixture(scope="module")
def modular():
    diagnosis = diagnose((cosine_network(23, frequencies=[1, 4, 9]), build_task(ModularConfig(p=23, train_share=0.4))))
    return diagnosis, gather_exhibits(diagnosis)


def test_every_cell_of_the_lens_is_there(case, content):
    lens = case[1].lens
    tokens = np.reshape(content["lens"]["tokens"], (3, 3, 3, TOP_K))
    percents = np.reshape(content["lens"]["percent"], (3, 3, 3, TOP_K))
    ranks = np.reshape(content["lens"]["rank"], (3, 2, 3, 3))
    target_percents = np.reshape(content["lens"]["target_percent"], (3, 2, 3, 3))
    for query in range(3):
        cells = [(site, position) for site in range(3) for position in range(3)]
        for (site, position), (_, row) in zip(cells, lens.query_frame(query).iterrows(), strict=True):
            assert tokens[query, site, position].tolist() == list(row["top_tokens"])
            assert percents[query, site, position] / 100 == pytest.approx(row["top_probabilities"], abs=0.005)
            assert ranks[query, :, site, position].tolist() == [row["rank_bridge"], row["rank_answer"]]
            of_bridge = float(lens.probability[0, site, position, query])
            assert target_percents[query, 0, site, position] / 100 == pytest.approx(of_bridge, abs=0.005)


def test_the_queries_are_there_with_what_the_split_holds(content):
    for name in ("bridge", "answer", "predicted"):
        assert content[name] == QUERIES[name].tolist()
    assert content["tokens"] == [0, 6, 7, 3, 7, 6, 5, 6, 6]
    assert [content["splits"][split] for split in content["split"]] == QUERIES["split"].tolist()
    assert [content["outcomes"][o]["name"] for o in content["outcome"]] == QUERIES["outcome"].tolist()
    assert content["in_training"] == [1, 0, 0]  # row 1 of test_id is, the others are not
    named = {(content["splits"][s], content["outcomes"][o]["name"]): n for s, o, n in content["totals"]}
    assert named == {
        ("test_id", "circuit"): 40,
        ("test_ood", "shortcut"): 7,
        ("test_ood", "second_hop_failure"): 300,
    }
    assert [check["passed"] for check in content["checks"]] == [[1, 1, 0], [1, 0, 0], [1, 0, 1]]


def test_transplants_by_hand(content):
    made = content["transplants"]
    assert made["sites"] == list(SITES)
    assert made["partners"] == [3, 6, 6, 4, 7, 7, 4, 6, 7]  # each once: (3, 6, 6), (4, 7, 7), (4, 6, 7)
    rows = list(
        zip(*(made[c] for c in ("query", "test", "site", "partner", "wanted", "answered", "passed")), strict=True)
    )
    assert rows == [
        (0, 0, 0, 0, 4, 4, 1),
        (0, 0, 0, 1, 3, 0, 0),
        (0, 1, 0, 1, 2, 2, 1),
        (0, 2, 1, 0, 5, 5, 1),
        (1, 1, 0, 2, 5, 3, 0),
    ]
    assert [test["lends"] for test in made["tests"]] == [True, False, False]
    passed_of = np.reshape(made["passed_of"], (3, 3, 2, 2))  # query, test, site
    assert passed_of[0, :, 0].tolist() == [[5, 6], [6, 6], [6, 6]]
    assert passed_of[1, :, 0].tolist() == [[1, 6], [2, 6], [3, 6]]
    assert passed_of[:, :, 1].reshape(-1, 2).tolist() == [[0, 6]] * 9


@pytest.mark.parametrize("causal", [True, False])
def test_attention_can_be_read_back(case, causal):
    diagnosis, exhibits = case
    attention = exhibits.attention
    if not causal:
        attention = torch.randn(attention.shape, generator=torch.Generator().manual_seed(5)).softmax(-1)
    stored = unpacked(explorer_panel(diagnosis, replace(exhibits, attention=attention)))["attention"]
    assert (len(stored["layers"]), stored["n_heads"], stored["causal"]) == (N_LAYERS, N_HEADS, causal)
    assert stored["layers"][0] == "0" and stored["positions"] == list(exhibits.position_names)
    weights = iter(stored["percent"])
    for pattern in attention.reshape(-1, 3, 3):
        for to, row in enumerate(pattern.tolist()):
            kept = [next(weights) for _ in range(to if causal else 2)]
            read = [*kept, 100 - sum(kept)]
            assert read == pytest.approx([100 * weight for weight in row[: len(read)]], abs=1.0)
            assert min(read) >= 0
    assert next(weights, None) is None


def test_names_from_elsewhere_stay_as_they_are_and_in_no_mark_up(case):
    diagnosis, exhibits = case
    names = (*VOCAB[:-1], "half \ud800 a pair \u202e\x00")
    panel = explorer_panel(diagnosis, replace(exhibits, vocab=names))
    assert unpacked(panel)["vocab"] == list(names)
    assert HOSTILE in names
    json.dumps(panel).encode()
    assert "<" not in json.dumps(panel)


def test_token_ids_of_large_vocabularies_survive(case):
    diagnosis, exhibits = case
    for size in (256, 65_536, 70_000):
        queries = exhibits.queries.assign(answer=[size - 1, 2, size - 2])
        assert unpacked(explorer_panel(diagnosis, replace(exhibits, queries=queries)))["answer"] == [
            size - 1,
            2,
            size - 2,
        ]


def test_nothing_without_exhibits(case):
    assert explorer_panel(case[0], None) is None
    page = template("explorer.html").render(section=SimpleNamespace(explorer=None))
    assert "no longer holds its net" in page and "explorer-list" not in page


def test_a_net_without_sites_has_no_transplants(case):
    diagnosis, exhibits = case
    none = explorer_panel(diagnosis, replace(exhibits, transplants=exhibits.transplants.iloc[:0]))
    assert unpacked(none)["transplants"]["sites"] == []
    assert unpacked(none)["transplants"]["passed_of"] == []


def test_every_outcome_has_a_meaning():
    assert list(TWO_HOP_MEANINGS) == list(TwoHopOutcome)
    assert list(MODULAR_MEANINGS) == list(ModularOutcome)


def test_modular_pairs_and_their_ablations(modular):
    diagnosis, exhibits = modular
    content = unpacked(explorer_panel(diagnosis, exhibits))
    trained = diagnosis.measurements.subject.task.training
    pairs = {tuple(pair) for pair in trained.tokens[:, :2].tolist()}
    shown = np.reshape(content["tokens"], (-1, 3))[:, :2].tolist()
    assert content["in_training"] == [int(tuple(pair) in pairs) for pair in shown]
    assert {0, 1} == set(content["in_training"])
    checks = {check["name"]: check["passed"] for check in content["checks"]}
    assert list(checks) == [
        "without the key frequencies at the inputs",
        "without the key frequencies at the answer",
        "with nothing but the key frequencies at the inputs",
        "with nothing but the key frequencies at the answer",
    ]
    queries = exhibits.queries
    assert checks["without the key frequencies at the answer"] == queries["without: answer"].astype(int).tolist()
    # What is lost without the key frequencies makes the outcome; a wired circuit keeps its answers with nothing else.
    through = (queries["outcome"] == "circuit").to_numpy()
    assert through.any() and not np.asarray(checks["without the key frequencies at the inputs"])[through].any()
    assert all(checks["with nothing but the key frequencies at the inputs"])
    assert "bridge" not in content and "transplants" not in content


def test_a_hundred_and_fifty_queries_fit_into_their_share_of_a_page(case):
    """Random numbers, which no compression makes smaller: 150 queries, 4 layers of 4 heads, 2 sites, 3 partners."""
    diagnosis, exhibits = case
    generator = np.random.default_rng(0)
    n, vocab = 150, tuple(f"entity {i}" for i in range(60))
    rows = pd.DataFrame({name: generator.integers(60, size=n) for name in ("h", "r1", "r2", "bridge", "answer")})
    queries = QUERIES.sample(n, replace=True, random_state=0).reset_index(drop=True)
    queries[rows.columns] = rows
    shape = (5, 3, n)
    lens = replace(
        exhibits.lens,
        sites=("embed", *(f"resid_post {layer}" for layer in range(4))),
        rank=torch.randint(1, 60, (2, *shape)),
        log_prob=-5 * torch.rand(2, *shape),
        entropy=torch.zeros(shape),
        top_tokens=torch.randint(60, (*shape, 5)),
        top_probabilities=torch.rand(*shape, 5) ** 4,
        n=n,
    )
    attention = torch.rand(n, 4, 4, 3, 3).tril()
    made = exhibits.transplants.sample(18 * n, replace=True, random_state=0).assign(query=np.repeat(np.arange(n), 18))
    everything = replace(
        exhibits,
        vocab=vocab,
        queries=queries,
        lens=lens,
        layer_names=("0", "1", "2", "3"),
        attention=attention / attention.sum(-1, keepdim=True),
        transplants=made.reset_index(drop=True),
    )
    assert len(json.dumps(explorer_panel(diagnosis, everything))) < 70_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-hop-second-hop-failure", "two-hop-true-circuit", "two-hop-shortcut"])
def test_reference_models_fit_into_their_share_of_a_page(name):
    diagnosis = diagnose(name)
    exhibits = gather_exhibits(diagnosis)
    assert exhibits is not None
    n_bytes = len(json.dumps(explorer_panel(diagnosis, exhibits)))
    assert n_bytes < 330 * len(exhibits.queries)  # 45 KB for 140 queries
