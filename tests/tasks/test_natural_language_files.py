"""Files of two-hop questions: facts by hand, everything left out counted, every malformed item refused in one line.

The two real items are of 2WikiMultihopQA (Ho et al. 2020) and of MuSiQue (Trivedi et al. 2022), as the descriptions of
these sets in github.com/oyar99/RAG-Scaling-for-QA quote them, their paragraphs left out.
"""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_lab.errors import InputError
from circuit_lab.tasks.natural_language_files import LeftOut, questions_of_items, read_two_hop_questions

REAL_2WIKI = {
    "_id": "8813f87c0bdd11eba7f7acde48001122",
    "type": "compositional",
    "question": "Who is the mother of the director of film Polish-Russian War (Film)?",
    "context": [],
    "supporting_facts": [["Polish-Russian War (film)", 1], ["Xawery Żuławski", 2]],
    "evidences": [
        ["Polish-Russian War", "director", "Xawery Żuławski"],
        ["Xawery Żuławski", "mother", "Małgorzata Braunek"],
    ],
    "answer": "Małgorzata Braunek",
}
REAL_MUSIQUE = {
    "id": "2hop__460946_294723",
    "paragraphs": [],
    "question": "Who is the spouse of the Green performer?",
    "question_decomposition": [
        {"id": 460946, "question": "Green >> performer", "answer": "Steve Hillage", "paragraph_support_idx": 10},
        {"id": 294723, "question": "#1 >> spouse", "answer": "Miquette Giraudy", "paragraph_support_idx": 5},
    ],
    "answer": "Miquette Giraudy",
    "answer_aliases": [],
    "answerable": True,
}


def wiki(*triples, answer=None, kind="compositional"):
    return {"type": kind, "evidences": [list(t) for t in triples], "answer": answer or triples[-1][2]}


def musique(*steps, answer=None, **more):
    decomposition = [{"question": question, "answer": given} for question, given in steps]
    return {"question_decomposition": decomposition, "answer": answer or steps[-1][1]} | more


def of_2wiki(*items):
    return questions_of_items(items, format="2wiki", source="file.json")


def of_musique(*items):
    return questions_of_items(items, format="musique", source="file.jsonl")


def stored(tmp_path, items, *, lines=False):
    path = tmp_path / "questions"
    path.write_text("\n".join(map(json.dumps, items)) if lines else json.dumps(items), encoding="utf-8")
    return path


def test_a_real_2wiki_item_gives_its_two_facts(tmp_path):
    questions = read_two_hop_questions(stored(tmp_path, [REAL_2WIKI]), format="2wiki")
    assert questions.facts == (
        ("Polish-Russian War", "director", "Xawery Żuławski"),
        ("Xawery Żuławski", "mother", "Małgorzata Braunek"),
    )
    assert questions.asked == (questions.facts,)
    assert (questions.n_items, questions.left_out, questions.n_compositions) == (1, {}, 1)


def test_a_real_musique_item_gives_its_two_facts(tmp_path):
    questions = read_two_hop_questions(stored(tmp_path, [REAL_MUSIQUE], lines=True), format="musique")
    assert questions.facts == (
        ("Green", "performer", "Steve Hillage"),
        ("Steve Hillage", "spouse", "Miquette Giraudy"),
    )


def test_both_formats_of_the_same_questions_have_one_content_hash():
    first = of_2wiki(wiki(("a", "r", "b"), ("b", "s", "c")), wiki(("b", "s", "c"), ("c", "r", "a")))
    second = of_musique(
        musique(("b >> s", "c"), ("#1 >> r", "a")),
        musique(("a >> r", "b"), ("#1 >> s", "c")),
    )
    assert first.facts == second.facts
    assert first.content_hash == second.content_hash


