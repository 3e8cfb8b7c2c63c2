"""Dataset folders of the released two-hop code: written by us and read from anyone.

A folder holds `train.json`, `valid.json` (the `test_ood` queries), `test.json` (probes with a `type`) and
`vocab.json`. [He] adds `id_facts.json` and `ood_facts.json`. [Wang] has no fact files: there the facts are the atomic
training items, and the ID facts those that occur in an inferred training query. A [Wang] fact that `test.json` labels
keeps its label: at small phi some ID facts occur in no training query, and in a contaminated or augmented set OOD
facts occur in some.

Read from a folder are facts, training items and the two held-out splits; `hop1_ood` and `hop2_ood` follow from the
facts.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuit_lab.errors import InputError
from circuit_lab.tasks.dataset_files import (
    END_OF_ANSWER,
    Items,
    Vocabulary,
    has_file,
    read_facts,
    read_items,
    read_vocabulary,
)
from circuit_lab.tasks.fact_graph import FactGraph, find_facts
from circuit_lab.tasks.queries import NO_FACT, Queries
from circuit_lab.tasks.safe_files import file_kind
from circuit_lab.tasks.stable_random import Purpose, permutation
from circuit_lab.tasks.two_hop import Selection, TwoHopTask, assemble_task
from circuit_lab.tasks.two_hop_config import MAX_TWO_HOP_QUERIES, TwoHopFolderConfig
from circuit_lab.tasks.whole_folder import refuse_occupied, whole_folder

SPECIAL_TOKENS = ("<mask>", "<sep>", "<a>", END_OF_ANSWER, "<q>", "</q>")
TYPE_OF_SPLIT = {
    "atomic_id": "id_atomic",
    "atomic_ood": "ood_atomic",
    "train_inferred": "train_inferred",
    "test_id": "test_inferred_iid",
    "test_ood": "test_inferred_ood",
}
HOPS_ARE_OOD: Mapping[str, tuple[bool, ...] | None] = {
    "id_atomic": (False,),
    "ood_atomic": (True,),
    "train_inferred": None,
    "test_inferred_iid": (False, False),
    "test_inferred_ood": (True, True),
}
"""What a type of `test.json` says about each of its facts. `train_inferred` says nothing but that the query is an
inferred training item: the released code gives it to augmented queries too."""
FACT_FILES = ("id_facts.json", "ood_facts.json")


def write_dataset_folder(
    task: TwoHopTask,
    path: Path | str,
    *,
    probes_per_type: int | None = None,
    fact_files: bool = True,
    seed: int = 0,
) -> Path:
    """Write a task as a dataset folder that the released code trains on and `read_dataset_folder` reads.

    The folder appears whole or not at all. Read back, it gives the same facts, splits and training items, unless
    `probes_per_type` cut `test_id` or `test_ood` short (or, without fact files, the labels that tell OOD facts).

    Args:
        task: The task to write.
        path: The folder; it may exist if it is empty.
        probes_per_type: At most so many entries of each type in `test.json`, drawn at random; None writes all.
        fact_files: Whether to add the fact files of [He]; [Wang] has none.
        seed: Fixes which probes are drawn.

    Returns:
        The folder's path.
    """
    path = Path(path)
    _refuse_unwritable(task, path, probes_per_type=probes_per_type)
    contents = _file_contents(task, probes_per_type=probes_per_type, fact_files=fact_files, seed=seed)
    with whole_folder(path) as unfinished:
        for name, content in contents.items():
            _write_json(unfinished / name, content)
    return path


def _refuse_unwritable(task: TwoHopTask, path: Path, *, probes_per_type: int | None) -> None:
    """Raise an InputError for a folder in use, a senseless setting, or answers that the format cannot hold."""
    refuse_occupied(path, empty_folder_is_free=True)
    if probes_per_type is not None and probes_per_type < 1:
        raise InputError(f"probes_per_type must be at least 1, or None to write all, got {probes_per_type}")
    last_fact = task.training.facts[:, 1].where(task.training.facts[:, 1] != NO_FACT, task.training.facts[:, 0])
    n_wrong = int((task.facts[last_fact, 2] != task.training.answer).sum())
    if n_wrong:
        raise InputError(
            f"{n_wrong} of {len(task.training)} training answers contradict the facts (shuffled_answers = true); the "
            "dataset format cannot say so. Write the task without shuffled_answers"
        )


def _file_contents(
    task: TwoHopTask, *, probes_per_type: int | None, fact_files: bool, seed: int
) -> dict[str, Iterable[Any]]:
    """The entries of each file of the folder."""
    probes = (
        _entries(_probes(task.splits[split], probes_per_type, seed), task.vocab, kind=kind)
        for split, kind in TYPE_OF_SPLIT.items()
    )
    contents: dict[str, Iterable[Any]] = {
        "train.json": _entries(task.training, task.vocab, kind=None),
        "valid.json": _entries(task.splits["test_ood"], task.vocab, kind=None),
        "test.json": chain.from_iterable(probes),
        "vocab.json": [*task.vocab, *(token for token in SPECIAL_TOKENS if token not in task.vocab)],
    }
    if fact_files:
        for file, facts in zip(FACT_FILES, (task.facts[~task.is_ood], task.facts[task.is_ood]), strict=True):
            contents[file] = [[task.vocab[token] for token in fact] for fact in facts.tolist()]
    return contents


def _probes(queries: Queries, n: int | None, seed: int) -> Queries:
    if n is None or n >= len(queries):
        return queries
    chosen = np.sort(permutation(len(queries), seed=seed, purpose=Purpose.PROBES)[:n])
    return queries[torch.from_numpy(chosen)]


def _entries(queries: Queries, vocab: tuple[str, ...], *, kind: str | None) -> Iterator[dict[str, str]]:
    columns = (queries.tokens, queries.answer_position, queries.answer)
    for tokens, answer_position, answer in zip(*(column.tolist() for column in columns), strict=True):
        input_text = "".join(vocab[token] for token in tokens[: answer_position + 1])
        entry = {"input_text": input_text, "target_text": f"{input_text}{vocab[answer]}{END_OF_ANSWER}"}
        yield entry if kind is None else entry | {"type": kind}


def _write_json(path: Path, entries: Iterable[Any]) -> None:
    """Write a JSON list with one entry a line, holding one entry in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for index, entry in enumerate(entries):
            file.write(f"{',' if index else ''}\n{json.dumps(entry)}")
        file.write("\n]\n")
        file.flush()
        os.fsync(file.fileno())


