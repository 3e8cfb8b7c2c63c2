"""What the query explorer of a report needs: every shown query with its lens, attention and transplants, packed small.

The explorer (static/explorer/) draws; this module only writes the numbers of the exhibits as whole ones, in flat
arrays whose last axis runs fastest. `head` is JSON in which each array is `{"at", "n", "width"}`: n unsigned integers
of that many bytes, little end first, from byte `at` of `arrays`. Both are compressed (zlib) and then written in base64.
The content:

* `family`; `vocab`, `positions`, `splits`: names, to which ids and numbers refer; `outcomes`: `name` and `meaning`.
* `n_queries`, and per query: `split`, `outcome`, `right`, `in_training`, `answer`, `predicted`, `bridge` (two-hop
  only), `tokens` [n, position].
* `totals`: `[split, outcome, queries]`, shown or not.
* `checks`: `name`, `meaning` and `passed` [n]; the three tests of a two-hop net, the ablations of a modular one.
* `lens`: `sites`, `targets`, `top_k`, `chance` (per cent); `tokens` and `percent` [n, site, position, top_k]; `rank`
  and `target_percent` [n, target, site, position].
* `attention` (null in a net without): `layers` and `positions`, names of the layers and of what is attended (the
  positions of the tokens, behind a learned prefix's), `n_heads`, `causal`, `percent` [n, layer, head, to, from],
  without the `from` that a causal net cannot look at, and without the last of each row, as a row adds up to 100.
* `transplants` (two-hop only): `tests`, `sites`; `partners` [partner, position]; per transplant `query`, `test`,
  `site`, `partner`, `wanted`, `answered`, `passed`; and `passed_of` [n, test, site, 2]: how many of the query's own
  transplants passed in the diagnosis, and how many there were.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from circuit_lab.measures import LogitLens
from circuit_lab.verdict import Diagnosis
from circuit_lab.verdict.exhibits import Exhibits, ModularExhibits, TwoHopExhibits
from circuit_lab.verdict.exhibits.modular import ONLY, WITHOUT
from circuit_lab.verdict.modular.outcomes import Outcome as ModularOutcome
from circuit_lab.verdict.two_hop.outcomes import Outcome as TwoHopOutcome

TWO_HOP_MEANINGS = {
    TwoHopOutcome.CIRCUIT: "The answer is right, and at one site all three transplant tests pass: it went through the "
    "bridge.",
    TwoHopOutcome.SHORTCUT: "The answer is right, but at no site that hands on the bridges of training queries do "
    "all three transplant tests pass: it was not found by way of the bridge.",
    TwoHopOutcome.SECOND_HOP_FAILURE: "The answer is wrong. The query hands on its bridge (hop 1 passes), but even a "
    "bridge lent by a query that works does not lead to the answer (hop 2 fails).",
    TwoHopOutcome.FIRST_HOP_FAILURE: "The answer is wrong. With a bridge lent by a query that works the net finds the "
    "answer (hop 2 passes), but the query does not hand on a bridge of its own (hop 1 fails).",
    TwoHopOutcome.COMPOSITION_FAILURE: "The answer is wrong although each hop works by itself (hop 1 and hop 2 pass): "
    "the net does not put them together.",
    TwoHopOutcome.NO_CIRCUIT: "The answer is wrong, and neither hop works (hop 1 and hop 2 fail).",
    TwoHopOutcome.UNTESTABLE: "The query has fewer than three partners for a test that its outcome needs, so the "
    "transplants cannot say how it was answered.",
}
MODULAR_MEANINGS = {
    ModularOutcome.CIRCUIT: "The answer is right; without the key frequencies it is lost, at the inputs and at the "
    "answer, and without random subspaces it is kept: it went through the key frequencies.",
    ModularOutcome.SHORTCUT: "The answer is right, but not by way of the key frequencies alone: from memory, or by "
    "some other way.",
    ModularOutcome.WRONG: "The answer is wrong.",
}
_TESTS = {
    "hop1": ("hop 1", "The query's state, put into a query that works, brings its bridge along: the answer becomes "
    "that of the query's bridge and the other query's second relation."),
    "hop2": ("hop 2", "The state of a query that works, with the same bridge, is put into this query: the right answer "
    "must come out."),
    "interchange": ("interchange", "The state of a query that works, with another bridge, is put into this query: the "
    "answer must become that of the other bridge and this query's second relation."),
}  # fmt: skip


def explorer_panel(diagnosis: Diagnosis, exhibits: Exhibits | None) -> dict[str, Any] | None:
    """The data of the query explorer.

    Args:
        diagnosis: A diagnosis with its measurements.
        exhibits: What `gather_exhibits` made of it.

    Returns:
        `{"head": ..., "arrays": ...}` as described in the module's text. None without exhibits.
    """
    if exhibits is None:
        return None
    if isinstance(exhibits, TwoHopExhibits):
        content = _shared_content(exhibits, TWO_HOP_MEANINGS) | _two_hop_content(diagnosis, exhibits)
    else:
        content = _shared_content(exhibits, MODULAR_MEANINGS) | _modular_content(exhibits)
    return _packed(content)


def _packed(content: Mapping[str, Any]) -> dict[str, str]:
    arrays = bytearray()

    def reference(array: np.ndarray) -> dict[str, int]:
        width = next(width for width in (1, 2, 4) if array.max(initial=0) < 256**width)
        at = len(arrays)
        arrays.extend(array.astype(f"<u{width}").tobytes())
        return {"at": at, "n": array.size, "width": width}

    # Token names may hold half a surrogate pair, which UTF-8 cannot: JSON's own escapes can.
    head = json.dumps(content, default=reference, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    return {"head": _compressed(head), "arrays": _compressed(bytes(arrays))}


def _compressed(text: bytes) -> str:
    return base64.b64encode(zlib.compress(text, level=9)).decode("ascii")


def _shared_content(exhibits: Exhibits, meanings: Mapping[Any, str]) -> dict[str, Any]:
    queries = exhibits.queries
    names = [str(outcome) for outcome in meanings]
    splits = list(dict.fromkeys(split for split, _ in exhibits.n_of_outcome))
    return {
        "vocab": list(exhibits.vocab),
        "positions": list(exhibits.position_names),
        "splits": splits,
        "outcomes": [{"name": str(outcome), "meaning": meaning} for outcome, meaning in meanings.items()],
        "n_queries": len(queries),
        "split": _numbers_in(splits, queries["split"]),
        "outcome": _numbers_in(names, queries["outcome"]),
        "right": _flat(queries["right"]),
        "answer": _flat(queries["answer"]),
        "predicted": _flat(queries["predicted"]),
        "tokens": _flat(queries[list(exhibits.position_names)]),
        "totals": [[splits.index(s), names.index(o), int(n)] for (s, o), n in exhibits.n_of_outcome.items() if n],
        "lens": _lens_content(exhibits.lens),
        "attention": _attention_content(exhibits),
    }


def _lens_content(lens: LogitLens) -> dict[str, Any]:
    return {
        "sites": list(lens.sites),
        "targets": list(lens.targets),
        "top_k": lens.top_tokens.shape[-1],
        "chance": round(100 * lens.chance, 2),
        "tokens": _flat(lens.top_tokens.permute(2, 0, 1, 3)),
        "percent": _flat(_percent(lens.top_probabilities.permute(2, 0, 1, 3))),
        "rank": _flat(lens.rank.permute(3, 0, 1, 2)),
        "target_percent": _flat(_percent(lens.probability.permute(3, 0, 1, 2))),
    }


def _attention_content(exhibits: Exhibits) -> dict[str, Any] | None:
    attention = exhibits.attention
    if attention is None:
        return None
    n_ctx = attention.shape[-1]
    causal = not attention.triu(1).any()
    # What is rounded is what a row adds up to so far: so its whole numbers add up to 100.
    so_far = np.rint(100 * attention.double().cpu().numpy().cumsum(-1))
    percent = np.diff(so_far, prepend=0.0)
    kept = np.tril(np.ones((n_ctx, n_ctx), dtype=bool), -1 if causal else n_ctx)
    kept[:, -1] = False
    return {
        "layers": list(exhibits.layer_names),
        "positions": list(exhibits.attended),
        "n_heads": attention.shape[2],
        "causal": causal,
        "percent": _flat(percent[..., kept]),
    }


def _two_hop_content(diagnosis: Diagnosis, exhibits: TwoHopExhibits) -> dict[str, Any]:
    queries, read = exhibits.queries, diagnosis.measurements.queries
    checks = [
        {"name": words, "meaning": meaning, "passed": _flat(queries[test])} for test, (words, meaning) in _TESTS.items()
    ]
    return {
        "family": "two_hop",
        "bridge": _flat(queries["bridge"]),
        "in_training": _flat(
            [
                int(read[split]["in_training"].iloc[row])
                for split, row in zip(queries["split"], queries["row"], strict=True)
            ]
        ),
        "checks": checks,
        "transplants": _transplants_content(diagnosis, exhibits),
    }


def _transplants_content(diagnosis: Diagnosis, exhibits: TwoHopExhibits) -> dict[str, Any]:
    made = exhibits.transplants
    sites = list(dict.fromkeys(made["site"]))
    # In hop 1 the query lends its state, in the other tests it receives one.
    others = [
        tuple(source if test != "hop1" else receiver)
        for test, receiver, source in zip(made["test"], made["receiver"], made["source"], strict=True)
    ]
    number_of = {tokens: number for number, tokens in enumerate(dict.fromkeys(others))}
    return {
        "tests": [
            {"name": words, "lends": test == "hop1", "meaning": meaning} for test, (words, meaning) in _TESTS.items()
        ],
        "sites": sites,
        "partners": _flat([token for tokens in number_of for token in tokens]),
        "query": _flat(made["query"]),
        "test": _numbers_in(list(_TESTS), made["test"]),
        "site": _numbers_in(sites, made["site"]),
        "partner": _flat([number_of[tokens] for tokens in others]),
        "wanted": _flat(made["wanted"]),
        "answered": _flat(made["answered"]),
        "passed": _flat(made["passed"]),
        "passed_of": _flat(_passed_of(diagnosis, exhibits.queries, sites)),
    }


def _passed_of(diagnosis: Diagnosis, queries: pd.DataFrame, sites: Sequence[str]) -> list[int]:
    """Of each shown query, test and site: the transplants that passed in the diagnosis, and those made."""
    counts = []
    for split, row in zip(queries["split"], queries["row"], strict=True):
        tests = diagnosis.measurements.tests[split]
        labels = [site.label(tests.position_names) for site in tests.sites]
        for name in _TESTS:
            test = getattr(tests, name)
            for site in sites:
                counts += [int(test.passed[labels.index(site), row].sum()), int(test.exists[row].sum())]
    return counts


def _modular_content(exhibits: ModularExhibits) -> dict[str, Any]:
    queries = exhibits.queries
    left, right = (queries[name].to_numpy() for name in exhibits.position_names[:2])
    return {
        "family": "modular",
        "in_training": None if exhibits.in_training is None else _flat(exhibits.in_training.numpy()[left, right]),
        "checks": [
            {"name": name, "meaning": meaning, "passed": _flat(queries[column])}
            for column in queries.columns
            if isinstance(column, str)
            for name, meaning in _ablation_in_words(column)
        ],
    }


def _ablation_in_words(column: str) -> list[tuple[str, str]]:
    """Name and meaning of the ablation whose answers a column holds; nothing for other columns."""
    if column.startswith(WITHOUT):
        site = column.removeprefix(WITHOUT)
        return [(f"without the key frequencies at the {site}", "a circuit that uses them loses its answer")]
    if column.startswith(ONLY):
        site = column.removeprefix(ONLY)
        return [(f"with nothing but the key frequencies at the {site}", "a circuit that uses them keeps its answer")]
    return []


def _percent(shares: Tensor) -> np.ndarray:
    return (100 * shares.double().cpu().numpy()).round()


def _flat(values: Tensor | np.ndarray | pd.Series | pd.DataFrame | Sequence[int]) -> np.ndarray:
    return np.asarray(values).astype(int).ravel()


def _numbers_in(names: Sequence[str], values: Iterable[Any]) -> np.ndarray:
    number_of = {name: number for number, name in enumerate(names)}
    return _flat([number_of[str(value)] for value in values])