GOOD = (("a", "r", "b"), ("b", "s", "c"))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (wiki(*GOOD, kind="comparison"), LeftOut.OTHER_TYPE),
        (wiki(*GOOD, kind="bridge_comparison"), LeftOut.OTHER_TYPE),
        (wiki(("a", "r", "b")), LeftOut.NOT_TWO_FACTS),
        (wiki(*GOOD, ("c", "t", "d")), LeftOut.NOT_TWO_FACTS),
        ({"type": "inference", "evidences": [], "answer": ""}, LeftOut.NOT_TWO_FACTS),
        (wiki(("a", "r", "b"), ("x", "s", "c")), LeftOut.NOT_CHAINED),
        (wiki(*GOOD, answer="b"), LeftOut.OTHER_ANSWER),
        (wiki(("a", "r", "b"), ("b", "s", "<script>")), LeftOut.UNSHOWABLE),
        (wiki(("a", " _ ", "b"), ("b", "s", "c")), LeftOut.UNSHOWABLE),
        (wiki(("a\x1b[2J", "r", "b"), ("b", "s", "c")), LeftOut.UNSHOWABLE),
        (wiki(("a" * 201, "r", "b"), ("b", "s", "c")), LeftOut.UNSHOWABLE),
    ],
)
def test_an_unusable_2wiki_item_is_counted_by_its_reason(item, reason):
    questions = of_2wiki(wiki(("p", "r", "q"), ("q", "s", "o")), item)
    assert questions.left_out == {reason: 1}
    assert len(questions.asked) == 1
    assert f"1 {reason}" in repr(questions)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (musique(("a >> r", "b"), ("When was #1 born?", "c")), LeftOut.FREE_TEXT),
        (musique(("Who wrote a?", "b"), ("#1 >> s", "c")), LeftOut.FREE_TEXT),
        (musique(("a >> r >> q", "b"), ("#1 >> s", "c")), LeftOut.FREE_TEXT),
        (musique(("a >> r", "b"), ("x >> s", "c")), LeftOut.NOT_CHAINED),
        (musique(("a >> r", "b")), LeftOut.NOT_TWO_FACTS),
        (musique(("a >> r", "b"), ("#1 >> s", "c"), ("#2 >> s", "d")), LeftOut.NOT_TWO_FACTS),
        (musique(("a >> r", "b"), ("#1 >> s", "c"), answerable=False), LeftOut.UNANSWERABLE),
        (musique(("a >> r", "b"), ("#1 >> s", "c"), answer="d"), LeftOut.OTHER_ANSWER),
    ],
)
def test_an_unusable_musique_item_is_counted_by_its_reason(item, reason):
    questions = of_musique(REAL_MUSIQUE, item)
    assert questions.left_out == {reason: 1}
    assert len(questions.asked) == 1


def test_an_alias_is_a_right_answer():
    questions = of_musique(musique(("a >> r", "b"), ("#1 >> s", "c"), answer="C.", answer_aliases=["c"]))
    assert [fact.tail for fact in questions.facts] == ["b", "c"]


def test_a_head_and_relation_with_two_tails_take_their_items_along():
    items = [
        wiki(("a", "child", "b"), ("b", "s", "c")),
        wiki(("a", "child", "d"), ("d", "s", "e")),
        wiki(("p", "r", "a"), ("a", "child", "b")),
        wiki(("b", "s", "c"), ("c", "r", "p")),
    ]
    questions = of_2wiki(*items)
    assert questions.n_ambiguous == 1
    assert questions.left_out == {LeftOut.AMBIGUOUS: 3}
    assert questions.facts == (("b", "s", "c"), ("c", "r", "p"))


def test_a_repeated_question_counts_once_however_its_names_are_spaced():
    questions = of_2wiki(
        wiki(("Ada  Alder", "place of birth", "New Haven"), ("New Haven", "country", "Valdoria")),
        wiki(("Ada_Alder", "place of\u00a0birth", " New Haven"), ("New Haven", "country", "Valdoria")),
    )
    assert questions.left_out == {LeftOut.REPEATED: 1}
    assert questions.entities == ("Ada Alder", "New Haven", "Valdoria")
    assert questions.relations == ("country", "place of birth")


def test_all_compositions_of_the_facts_are_counted_asked_or_not():
    # The facts form the ring a -> b -> c -> a: three compositions, two of them asked.
    ring = [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "a")]
    questions = of_2wiki(wiki(ring[0], ring[1]), wiki(ring[1], ring[2]))
    assert (questions.n_compositions, len(questions.asked)) == (3, 2)