def read_dataset_folder(path: Path | str) -> TwoHopTask:
    """Read a dataset folder of [He] or [Wang], strictly.

    Args:
        path: The folder.

    Returns:
        The task; its config is a `TwoHopFolderConfig`, and its token ids are those of `vocab.json`.

    Raises:
        InputError: A file is missing or malformed, or an entry contradicts the facts or another entry.
    """
    folder = Path(path)
    if file_kind(folder, what="dataset folder") != "folder":
        raise InputError(f"dataset folder {folder} does not exist; give a folder that holds train.json")
    vocabulary = read_vocabulary(folder / "vocab.json")
    train = read_items(folder / "train.json", vocabulary)
    valid = read_items(folder / "valid.json", vocabulary)
    test = read_items(folder / "test.json", vocabulary, types=tuple(HOPS_ARE_OOD))
    has_fact_files = any(has_file(folder, name) for name in FACT_FILES)
    source = _facts_from_files(folder, vocabulary) if has_fact_files else _facts_from_training(train, vocabulary)
    source = _sorted_facts(source, vocabulary)
    hops = {items.file: _find_hops(items, source.facts, vocabulary) for items in (train, valid, test)}
    is_ood = source.is_ood
    if is_ood is None:
        is_ood = _derive_is_ood(len(source.facts), hops["train.json"], test, hops["test.json"])
    _check_types(test, hops["test.json"], is_ood, vocabulary)
    _check_training_types(test, train, vocabulary)
    _check_size(source.facts, len(vocabulary.tokens))
    graph = FactGraph.from_facts(source.facts, is_ood, pad_token=vocabulary.pad_token)
    selection = _select(graph, hops["train.json"], test, hops["test.json"])
    config = TwoHopFolderConfig(path=str(path), content_hash=_content_hash(vocabulary, graph, selection))
    return assemble_task(config, vocabulary.tokens, graph, selection)


def _check_size(facts: Int[np.ndarray, "n_facts 3"], n_tokens: int) -> None:
    """A few megabytes of facts can chain into more queries than fit into memory."""
    n_out = np.bincount(facts[:, 0], minlength=n_tokens)
    n_queries = int(n_out[facts[:, 2]].sum())
    if n_queries > MAX_TWO_HOP_QUERIES:
        raise InputError(
            f"the facts of the dataset chain into {n_queries:,} two-hop queries; at most {MAX_TWO_HOP_QUERIES:,} are "
            "built, so leave some facts out"
        )


