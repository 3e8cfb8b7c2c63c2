"""Reading the facts of two-hop questions from files of 2WikiMultihopQA and MuSiQue.

* 2WikiMultihopQA (Ho et al. 2020, github.com/Alab-NII/2wikimultihop): a JSON list of objects with `type`
  (compositional, inference, comparison, bridge_comparison), `evidences`, a list of [head, relation, tail], and
  `answer`.
* MuSiQue (Trivedi et al. 2022, github.com/StonyBrookNLP/musique): an object per line with `question_decomposition`, a
  list of `question` and `answer`, and `answer`, `answer_aliases`, `answerable`. The sub-questions that come from T-REx
  and Zero-shot RE read "Head >> relation" and "#1 >> relation"; those of other sources are free text.

Used are the items whose two facts chain, (h, r1, b) and (b, r2, t), and whose answer is t. A head and relation with two
tails in the file have no one answer: every item that uses such a fact is left out. Everything left out is counted.

A fact is what it is called: names are compared after white space and underscores became single spaces. The identifiers
of Wikidata that some releases add (`evidences_id`) are not read, so two things of one name are one entity.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from circuit_lab.errors import InputError, quoted
from circuit_lab.tasks.natural_language_config import QuestionFormat
from circuit_lab.tasks.safe_files import MAX_JSON_BYTES, load_json, open_regular

MAX_NAME_LENGTH = 200
WIKI_TYPES = ("compositional", "inference", "comparison", "bridge_comparison")
CHAINED_TYPES = WIKI_TYPES[:2]
"""Types of 2WikiMultihopQA whose two facts chain."""
_WHAT = "file of two-hop questions"


class LeftOut(StrEnum):
    """Why an item of a file is not used."""

    OTHER_TYPE = "another type of question"
    NOT_TWO_FACTS = "not two facts"
    FREE_TEXT = "sub-question in free text"
    NOT_CHAINED = "facts that do not chain"
    OTHER_ANSWER = "answer that is not the second tail"
    UNANSWERABLE = "unanswerable"
    UNSHOWABLE = "name that is empty, over 200 characters, or not plain text"
    AMBIGUOUS = "fact with two tails"
    REPEATED = "asked before"


class Fact(NamedTuple):
    """A head, a relation, and the one tail that they have."""

    head: str
    relation: str
    tail: str


class Chain(NamedTuple):
    """Two facts of which the first one's tail is the second one's head."""

    hop1: Fact
    hop2: Fact


@dataclass(frozen=True)
class TwoHopQuestions:
    """What a file of two-hop questions holds.

    Attributes:
        format: The file's format.
        asked: The chains of facts that the file asks for, each once, sorted.
        n_items: Items of the file.
        left_out: Number of items not used, by reason; they and the chains asked for make up the items.
        n_ambiguous: Pairs of head and relation that have more than one tail.
    """

    format: QuestionFormat
    asked: tuple[Chain, ...]
    n_items: int
    left_out: Mapping[LeftOut, int]
    n_ambiguous: int

    @cached_property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of the chains, each once, sorted."""
        return tuple(sorted({fact for chain in self.asked for fact in chain}))

    @cached_property
    def entities(self) -> tuple[str, ...]:
        """Heads and tails of the facts, sorted."""
        return tuple(sorted({name for fact in self.facts for name in (fact.head, fact.tail)}))

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """Relations of the facts, sorted."""
        return tuple(sorted({fact.relation for fact in self.facts}))

    @cached_property
    def n_compositions(self) -> int:
        """Chains that the facts make, asked for or not."""
        n_out = Counter(fact.head for fact in self.facts)
        return sum(n_out[fact.tail] for fact in self.facts)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the facts."""
        return hashlib.sha256(json.dumps(self.facts).encode()).hexdigest()

    def __repr__(self) -> str:
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.left_out.items())
        return (
            f"TwoHopQuestions({self.format}: {self.n_items} items; {len(self.facts)} facts, {len(self.entities)} "
            f"entities, {len(self.relations)} relations; {self.n_compositions} compositions, {len(self.asked)} of them "
            f"asked; left out: {reasons or 'none'})"
        )


def read_two_hop_questions(path: Path | str, *, format: QuestionFormat) -> TwoHopQuestions:
    """Read the facts of a file of two-hop questions.

    Args:
        path: The file, of at most a gigabyte.
        format: Its format.

    Returns:
        The facts, and what was left out.

    Raises:
        InputError: If an item is malformed, or none can be used; says which, and what was found.
    """
    path = Path(path)
    questions = questions_of_items(_ITEMS[format](path), format=format, source=path.name)
    if not questions.asked:
        reasons = ", ".join(f"{n} x {reason}" for reason, n in questions.left_out.items()) or "the file has no items"
        raise InputError(
            f"{path} holds no question of two chained facts among its {questions.n_items} items ({reasons}); give the "
            "training or development file, whose items carry evidences or a decomposition"
        )
    return questions


def questions_of_items(items: Iterable[Any], *, format: QuestionFormat, source: str) -> TwoHopQuestions:
    """The facts of items that are in memory.

    Args:
        items: The items, as JSON gives them.
        format: Their format.
        source: What errors call the file.

    Returns:
        The facts, and what was left out; a malformed item is an InputError.
    """
    read = [_CHAIN_OF[format](item, f"{source} item {index}") for index, item in enumerate(items)]
    chains = [chain for chain in read if isinstance(chain, tuple)]
    left_out = Counter(reason for reason in read if isinstance(reason, LeftOut))
    tails: dict[tuple[str, str], set[str]] = {}
    for fact in (fact for chain in chains for fact in chain):
        tails.setdefault(fact[:2], set()).add(fact.tail)
    certain = [chain for chain in chains if all(len(tails[fact[:2]]) == 1 for fact in chain)]
    asked = tuple(sorted(set(certain)))
    left_out += Counter({LeftOut.AMBIGUOUS: len(chains) - len(certain), LeftOut.REPEATED: len(certain) - len(asked)})
    return TwoHopQuestions(
        format=format,
        asked=asked,
        n_items=len(read),
        left_out=MappingProxyType({reason: left_out[reason] for reason in LeftOut if left_out[reason]}),
        n_ambiguous=sum(len(found) > 1 for found in tails.values()),
    )


def _items_of_list(path: Path) -> Iterator[Any]:
    """The items of a JSON list."""
    content = load_json(path, what=_WHAT)
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a list of items, got {type(content).__name__} {quoted(content)}")
    yield from content


def _items_of_lines(path: Path) -> Iterator[Any]:
    """The items of a file with one JSON value a line."""
    with open_regular(path, what=_WHAT, max_bytes=MAX_JSON_BYTES) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path} line {number} is not valid JSON: {error}; restore the file, or name the right format"
                ) from error


def _chain_of_2wiki(item: Any, where: str) -> Chain | LeftOut:
    kind, evidences = _text(item, "type", where), _list(item, "evidences", where)
    answer = _text(item, "answer", where)
    if kind not in WIKI_TYPES:
        raise InputError(f"{where}: unknown type {quoted(kind)}; the types are: {', '.join(WIKI_TYPES)}")
    for triple in evidences:
        if not isinstance(triple, list) or len(triple) != 3 or not all(isinstance(name, str) for name in triple):
            raise InputError(f"{where}: evidences must hold [head, relation, tail], got {quoted(triple)}")
    if kind not in CHAINED_TYPES:
        return LeftOut.OTHER_TYPE
    if len(evidences) != 2:
        return LeftOut.NOT_TWO_FACTS
    hop1, hop2 = (Fact(*map(_name, triple)) for triple in evidences)
    return _chain(hop1, hop2, answers=(answer,))


def _chain_of_musique(item: Any, where: str) -> Chain | LeftOut:
    steps, answer = _list(item, "question_decomposition", where), _text(item, "answer", where)
    asked = [(_text(step, "question", where), _text(step, "answer", where)) for step in steps]
    aliases = _list(item, "answer_aliases", where) if "answer_aliases" in item else []
    if not all(isinstance(alias, str) for alias in aliases):
        raise InputError(f"{where}: answer_aliases must hold strings, got {quoted(aliases)}")
    if item.get("answerable", True) is not True:
        return LeftOut.UNANSWERABLE
    if len(asked) != 2:
        return LeftOut.NOT_TWO_FACTS
    parts = [[_name(part) for part in question.split(">>")] for question, _ in asked]
    if any(len(part) != 2 for part in parts):
        return LeftOut.FREE_TEXT
    if parts[1][0] != "#1":
        return LeftOut.NOT_CHAINED
    bridge, tail = (_name(given) for _, given in asked)
    return _chain(Fact(parts[0][0], parts[0][1], bridge), Fact(bridge, parts[1][1], tail), answers=(answer, *aliases))


def _chain(hop1: Fact, hop2: Fact, *, answers: tuple[str, ...]) -> Chain | LeftOut:
    """The chain of two facts, or why it is none."""
    if not all(map(_is_showable, (*hop1, *hop2))):
        return LeftOut.UNSHOWABLE
    if hop1.tail != hop2.head:
        return LeftOut.NOT_CHAINED
    if hop2.tail not in map(_name, answers):
        return LeftOut.OTHER_ANSWER
    return Chain(hop1, hop2)


def _name(text: str) -> str:
    """A name as it is compared: white space and underscores are single spaces."""
    return " ".join(text.replace("_", " ").split())


def _is_showable(name: str) -> bool:
    """Whether a name can be a token: it is shown in terminals and pages, so it is short, printable and no markup."""
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() and not {*"<>"} & {*name}


def _text(item: Any, key: str, where: str) -> str:
    return _value(item, key, where, str, "a string")


def _list(item: Any, key: str, where: str) -> list[Any]:
    return _value(item, key, where, list, "a list")


def _value(item: Any, key: str, where: str, kind: type, kind_in_words: str) -> Any:
    if not isinstance(item, dict):
        raise InputError(f"{where}: expected an object with {key}, got {quoted(item)}")
    if not isinstance(item.get(key), kind):
        found = quoted(item[key]) if key in item else f"no such key (there are: {quoted(', '.join(item))})"
        raise InputError(f"{where}: {key} must be {kind_in_words}, got {found}")
    return item[key]


_ITEMS: Mapping[str, Callable[[Path], Iterator[Any]]] = {"2wiki": _items_of_list, "musique": _items_of_lines}
_CHAIN_OF: Mapping[str, Callable[[Any, str], Chain | LeftOut]] = {
    "2wiki": _chain_of_2wiki,
    "musique": _chain_of_musique,
}
