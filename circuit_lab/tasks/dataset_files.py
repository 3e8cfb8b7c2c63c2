"""Strict reading of the JSON files of a two-hop dataset folder into token ids.

An input of two tokens is an atomic item, of three an inferred one; a target repeats the input, then gives the answer
and `</a>`. Nothing is guessed: whatever cannot be understood is an InputError with the file, the entry and its value.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from circuit_lab.errors import InputError, quoted
from circuit_lab.tasks.safe_files import check_inside, file_kind, load_json
from circuit_lab.tasks.two_hop import ENTITY_PREFIX, PAD, RELATION_PREFIX

END_OF_ANSWER = "</a>"
MAX_TOKENS = 1_000_000
MAX_TOKEN_LENGTH = 200
ENTRY_KEYS = ("input_text", "target_text", "type")
_ENTITY = rf"({ENTITY_PREFIX}[^<>]+>)"
_RELATION = rf"({RELATION_PREFIX}[^<>]+>)"
_INPUT = re.compile(f"{_ENTITY}{_RELATION}{_RELATION}?")
_BRACKETED = re.compile(r"<[\w./-]+>")
_ANSWER = re.compile(f"{_ENTITY}{re.escape(END_OF_ANSWER)}")


@dataclass(frozen=True, eq=False)
class Items:
    """The entries of one file, in its order.

    Attributes:
        file: The file's name, for messages.
        tokens: Token ids (h, r1, r2), with the pad token for r2 in an atomic item.
        answers: Token id of each answer.
        types: Each entry's `type`, or None where the file needs none.
    """

    file: str
    tokens: Int[np.ndarray, "n 3"]
    answers: Int[np.ndarray, " n"]
    types: tuple[str, ...] | None


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, with the pad token appended where the file lacks it."""

    tokens: tuple[str, ...]
    ids: dict[str, int]

    @property
    def pad_token(self) -> int:
        """Token id of the pad token."""
        return self.ids[PAD]

    def text(self, token_ids: Sequence[int] | np.ndarray) -> str:
        """The tokens run together, pads left out."""
        return "".join(self.tokens[token] for token in token_ids if token != self.pad_token)


def read_vocabulary(path: Path) -> Vocabulary:
    """Read `vocab.json`: a list of tokens, or a map from token to id."""
    content = _load_json(path)
    tokens = list(content) if isinstance(content, list) else _tokens_in_id_order(content, path.name)
    if len(tokens) > MAX_TOKENS:
        raise InputError(f"{path.name} has {len(tokens):,} tokens; at most {MAX_TOKENS:,} are read")
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            raise InputError(f"{path.name} entry {index}: a token must be a string, got {quoted(token)}")
        _check_token(token, f"{path.name} entry {index}")
        if token in ids:
            raise InputError(f"{path.name} entry {index}: {token!r} is already entry {ids[token]}; drop one")
        ids[token] = index
    ids.setdefault(PAD, len(ids))
    return Vocabulary(tuple(ids), ids)


def _check_token(token: str, where: str) -> None:
    """Tokens are shown in terminals and pages, so they are short, printable and no markup."""
    if not 0 < len(token) <= MAX_TOKEN_LENGTH:
        raise InputError(f"{where}: a token must have 1 to {MAX_TOKEN_LENGTH} characters, got {len(token)}")
    if not token.isprintable():
        raise InputError(f"{where}: a token must not hold control characters, got {quoted(token)}; rename it")
    if ("<" in token or ">" in token) and _BRACKETED.fullmatch(token) is None:
        raise InputError(
            f"{where}: between the brackets of a token stand letters, digits and _ . / - only, got {quoted(token)}; "
            "rename it"
        )


def _tokens_in_id_order(content: Any, file: str) -> list[str]:
    if not isinstance(content, dict):
        raise InputError(
            f"{file}: expected a list of tokens or a map from token to id, "
            f"got {type(content).__name__} {quoted(content)}"
        )
    for token, index in content.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(content):
            raise InputError(f"{file}: the id of {token!r} must be a whole number below {len(content)}, got {index!r}")
    by_id = {index: token for token, index in content.items()}
    if len(by_id) < len(content):
        token = next(token for token, index in content.items() if by_id[index] != token)
        raise InputError(f"{file}: {token!r} and {by_id[content[token]]!r} both have the id {content[token]}")
    return [by_id[index] for index in range(len(content))]