def build_folder_task(config: TwoHopFolderConfig) -> TwoHopTask:
    """Read the folder of `config` again; an InputError when it is not what it was."""
    task = read_dataset_folder(config.path)
    assert isinstance(task.config, TwoHopFolderConfig)
    if task.config.content_hash != config.content_hash:
        raise InputError(
            f"dataset folder {config.path} has changed: its content hash is {task.config.content_hash[:12]}..., "
            f"the config has {config.content_hash[:12]}...; restore the folder, or read it anew"
        )
    return task


@dataclass(frozen=True, eq=False)
class _FactSource:
    """Facts as the files give them.

    Attributes:
        facts: Token ids (h, r, t).
        is_ood: Which are OOD; None where no file says so.
        places: File and entry of each fact, for messages.
    """

    facts: Int[np.ndarray, "n_facts 3"]
    is_ood: Bool[np.ndarray, " n_facts"] | None
    places: list[str]


def _facts_from_files(folder: Path, vocabulary: Vocabulary) -> _FactSource:
    parts = [read_facts(folder / name, vocabulary) for name in FACT_FILES]
    places = [f"{name} entry {i}" for name, part in zip(FACT_FILES, parts, strict=True) for i in range(len(part))]
    is_ood = np.repeat([False, True], [len(part) for part in parts])
    return _FactSource(np.concatenate(parts), is_ood, places)


def _facts_from_training(train: Items, vocabulary: Vocabulary) -> _FactSource:
    atomic = np.flatnonzero(train.tokens[:, 2] == vocabulary.pad_token)
    facts = np.column_stack([train.tokens[atomic, :2], train.answers[atomic]])
    return _FactSource(facts, None, [f"{train.file} entry {index}" for index in atomic])


def _sorted_facts(source: _FactSource, vocabulary: Vocabulary) -> _FactSource:
    """The facts sorted by (h, r), which must be distinct."""
    if len(source.facts) == 0:
        raise InputError(
            f"the dataset has no facts; {', '.join(FACT_FILES)} or atomic items of train.json must give some"
        )
    order = np.lexsort((source.facts[:, 1], source.facts[:, 0]))
    facts = source.facts[order]
    repeated = np.flatnonzero((facts[1:, :2] == facts[:-1, :2]).all(axis=1))
    if len(repeated):
        first, second = sorted(order[repeated[0] : repeated[0] + 2])
        raise InputError(
            f"{source.places[second]}: {vocabulary.text(source.facts[second, :2])} already has a tail in "
            f"{source.places[first]}; a head and relation have one tail, so drop one entry"
        )
    is_ood = None if source.is_ood is None else source.is_ood[order]
    return _FactSource(facts, is_ood, [source.places[row] for row in order])


def _find_hops(items: Items, facts: Int[np.ndarray, "n_facts 3"], vocabulary: Vocabulary) -> Int[np.ndarray, "n 2"]:
    """The fact rows that each item chains, after checking that they exist, give its answer and are asked once."""

    def refuse(is_wrong: Bool[np.ndarray, " n"], problem: str, fix: str) -> None:
        for index in np.flatnonzero(is_wrong)[:1]:
            text = vocabulary.text(items.tokens[index])
            answer = vocabulary.tokens[items.answers[index]]
            raise InputError(f"{items.file} entry {index}: {text} -> {answer}: {problem}; {fix}")

    is_atomic = items.tokens[:, 2] == vocabulary.pad_token
    hop1 = find_facts(facts, items.tokens[:, 0], items.tokens[:, 1])
    refuse(hop1 == NO_FACT, "its first hop is not a fact", "add the fact or drop the entry")
    bridge = facts[hop1, 2]
    hop2 = np.where(is_atomic, NO_FACT, find_facts(facts, bridge, items.tokens[:, 2]))
    refuse(~is_atomic & (hop2 == NO_FACT), "its second hop is not a fact", "add the fact or drop the entry")
    right = facts[np.where(is_atomic, hop1, hop2), 2]
    refuse(right != items.answers, "the facts give another target", "correct target_text or the fact")
    is_repeated = np.ones(len(items.tokens), dtype=bool)
    is_repeated[np.unique(_query_keys(items, vocabulary), return_index=True)[1]] = False
    refuse(is_repeated, "an earlier entry asks the same", "drop one of them")
    return np.stack([hop1, hop2], axis=1)


