"""A drawn world of people, places, companies and works, written as a file of 2WikiMultihopQA.

Every name is made up. A relation leads from one kind of thing to another, so that a composition makes sense: a film has
a director, who has a mother, who has an employer. A kind has eight to twelve relations, so that there is much to
compose: in the task of [He] arXiv 2601.09049 a fact is continued by twenty others. Relations are named by nouns, as in
the dataset. A tail is drawn uniformly from its kind and is never its own head; spouses are each other's. Nothing keeps
a person from being an ancestor of themselves: a world is a set of facts, not a history.

The file asks for every composition of the facts. Those that make a relation of their own ("maternal grandmother") are
of the type `inference`, as in that dataset, all others `compositional`.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.tasks.natural_language_config import WorldConfig
from circuit_lab.tasks.natural_language_files import Fact
from circuit_lab.tasks.safe_files import file_kind
from circuit_lab.tasks.stable_random import Purpose, permutation, raw_draws

RELATIONS: Mapping[str, Mapping[str, str]] = {
    "person": {
        "father": "man",
        "mother": "woman",
        "godparent": "person",
        "doctoral advisor": "person",
        "manager": "person",
        "business partner": "person",
        "successor": "person",
        "employer": "company",
        "place of birth": "city",
        "residence": "city",
        "notable work": "work",
    },
    "city": {
        "country": "country",
        "head of government": "person",
        "founder": "person",
        "architect": "person",
        "bishop": "person",
        "patron": "person",
        "main employer": "company",
        "anthem": "work",
        "twinned administrative body": "city",
        "neighbouring city": "city",
    },
    "company": {
        "founder": "person",
        "chief executive officer": "person",
        "chairperson": "person",
        "treasurer": "person",
        "parent organization": "company",
        "competitor": "company",
        "main product": "work",
        "headquarters location": "city",
        "country": "country",
    },
    "work": {
        "author": "person",
        "director": "person",
        "composer": "person",
        "performer": "person",
        "producer": "person",
        "editor": "person",
        "publisher": "company",
        "narrative location": "city",
        "sequel": "work",
        "country of origin": "country",
    },
    "country": {
        "capital": "city",
        "largest city": "city",
        "head of state": "person",
        "head of government": "person",
        "chief justice": "person",
        "ambassador": "person",
        "neighbouring country": "country",
        "anthem": "work",
    },
}
"""Kind of the head -> relation -> kind of the tail, one kind for all heads. `spouse` is drawn apart."""
INFERRED = {
    ("father", "father"): "paternal grandfather",
    ("father", "mother"): "paternal grandmother",
    ("mother", "father"): "maternal grandfather",
    ("mother", "mother"): "maternal grandmother",
    ("spouse", "father"): "father-in-law",
    ("spouse", "mother"): "mother-in-law",
}
"""Compositions that are a relation of their own."""
_ASKED_FOR = {"man": "Who", "woman": "Who", "person": "Who"}

_MEN = "Adam Bruno Carl Dario Edgar Felix Goran Hugo Ivan Jonas Karel Leo Milan Nils Oskar Pavel"
_WOMEN = "Ada Berta Clara Dora Elsa Freya Greta Hanna Ines Julia Katja Lena Mara Nora Olga Petra"
_SURNAMES = (
    "Alder Birk Castell Dorn Egger Falk Gruber Holm Imhof Jansen Keller Lind Moser Nagel Ortega Prinz Quist Rosen "
    "Stark Tamm Ulrich Vogel Winter Ziegler"
)
_CITY_STARTS = "New Old Port Fort Lake Mount Upper Lower"
_CITY_ENDS = "Arden Belmor Corvin Delmar Estral Faring Garrow Haven Istria Jarrow Kelso Larkin Marlow"
_COMPANY_ENDS = "Works Bank Press Mills Lines Studios"
_WORK_STARTS = "Silent Golden Broken Distant Hidden Last Little Northern Paper Red Second Stolen Sunken White"
_WORK_ENDS = "River Garden Harbour Winter Letter Orchard Station Mirror Road Island Summer Bridge Clock Forest"
_COUNTRY_STARTS = "Vald Mor Kest Lur And Beth Cor"
_COUNTRY_ENDS = "oria avia ania"


def world_facts(world: WorldConfig) -> list[Fact]:
    """The facts of a world, in the order of `RELATIONS`, spouses last.

    >>> world_facts(WorldConfig(n_people=4))[0]
    Fact(head='Adam Alder', relation='father', tail='Dario Castell')
    """
    names = _names(world)
    heads = [
        (head, relation, names[kind_of_tail])
        for kind_of_head, relations in RELATIONS.items()
        for relation, kind_of_tail in relations.items()
        for head in names[kind_of_head]
    ]
    draws = raw_draws(len(heads), seed=world.seed, purpose=Purpose.TAILS).tolist()
    facts = []
    for (head, relation, tails), draw in zip(heads, draws, strict=True):
        others = [tail for tail in tails if tail != head]
        facts.append(Fact(head, relation, others[draw % len(others)]))
    order = permutation(len(names["woman"]), seed=world.seed, purpose=Purpose.RELATIONS).tolist()
    for husband, place in zip(names["man"], order, strict=False):
        wife = names["woman"][int(place)]
        facts += [Fact(husband, "spouse", wife), Fact(wife, "spouse", husband)]
    return facts


def world_items(world: WorldConfig) -> Iterator[dict[str, Any]]:
    """Every composition of a world's facts, as an item of 2WikiMultihopQA."""
    facts = world_facts(world)
    facts_of = defaultdict(list)
    for fact in facts:
        facts_of[fact.head].append(fact)
    chains = ((hop1, hop2) for hop1 in facts for hop2 in facts_of[hop1.tail])
    for number, (hop1, hop2) in enumerate(chains):
        inferred = INFERRED.get((hop1.relation, hop2.relation))
        yield {
            "_id": f"{number:032x}",
            "type": "compositional" if inferred is None else "inference",
            "question": _question(hop1, hop2, inferred),
            "context": [[fact.head, [f"The {fact.relation} of {fact.head} is {fact.tail}."]] for fact in (hop1, hop2)],
            "supporting_facts": [[hop1.head, 0], [hop2.head, 0]],
            "evidences": [list(hop1), list(hop2)],
            "answer": hop2.tail,
        }


