"""Names from files of others stay text: in pages, in notebooks, and in the vocabulary."""

import json
from html.parser import HTMLParser

import pytest
from small_nets import make_net

import circuit_lab.report.circuit_diagram
import circuit_lab.report.panels
import circuit_lab.report.query_explorer
import circuit_lab.verdict.exhibits
from circuit_lab.errors import InputError
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.report import write_report
from circuit_lab.tasks import read_dataset_folder, write_dataset_folder
from circuit_lab.training import load_checkpoint, save_checkpoint
from circuit_lab.training.checkpoint import Origin
from circuit_lab.verdict import diagnose

HOSTILE = "\"><img src=x onerror=alert(1)>'><script>alert(2)<!--"
QUOTED = "' onmouseover='alert(3)' x='"


class Seen(HTMLParser):
    """The tags, attributes and text of a page as a browser reads them."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.scripts, self.words = set(), set(), [], []
        self.open_tag = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open_tag = tag
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        (self.scripts if self.open_tag == "script" else self.words).append(data)


def check_harmless(page, *, shown):
    seen = Seen(page)
    assert "img" not in seen.tags
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert not any(script.startswith(("alert(2)", "alert(1)")) for script in seen.scripts)
    text = "".join(seen.words)
    assert all(each in text for each in shown)


def test_the_check_sees_what_is_not_escaped():
    for page in (f"<p>{HOSTILE}</p>", f"<p title='{QUOTED}'>", f'<p title="{HOSTILE}">'):
        with pytest.raises(AssertionError):
            check_harmless(page, shown=[])


def test_a_checkpoint_from_elsewhere_shows_its_names_as_text(tmp_path, small_task):
    origin = Origin(format=HOSTILE, file=QUOTED, inferred=(HOSTILE,), ignored=(QUOTED,))
    recipe = {"about": {"title": HOSTILE, "description": QUOTED}, "training": {HOSTILE: QUOTED}}
    net = make_net(d_vocab=small_task.d_vocab, d_vocab_out=small_task.d_vocab, n_ctx=small_task.n_ctx)
    path = tmp_path / HOSTILE.replace("/", "")
    save_checkpoint(path, net=net, task=small_task, step=1, metrics={HOSTILE: 0.5}, recipe=recipe, origin=origin)
    page = load_checkpoint(path)._repr_html_()
    check_harmless(page, shown=[HOSTILE, QUOTED, path.name])


@pytest.fixture(scope="module")
def diagnosis(small_task):
    return diagnose((fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab), small_task))


@pytest.mark.slow
def test_a_written_page_shows_source_task_and_warnings_as_text(tmp_path, monkeypatch, diagnosis):
    monkeypatch.setattr(circuit_lab.verdict.exhibits, "gather_exhibits", lambda _: None)
    monkeypatch.setattr(circuit_lab.report.circuit_diagram, "circuit_panel", lambda *_: None)
    monkeypatch.setattr(circuit_lab.report.query_explorer, "explorer_panel", lambda *_: {"vocab": [HOSTILE]})
    monkeypatch.setattr(circuit_lab.report.panels, "panel_figures", lambda *_: {})
    for hostile in (HOSTILE, QUOTED, "</script><script>alert(1)</script>"):
        nasty = diagnosis.model_copy(update={"source": hostile, "step": 1, "task": hostile, "warnings": (hostile,)})
        page = write_report([nasty, nasty], tmp_path / "page.html", link_scripts=True).read_text(encoding="utf-8")
        check_harmless(page, shown=[hostile])
        check_harmless(nasty._repr_html_(), shown=[hostile])


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("<e_<script>>", "between the brackets of a token stand letters, digits and _ . / - only, got '<e_<script>>'"),
        ("<e_1 onload=x>", "between the brackets of a token stand letters"),
        ("<e_'>", "between the brackets of a token stand letters"),
        ("a<b", "between the brackets of a token stand letters"),
        ("<e_1><e_2>", "between the brackets of a token stand letters"),
        ("<>", "between the brackets of a token stand letters"),
        ("a\x1b[31m", r"a token must not hold control characters, got 'a\\x1b"),
        ("a\nb", "a token must not hold control characters"),
        ("a\u202eb", "a token must not hold control characters"),
        ("\ud800", r"a token must not hold control characters, got '\\ud800'; rename it"),
        ("", "a token must have 1 to 200 characters, got 0"),
        ("x" * 201, "a token must have 1 to 200 characters, got 201"),
    ],
)
def test_a_token_that_is_no_plain_name_is_refused(tmp_path, small_task, token, message):
    folder = write_dataset_folder(small_task, tmp_path / "data")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    for content in ([token, *vocabulary], {token: 0} | {name: i + 1 for i, name in enumerate(vocabulary)}):
        (folder / "vocab.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=f"vocab.json entry 0: {message}"):
            read_dataset_folder(folder)


def test_plain_names_of_any_script_are_tokens(tmp_path, small_task):
    folder = write_dataset_folder(small_task, tmp_path / "data")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    names = ["<e_Zürich>", "<r_born.in/on-day>", "Ġhello", "</x>", "x" * 200]
    (folder / "vocab.json").write_text(json.dumps([*vocabulary, *names]))
    assert set(names) <= set(read_dataset_folder(folder).vocab)