def read_items(path: Path, vocabulary: Vocabulary, *, types: Sequence[str] | None = None) -> Items:
    """Read `train.json`, `valid.json` or `test.json`.

    Args:
        path: The file.
        vocabulary: Tokens and their ids.
        types: The types an entry must have one of; None where a type is not needed and is ignored.

    Returns:
        The entries as token ids. Whether they agree with the facts is not checked here.
    """
    entries = _load_list(path)
    tokens = np.empty((len(entries), 3), dtype=np.int64)
    answers = np.empty(len(entries), dtype=np.int64)
    for index, entry in enumerate(entries):
        where = f"{path.name} entry {index}"
        _check_entry(entry, where, types)
        names, answer = _parse_texts(entry["input_text"], entry["target_text"], where)
        tokens[index] = [_token_id(name, vocabulary, where) for name in names]
        answers[index] = _token_id(answer, vocabulary, where)
    return Items(path.name, tokens, answers, None if types is None else tuple(entry["type"] for entry in entries))


def read_facts(path: Path, vocabulary: Vocabulary) -> Int[np.ndarray, "n 3"]:
    """Read `id_facts.json` or `ood_facts.json`: a list of [head, relation, tail]."""
    entries = _load_list(path)
    facts = np.empty((len(entries), 3), dtype=np.int64)
    for index, entry in enumerate(entries):
        where = f"{path.name} entry {index}"
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(name, str) for name in entry):
            raise InputError(f"{where}: expected [head, relation, tail], got {quoted(entry)}")
        prefixes = (ENTITY_PREFIX, RELATION_PREFIX, ENTITY_PREFIX)
        for name, prefix in zip(entry, prefixes, strict=True):
            if not name.startswith(prefix):
                raise InputError(f"{where}: expected a token {prefix}...> in {quoted(entry)}, got {name!r}")
        facts[index] = [_token_id(name, vocabulary, where) for name in entry]
    return facts


def has_file(folder: Path, name: str) -> bool:
    """Whether a dataset folder has a file; an InputError for a link that leads out of it or nowhere."""
    check_inside(folder, name)
    return file_kind(folder / name, what="dataset file") is not None


def _load_json(path: Path) -> Any:
    if not has_file(path.parent, path.name):
        raise InputError(f"{path.name} is missing from the dataset folder {path.parent}; copy it there")
    return load_json(check_inside(path.parent, path.name), what="dataset")


def _load_list(path: Path) -> list[Any]:
    content = _load_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path.name}: expected a list of entries, got {type(content).__name__} {quoted(content)}")
    return content


def _check_entry(entry: Any, where: str, types: Sequence[str] | None) -> None:
    needed = ENTRY_KEYS if types is not None else ENTRY_KEYS[:2]
    if not isinstance(entry, dict):
        raise InputError(f"{where}: expected an object with {', '.join(needed)}, got {quoted(entry)}")
    for key in needed:
        if not isinstance(entry.get(key), str):
            raise InputError(f"{where}: {key} must be a string, got {quoted(entry.get(key))} in {quoted(entry)}")
    for key in entry:
        if key not in ENTRY_KEYS:
            raise InputError(f"{where}: unknown key {quoted(key)}; the keys are: {', '.join(ENTRY_KEYS)}")
    if types is not None and entry["type"] not in types:
        raise InputError(f"{where}: unknown type {quoted(entry['type'])}; the types are: {', '.join(types)}")


def _parse_texts(input_text: str, target_text: str, where: str) -> tuple[list[str], str]:
    """The three input tokens (`PAD` for the third of an atomic item) and the answer."""
    names = _INPUT.fullmatch(input_text)
    if names is None:
        raise InputError(
            f"{where}: input_text must be an entity and one or two relations, such as '<e_1><r_2>', "
            f"got {quoted(input_text)}"
        )
    answer = _ANSWER.fullmatch(target_text.removeprefix(input_text)) if target_text.startswith(input_text) else None
    if answer is None:
        raise InputError(
            f"{where}: target_text must be the input_text, an entity and {END_OF_ANSWER}, such as "
            f"{quoted(input_text[:120] + '<e_3>' + END_OF_ANSWER)}, got {quoted(target_text)}"
        )
    return [name or PAD for name in names.groups()], answer[1]


def _token_id(name: str, vocabulary: Vocabulary, where: str) -> int:
    if name not in vocabulary.ids:
        raise InputError(f"{where}: token {quoted(name)} is not in vocab.json ({len(vocabulary.ids)} tokens)")
    return vocabulary.ids[name]
