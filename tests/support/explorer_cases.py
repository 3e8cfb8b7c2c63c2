"""Three two-hop queries with everything a report shows of them, made by hand; and a panel's content, unpacked."""

import base64
import json
import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from circuit_lab.measures import CausalTests, LogitLens
from circuit_lab.measures.intervals import MeanInterval
from circuit_lab.measures.sites import Site
from circuit_lab.measures.two_hop.transplants import CausalTest
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import TwoHopExhibits

HOSTILE = '<img src=x onerror="window.hacked=1">\'&</script>'
VOCAB = ("ann", "bea", "cyd", "dan kay", "eve", HOSTILE, "parent", "boss")
POSITIONS = ("h", "r1", "r2")
SITES = ("resid_post 0 @ r1", "resid_post 1 @ h+r1")
N_LAYERS, N_HEADS, TOP_K = 2, 4, 5
QUERIES = pd.DataFrame(
    {
        "split": ["test_id", "test_ood", "test_ood"],
        "row": [1, 0, 2],
        "h": [0, 3, 5],
        "r1": [6, 7, 6],
        "r2": [7, 6, 6],
        "bridge": [1, 4, 0],
        "answer": [2, 5, 1],
        "predicted": [2, 0, 1],
        "right": [True, False, True],
        "hop1": [True, True, False],
        "hop2": [True, False, False],
        "interchange": [True, False, True],
        "outcome": ["circuit", "second_hop_failure", "shortcut"],
    }
)
_MADE = [  # query, test, site, receiver, source, wanted, answered
    (0, "hop1", 0, (3, 6, 6), (0, 6, 7), 4, 4),
    (0, "hop1", 0, (4, 7, 7), (0, 6, 7), 3, 0),
    (0, "hop2", 0, (0, 6, 7), (4, 7, 7), 2, 2),
    (0, "interchange", 1, (0, 6, 7), (3, 6, 6), 5, 5),
    (1, "hop2", 0, (3, 7, 6), (4, 6, 7), 5, 3),
]


def by_hand() -> tuple[Diagnosis, TwoHopExhibits]:
    """The diagnosis (what the explorer reads of it) and the exhibits."""
    columns = ["query", "test", "site", "receiver", "source", "wanted", "answered"]
    transplants = pd.DataFrame(_MADE, columns=columns)
    transplants["site"] = [SITES[site] for site in transplants["site"]]
    transplants["passed"] = transplants["wanted"] == transplants["answered"]
    exhibits = TwoHopExhibits(
        vocab=VOCAB,
        position_names=POSITIONS,
        queries=QUERIES,
        n_of_outcome={
            ("test_id", "circuit"): 40,
            ("test_id", "shortcut"): 0,
            ("test_ood", "circuit"): 0,
            ("test_ood", "shortcut"): 7,
            ("test_ood", "second_hop_failure"): 300,
        },
        lens=_lens(),
        layer_names=tuple(map(str, range(N_LAYERS))),
        attended=POSITIONS,
        attention=_attention(),
        transplants=transplants,
        site_effects=pd.DataFrame(),
        edges=None,
        why_no_edges=None,
        patching={},
        heads=None,
        geometry=None,
        seed=0,
    )
    measurements = SimpleNamespace(
        queries={
            "test_id": pd.DataFrame({"in_training": [False, True]}),
            "test_ood": pd.DataFrame({"in_training": [False, False, False]}),
        },
        tests={"test_id": _tests([0, 5]), "test_ood": _tests([1, 0, 1])},
    )
    return Diagnosis.model_construct(family="two_hop", measurements=measurements), exhibits


def _tests(n_passed: list[int]) -> CausalTests:
    """At the second site nothing passes; at the first so many of a query's six in hop 1, one more in each next test."""
    sites = (Site("resid_post 0", (1,)), Site("resid_post 1", (0, 1)))
    exists = torch.ones(len(n_passed), 6, dtype=torch.bool)

    def test(more: int) -> CausalTest:
        passed = torch.zeros(2, len(n_passed), 6, dtype=torch.bool)
        for row, n in enumerate(n_passed):
            passed[0, row, : n + more] = True
        return CausalTest(passed=passed, exists=exists, control=torch.zeros_like(passed), control_exists=exists)

    return CausalTests(sites=sites, position_names=POSITIONS, hop1=test(0), hop2=test(1), interchange=test(2))


def _lens() -> LogitLens:
    n_sites = 3
    generator = torch.Generator().manual_seed(3)
    logits = 2.5 * torch.randn(n_sites, len(POSITIONS), len(QUERIES), len(VOCAB), generator=generator)
    # At the last site and position the net says what it answers.
    logits[-1, -1, torch.arange(len(QUERIES)), torch.tensor(QUERIES["predicted"].to_numpy())] = 9.0
    log_probs = logits.log_softmax(-1)
    order = log_probs.argsort(-1, descending=True)
    targets = [torch.tensor(QUERIES[name].to_numpy()) for name in ("bridge", "answer")]
    places = [order.argsort(-1).gather(-1, t.expand(n_sites, 3, -1)[..., None])[..., 0] + 1 for t in targets]
    log_prob = torch.stack([log_probs.gather(-1, t.expand(n_sites, 3, -1)[..., None])[..., 0] for t in targets])
    none = torch.zeros(2, n_sites, len(POSITIONS))
    return LogitLens(
        sites=("embed", "resid_post 0", "resid_post 1"),
        position_names=POSITIONS,
        targets=("bridge", "answer"),
        rank=torch.stack(places),
        log_prob=log_prob,
        entropy=none[0][..., None].expand(-1, -1, len(QUERIES)).clone(),
        top_tokens=order[..., :TOP_K],
        top_probabilities=log_probs.exp().gather(-1, order[..., :TOP_K]),
        top1=MeanInterval(none, none, none),
        mrr=MeanInterval(none, none, none),
        mean_log_prob=MeanInterval(none, none, none),
        n=len(QUERIES),
        chance=1 / len(VOCAB),
    )


def _attention() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    scores = 2.0 * torch.randn(len(QUERIES), N_LAYERS, N_HEADS, 3, 3, generator=generator)
    later = torch.ones(3, 3, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def unpacked(panel: dict[str, str]) -> dict:
    """A panel's content, its arrays as lists."""
    arrays = zlib.decompress(base64.b64decode(panel["arrays"]))

    def with_arrays(value: dict):
        if value.keys() != {"at", "n", "width"}:
            return value
        return np.frombuffer(arrays, f"<u{value['width']}", value["n"], value["at"]).tolist()

    return json.loads(zlib.decompress(base64.b64decode(panel["head"])), object_hook=with_arrays)
