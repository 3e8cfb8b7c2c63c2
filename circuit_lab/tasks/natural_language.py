"""Two-hop questions in natural language as a `TwoHopTask`: the facts of a file, split and augmented as in [He].

Asked is every composition of the file's facts, whether or not the file asks it: the splits of [He] (arXiv 2601.09049)
and its augmentation are defined over all of them, and which of them a file asks says nothing of what a net can compose.
`questions` says how many the file asks. ID and OOD facts, held-out queries and augmentation follow from the config's
seed by the same code as those of `TwoHopConfig`.

Two forms of the same queries:

| form | a two-hop query | a single fact |
|---|---|---|
| tokens | `<e_Ada_Lovelace> <r_mother> <r_employer>` | `<e_Ada_Lovelace> <r_mother> <pad>` |
| words | `Ada Lovelace 's_mother 's_employer is` | `Ada Lovelace 's_mother is <pad>` |

In both the answer is the entity's own token, `<e_...>`; in words it is read at "is". Deviations of the words from
running text, so that a position means the same in every row and there are few of them (the causal tests try every set
of positions, 30 for these five, 126 for seven): a name has two places, its last word and all words before it, joined
by underscores (`<pad>` where there is one word); a relation is one token, the genitive and its words joined likewise;
the file's own wording of the question is not used. In words an entity asked about and an entity answered share no
token, and names share words.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from itertools import chain
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.errors import InputError, quoted
from circuit_lab.tasks.fact_graph import FactGraph
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig
from circuit_lab.tasks.natural_language_files import TwoHopQuestions, questions_of_items, read_two_hop_questions
from circuit_lab.tasks.natural_language_world import world_items
from circuit_lab.tasks.queries import NO_FACT, Queries
from circuit_lab.tasks.stable_random import Purpose, permutation, rounded_share
from circuit_lab.tasks.two_hop import ENTITY_PREFIX, PAD, RELATION_PREFIX, TwoHopTask, assemble_task, select_queries
from circuit_lab.tasks.two_hop_config import MAX_TWO_HOP_QUERIES

WORD_POSITIONS = ("h first", "h", "r1", "r2", "is")
"""What stands at each position in words: the words of the name, the relations, "is"."""
GENITIVE, COPULA = "'s_", "is"


@dataclass(frozen=True, eq=False, repr=False)
class NaturalLanguageTask(TwoHopTask):
    """A two-hop task over the facts of a question file or of a drawn world.

    Attributes:
        config: What the task was built from; its `content_hash` is that of the facts.
        questions: The facts, what the file asks, and what was left out of it.
    """

    config: NaturalLanguageConfig
    questions: TwoHopQuestions

    def __repr__(self) -> str:
        whole = super().__repr__().removeprefix("TwoHopTask(").removesuffix(")")
        return f"NaturalLanguageTask({self.config.form}: {whole})"


def build_natural_language_task(config: NaturalLanguageConfig) -> NaturalLanguageTask:
    """Build the task that `config` describes; equal configs and facts give equal tasks on every machine.

    Args:
        config: The file or world, the form, and how to split.

    Returns:
        The task.

    Raises:
        InputError: If the file is malformed, has changed, or holds too few facts, or too many, for a task.

    >>> from circuit_lab.tasks.natural_language_config import WorldConfig
    >>> build_natural_language_task(NaturalLanguageConfig(world=WorldConfig(), ood_share=0.2, form="words"))
    NaturalLanguageTask(words: 34 entities, 362 facts of which 73 OOD, 2873 training items, 175 test_ood, clean)
    """
    questions = _questions(config)
    if config.content_hash not in (None, questions.content_hash):
        raise InputError(
            f"the facts of {_source(config)} have changed: their content hash is {questions.content_hash[:12]}..., the "
            f"config has {config.content_hash[:12]}...; restore the file, or leave content_hash out to take them as "
            "they are"
        )
    task = _assemble(config, questions)
    return task if config.form == "tokens" else _in_words(task)


def _questions(config: NaturalLanguageConfig) -> TwoHopQuestions:
    if config.world is None:
        return read_two_hop_questions(config.path, format=config.format)
    return questions_of_items(world_items(config.world), format=config.format, source="the drawn world")


def _source(config: NaturalLanguageConfig) -> str:
    return quoted(config.path) if config.world is None else f"the world {config.world!r}"


def _assemble(config: NaturalLanguageConfig, questions: TwoHopQuestions) -> NaturalLanguageTask:
    """The task in the form of tokens."""
    splitting = config.splitting(n_entities=max(2, len(questions.entities)), n_relations=len(questions.relations))
    graph = _graph(config, questions)
    _refuse_too_few(config, questions, graph)
    vocab = (
        *(f"{ENTITY_PREFIX}{_joined(entity)}>" for entity in questions.entities),
        *(f"{RELATION_PREFIX}{_joined(relation)}>" for relation in questions.relations),
        PAD,
    )
    task = assemble_task(splitting, vocab, graph, select_queries(splitting, graph))
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    config = config.model_copy(update={"content_hash": questions.content_hash})
    return NaturalLanguageTask(**{**values, "config": config, "questions": questions})


def _graph(config: NaturalLanguageConfig, questions: TwoHopQuestions) -> FactGraph:
    """The facts in token ids, with the OOD facts drawn."""
    if questions.n_compositions > MAX_TWO_HOP_QUERIES:
        raise InputError(
            f"the facts of {_source(config)} chain into {questions.n_compositions:,} two-hop queries; at most "
            f"{MAX_TWO_HOP_QUERIES:,} are built, so leave some items out"
        )
    n_entities = len(questions.entities)
    entity = {name: index for index, name in enumerate(questions.entities)}
    relation = {name: n_entities + index for index, name in enumerate(questions.relations)}
    facts = np.array([[entity[h], relation[r], entity[t]] for h, r, t in questions.facts], dtype=np.int64)
    facts = facts[np.lexsort((facts[:, 1], facts[:, 0]))]
    is_ood = np.zeros(len(facts), dtype=bool)
    order = permutation(len(facts), seed=config.seed, purpose=Purpose.OOD_FACTS)
    is_ood[order[: rounded_share(config.ood_share, len(facts))]] = True
    return FactGraph.from_facts(facts, is_ood, pad_token=n_entities + len(relation))


def _refuse_too_few(config: NaturalLanguageConfig, questions: TwoHopQuestions, graph: FactGraph) -> None:
    n_id = len(graph.pair_rows(hop1_ood=False, hop2_ood=False))
    n_ood = len(graph.pair_rows(hop1_ood=True, hop2_ood=True))
    if n_id < 2 or n_ood < 1:
        raise InputError(
            f"{_source(config)} has too few facts that chain for a task: {questions!r}; with ood_share = "
            f"{config.ood_share:g}, seed = {config.seed} there are {n_id} ID-ID queries, 2 are needed, and {n_ood} "
            "OOD-OOD queries, 1 is needed; change ood_share, or give a larger file"
        )


def _joined(name: str) -> str:
    """A name as one token, in which names that differ differ, for they hold no underscores."""
    return name.replace(" ", "_")


def _in_words(task: NaturalLanguageTask) -> NaturalLanguageTask:
    """The same queries in words; facts, answers, bridges and splits stay, with their ids."""
    rendering = _Rendering.of(task)
    splits = {name: rendering.rendered(queries) for name, queries in task.splits.items()}
    digest = hashlib.sha256(f"{task.certificate.task_hash} in words {rendering.vocab}".encode()).hexdigest()
    return replace(
        task,
        vocab=rendering.vocab,
        splits=MappingProxyType(splits),
        training=rendering.rendered(task.training),
        certificate=replace(task.certificate, task_hash=digest),
    )


@dataclass(frozen=True, eq=False)
class _Rendering:
    """How queries are put in words.

    Attributes:
        vocab: The entities as answers, with the ids they had; then relations, with the ids they had; then the words.
        words_of_name: Token ids of the two places of each entity's name.
    """

    vocab: tuple[str, ...]
    words_of_name: Int[Tensor, "n_entities 2"]

    @classmethod
    def of(cls, task: NaturalLanguageTask) -> "_Rendering":
        """Every word in the order of first use; a relation that is called like a name is another word."""
        questions = task.questions
        names = [_words_of_name(name) for name in questions.entities]
        relations = [f"{GENITIVE}{_joined(relation)}" for relation in questions.relations]
        words = [*relations, *chain.from_iterable(names), COPULA, PAD]
        vocab = (*task.vocab[: len(names)], *dict.fromkeys(word for word in words if word != PAD), PAD)
        ids = {token: index for index, token in enumerate(vocab)}
        return cls(vocab, torch.tensor([[ids[word] for word in name] for name in names]))

    def rendered(self, queries: Queries) -> Queries:
        """Queries of one split; single facts are shorter by one word."""
        heads, relation1, relation2 = queries.tokens.unbind(1)
        is_atomic = queries.facts[:, 1] == NO_FACT
        copula, pad = (self.vocab.index(word) for word in (COPULA, PAD))
        words = self.words_of_name[heads]
        after_r1 = torch.where(is_atomic, copula, relation2)
        after_r2 = torch.where(is_atomic, pad, copula)
        last = len(WORD_POSITIONS) - 1
        return replace(
            queries,
            tokens=torch.stack([words[:, 0], words[:, 1], relation1, after_r1, after_r2], dim=1),
            answer_position=torch.where(is_atomic, last - 1, last),
            position_names=WORD_POSITIONS,
        )


def _words_of_name(name: str) -> tuple[str, str]:
    """What stands in the two places of a name.

    >>> _words_of_name("Ada Lovelace"), _words_of_name("J. R. R. Tolkien"), _words_of_name("Valdoria")
    (('Ada', 'Lovelace'), ('J._R._R.', 'Tolkien'), ('<pad>', 'Valdoria'))
    """
    before, _, last = name.rpartition(" ")
    return _joined(before) or PAD, last