def test_the_order_of_the_items_changes_nothing_and_all_are_accounted_for():
    rng = random.Random(5)
    items = [
        wiki(*[(f"e{a}", f"r{r}", f"e{b}"), (f"e{b}", f"r{s}", f"e{c}")], kind=kind)
        for kind in ("compositional", "inference", "comparison")
        for a, r, b, s, c in ([rng.randrange(5) for _ in range(5)] for _ in range(12))
    ]
    questions = of_2wiki(*items)
    rng.shuffle(items)
    again = of_2wiki(*items)
    assert again == questions
    assert again.content_hash == questions.content_hash
    assert len(questions.asked) + sum(questions.left_out.values()) == len(items)
    assert {LeftOut.AMBIGUOUS, LeftOut.OTHER_TYPE} <= {*questions.left_out}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"data": []}, r"must hold a list of items, got dict"),
        ([7], r"questions item 0: expected an object with type, got 7"),
        ([REAL_2WIKI, []], r"questions item 1: expected an object with type, got \[\]"),
        ([{"question": "?"}], r"item 0: type must be a string, got no such key \(there are: 'question'\)"),
        ([wiki(*GOOD) | {"type": "bridge"}], r"unknown type 'bridge'; the types are: compositional, inference, com"),
        ([wiki(*GOOD) | {"evidences": "a"}], r"evidences must be a list, got 'a'"),
        ([wiki(*GOOD) | {"evidences": [["a", "r"]]}], r"must hold \[head, relation, tail\], got \['a', 'r'\]"),
        ([wiki(*GOOD) | {"evidences": [["a", "r", None]]}], r"must hold \[head, relation, tail\], got"),
        ([wiki(*GOOD) | {"answer": 3}], r"answer must be a string, got 3"),
    ],
)
def test_a_malformed_2wiki_file_is_refused_in_one_line(tmp_path, items, message):
    with pytest.raises(InputError, match=message) as raised:
        read_two_hop_questions(stored(tmp_path, items), format="2wiki")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([], r"questions item 1: expected an object with question_decomposition, got \[\]"),
        ({"id": "2hop"}, r"question_decomposition must be a list, got no such key"),
        (REAL_MUSIQUE | {"question_decomposition": [7]}, r"expected an object with question, got 7"),
        (REAL_MUSIQUE | {"question_decomposition": [{"question": "a >> b"}]}, r"answer must be a string, got no such"),
        (REAL_MUSIQUE | {"answer_aliases": [4]}, r"answer_aliases must hold strings, got \[4\]"),
        (REAL_MUSIQUE | {"answer_aliases": None}, r"answer_aliases must be a list, got None"),
    ],
)
def test_a_malformed_musique_item_is_refused_in_one_line(tmp_path, item, message):
    with pytest.raises(InputError, match=message) as raised:
        read_two_hop_questions(stored(tmp_path, [REAL_MUSIQUE, item], lines=True), format="musique")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "format", "message"),
    [
        (b"[{", "2wiki", r"is not valid JSON"),
        (b"\x80\x04]", "2wiki", r"is not valid JSON"),
        (b"[" * 100_000, "2wiki", r"is not valid JSON"),
        (b"{}\n{\n", "musique", r"question_decomposition must be a list"),
        (
            json.dumps(REAL_MUSIQUE).encode() + b"\n\n{\n",
            "musique",
            r"line 3 is not valid JSON: .*name the right format",
        ),
        (b"\xff\n", "musique", r"line 1 is not valid JSON"),
        (b"", "musique", r"no question of two chained facts among its 0 items \(the file has no items\)"),
        (b"[]", "2wiki", r"among its 0 items \(the file has no items\); give the training or development file"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content, format, message):
    path = tmp_path / "questions"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_two_hop_questions(path, format=format)


def test_a_file_with_nothing_usable_says_what_it_holds(tmp_path):
    items = [wiki(*GOOD, kind="comparison"), wiki(*GOOD, kind="comparison"), wiki(("a", "r", "b"))]
    with pytest.raises(InputError, match=r"its 3 items \(2 x another type of question, 1 x not two facts\)"):
        read_two_hop_questions(stored(tmp_path, items), format="2wiki")


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file of two-hop questions at .*: there is no such file"):
        read_two_hop_questions(tmp_path / "none.json", format="2wiki")
    with pytest.raises(InputError, match=r"it is a folder; give the file in it"):
        read_two_hop_questions(tmp_path, format="musique")


KEYS = st.sampled_from(["type", "evidences", "answer", "question_decomposition", "question", "answer_aliases", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["compositional", "a >> r", "#1 >> s", "b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(KEYS, JSON, max_size=5) | JSON, max_size=3), st.sampled_from(["2wiki", "musique"]))
def test_whatever_the_items_are_they_are_read_or_refused(items, format):
    try:
        questions = questions_of_items(items, format=format, source="file")
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(questions.asked) + sum(questions.left_out.values()) == questions.n_items == len(items)