def write_world_file(world: WorldConfig, path: Path | str) -> Path:
    """Write a world as a file of 2WikiMultihopQA, one item a line.

    Args:
        world: The world.
        path: The file; there must be none yet.

    Returns:
        The file's path.

    Raises:
        InputError: If something is there, or nothing can be written there.
    """
    path = Path(path)
    if file_kind(path, what="place to write to") is not None:
        raise InputError(f"{path} already exists and is not overwritten; give another path or remove it")
    lines = ",\n".join(json.dumps(item) for item in world_items(world))
    try:
        path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}; give another path") from error
    return path


def _question(hop1: Fact, hop2: Fact, inferred: str | None) -> str:
    kind = next((kinds[hop2.relation] for kinds in RELATIONS.values() if hop2.relation in kinds), "person")
    asked = f"{hop2.relation} of the {hop1.relation}" if inferred is None else inferred
    return f"{_ASKED_FOR.get(kind, 'What')} is the {asked} of {hop1.head}?"


def _names(world: WorldConfig) -> Mapping[str, Sequence[str]]:
    """Names by kind; those of two words share their words."""
    n_men = world.n_people // 2
    men = _combined(n_men, _MEN, _SURNAMES)
    women = _combined(world.n_people - n_men, _WOMEN, _SURNAMES)
    return {
        "man": men,
        "woman": women,
        "person": [*men, *women],
        "city": _combined(world.n_cities, _CITY_STARTS, _CITY_ENDS),
        "company": _combined(world.n_companies, _SURNAMES, _COMPANY_ENDS),
        "work": _combined(world.n_works, _WORK_STARTS, _WORK_ENDS),
        "country": _combined(world.n_countries, _COUNTRY_STARTS, _COUNTRY_ENDS, between=""),
    }


def _combined(n: int, starts: str, ends: str, *, between: str = " ") -> list[str]:
    """`n` different names, each a start and an end.

    >>> _combined(4, "Ada Berta", "Alder Birk Castell")
    ['Ada Alder', 'Berta Castell', 'Ada Castell', 'Berta Birk']
    """
    pairs = [f"{start}{between}{end}" for end in ends.split() for start in starts.split()]
    # A stride without a common divisor visits each pair once.
    stride = next(step for step in range(2 * len(starts.split()) + 1, 4 * len(pairs)) if gcd(step, len(pairs)) == 1)
    return [pairs[place * stride % len(pairs)] for place in range(n)]