def _derive_is_ood(
    n_facts: int,
    train_hops: Int[np.ndarray, "n_train 2"],
    test: Items,
    test_hops: Int[np.ndarray, "n_test 2"],
) -> Bool[np.ndarray, " {n_facts}"]:
    """OOD facts where no file lists them: in no inferred training query, unless `test.json` labels them."""
    is_ood = np.ones(n_facts, dtype=bool)
    is_ood[train_hops[train_hops[:, 1] != NO_FACT].reshape(-1)] = False
    assert test.types is not None
    for label_is_ood in (False, True):
        kinds = [kind for kind, hops in HOPS_ARE_OOD.items() if hops is not None and hops[0] is label_is_ood]
        labelled = test_hops[np.isin(test.types, kinds)].reshape(-1)
        is_ood[labelled[labelled != NO_FACT]] = label_is_ood
    return is_ood


def _check_types(
    test: Items, hops: Int[np.ndarray, "n 2"], is_ood: Bool[np.ndarray, " n_facts"], vocabulary: Vocabulary
) -> None:
    """Refuse an entry whose type contradicts its number of hops or the kind of its facts."""
    assert test.types is not None
    for index, (kind, rows) in enumerate(zip(test.types, hops, strict=True)):
        expected = HOPS_ARE_OOD[kind]
        actual = tuple(bool(is_ood[row]) for row in rows if row != NO_FACT)
        if expected is not None and actual != expected:
            raise InputError(
                f"{test.file} entry {index}: {vocabulary.text(test.tokens[index])} has the type {kind}, which needs "
                f"{_describe(expected)}, but has {_describe(actual)}; correct the type or the facts"
            )


def _check_training_types(test: Items, train: Items, vocabulary: Vocabulary) -> None:
    """Refuse an entry of type `train_inferred` that is no inferred training item."""
    is_inferred = train.tokens[:, 2] != vocabulary.pad_token
    is_trained = np.isin(_query_keys(test, vocabulary), _query_keys(train, vocabulary)[is_inferred])
    is_wrong = ~is_trained & (np.array(test.types) == "train_inferred")
    for index in np.flatnonzero(is_wrong)[:1]:
        raise InputError(
            f"{test.file} entry {index}: {vocabulary.text(test.tokens[index])} has the type train_inferred but is no "
            f"inferred item of {train.file}; correct the type or add it there"
        )


def _query_keys(items: Items, vocabulary: Vocabulary) -> Int[np.ndarray, " n"]:
    """One integer per item, equal exactly where the inputs are."""
    n_tokens = len(vocabulary.tokens)
    return items.tokens @ np.array([n_tokens**2, n_tokens, 1])


def _describe(hops_are_ood: tuple[bool, ...]) -> str:
    kinds = " then ".join("an OOD fact" if is_ood else "an ID fact" for is_ood in hops_are_ood)
    return f"{len(hops_are_ood)} hop{'s' if len(hops_are_ood) > 1 else ''} ({kinds})"


def _select(
    graph: FactGraph, train_hops: Int[np.ndarray, "n_train 2"], test: Items, test_hops: Int[np.ndarray, "n_test 2"]
) -> Selection:
    """Rows of the graph for the training items and the held-out splits."""
    assert test.types is not None
    types = np.array(test.types)
    held_out = {}
    for kind in ("test_inferred_iid", "test_inferred_ood"):
        held_out[kind] = _pair_rows(graph, test_hops[types == kind])
        if len(held_out[kind]) == 0:
            raise InputError(f"{test.file}: no entry has the type {kind}; a task needs at least one")
    is_atomic = train_hops[:, 1] == NO_FACT
    return Selection(
        training_facts=np.sort(train_hops[is_atomic, 0]),
        training_pairs=_pair_rows(graph, train_hops[~is_atomic]),
        test_id=held_out["test_inferred_iid"],
        test_ood=held_out["test_inferred_ood"],
    )


def _pair_rows(graph: FactGraph, hops: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, " n"]:
    """Rows of `graph.pairs` that hold these pairs of facts, ascending."""
    keys = graph.pairs @ np.array([len(graph.facts), 1])
    return np.searchsorted(keys, np.sort(hops @ np.array([len(graph.facts), 1])))


def _content_hash(vocabulary: Vocabulary, graph: FactGraph, selection: Selection) -> str:
    digest = hashlib.sha256(json.dumps(vocabulary.tokens).encode())
    for values in (graph.facts, graph.is_ood, *vars(selection).values()):
        digest.update(f"{values.shape}".encode())
        digest.update(np.ascontiguousarray(values.astype("<i8")).data)
    return digest.hexdigest()
