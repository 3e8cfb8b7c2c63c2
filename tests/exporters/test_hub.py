"""Sharing on the Hub, without it: a false one that copies to folders, and its cache as huggingface_hub lays it out."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import httpx
import huggingface_hub.errors as hub_errors
import pytest
import torch
import yaml
from small_nets import make_net

from circuit_lab.errors import InputError
from circuit_lab.exporters import hub
from circuit_lab.exporters.hub import from_pretrained, push_to_hub, save_pretrained
from circuit_lab.exporters.model_card import escape, model_card
from circuit_lab.tasks import read_dataset_folder, write_dataset_folder
from circuit_lab.training import Checkpoint
from circuit_lab.training.checkpoint import Origin, weights_hash


def make_checkpoint(task, **changes):
    net = make_net(dtype=torch.float32, d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out)
    checkpoint = Checkpoint(
        net=net,
        given_task=task,
        step=1234,
        metrics={"training": 0.987, "test_ood": 0.25},
        recipe={},
        path=Path("a.safetensors"),
        weights_hash=weights_hash(net.unique_state_dict()),
    )
    return replace(checkpoint, **changes)


@pytest.fixture
def checkpoint(small_task):
    return make_checkpoint(small_task)


@torch.no_grad()
def same_logits(one, other, tokens):
    return torch.equal(one.net(tokens), other.net(tokens))


def test_a_folder_gives_the_checkpoint_back(tmp_path, checkpoint, small_task):
    folder = save_pretrained(checkpoint, tmp_path / "shared")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    loaded = from_pretrained(folder)
    assert (loaded.step, dict(loaded.metrics)) == (1234, {"training": 0.987, "test_ood": 0.25})
    assert loaded.task.certificate.task_hash == small_task.certificate.task_hash
    assert same_logits(loaded, checkpoint, small_task.splits["test_ood"].tokens)
    assert same_logits(from_pretrained(str(folder)), checkpoint, small_task.splits["test_ood"].tokens)
    with pytest.raises(InputError, match="already exists and is not an empty folder"):
        save_pretrained(checkpoint, folder)
    with pytest.raises(InputError, match="which has no revision 'v2'"):
        from_pretrained(folder, revision="v2")


def test_the_card_says_what_the_checkpoint_is_and_is_not(checkpoint, small_task):
    card = model_card(checkpoint, repo_id="someone/my-net")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "circuit_lab",
        "tags": ["mechanistic-interpretability", "grokking", "transformer-lens"],
    }
    chance, n = small_task.chance["test_ood"], len(small_task.splits["test_ood"])
    assert f"| test&#95;ood | 0.250 | {chance:.3f} | {n} |" in body
    assert f"| training | 0.987 | not known | {len(small_task.training)} |" in body
    assert "# my-net\n" in body
    assert "Step: 1234" in body
    assert checkpoint.weights_hash in body
    assert 'circuit_lab.from_pretrained("someone/my-net")' in body
    assert "**Accuracy is not a diagnosis.**" in body
    assert "circuit-lab diagnose weights.safetensors" in body
    assert "Origin" not in body


def test_the_card_of_a_foreign_checkpoint_says_where_it_is_from(checkpoint):
    origin = Origin(format="gpt2-folder", file="x", inferred=("n_passes = 2 (asked for)",), ignored=("mask: ours too",))
    body = model_card(replace(checkpoint, origin=origin, given_task=None, metrics={}))
    assert "Imported from x (format gpt2-folder)." in body
    assert "- Inferred: n&#95;passes = 2 &#40;asked for&#41;" in body
    assert "- Ignored: mask&#58; ours too" in body
    assert "Task: not known" in body
    assert "Not evaluated." in body


HOSTILE = "<script>x</script>\n---\nlicense: evil\n| a | [b](http://c) `d` **e** ![i](j) @user https://f"


def test_hostile_text_has_no_effect_in_the_card(checkpoint):
    origin = Origin(format=HOSTILE, file=HOSTILE, inferred=(HOSTILE,), ignored=(HOSTILE * 100,))
    spoilt = replace(checkpoint, metrics={HOSTILE: 0.5}, origin=origin, weights_hash=HOSTILE)
    card, plain = model_card(spoilt), model_card(replace(spoilt, metrics={"x": 0.5}, weights_hash="x", origin=origin))
    assert not any(
        part in card for part in ("<script", "](", "`d`", "**e**", "http://", "https://", "@user", "\nlicense")
    )
    assert len(card.splitlines()) == len(plain.splitlines())
    assert card.count("\n---") == 1, "the end of the front matter"
    assert max(map(len, card.splitlines())) < 2500


def test_escape_keeps_letters_and_one_line():
    assert escape("Größe 5, p = 7") == "Größe 5, p = 7"
    assert escape("a\n\u202eb\x00c") == "a  b c"
    assert escape("a_b|c") == "a&#95;b&#124;c"
    assert len(escape("x" * 10_000)) < 320


class FalseHub:
    """What of `HfApi` is used, on a folder instead of a server."""

    home: Path
    calls: list[tuple]

    def __init__(self, *, token, library_name):
        self.token = token
        self.calls.append(("HfApi", token, library_name))

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create_repo", repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("create_branch", repo_id, branch, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message):
        self.calls.append(("upload_folder", repo_id, revision, commit_message))
        shutil.copytree(folder_path, self.home / repo_id)


@pytest.fixture
def false_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(FalseHub, "home", tmp_path / "hub", raising=False)
    monkeypatch.setattr(FalseHub, "calls", [], raising=False)
    monkeypatch.setattr(hub, "HfApi", FalseHub)
    return FalseHub


def test_push_uploads_a_folder_that_loads(false_hub, checkpoint, small_task):
    url = push_to_hub(checkpoint, "someone/my-net", private=True, token="secret", revision="v2", commit_message="hello")
    assert url == "https://huggingface.co/someone/my-net"
    assert false_hub.calls == [
        ("HfApi", "secret", "circuit_lab"),
        ("create_repo", "someone/my-net", True, True),
        ("create_branch", "someone/my-net", "v2", True),
        ("upload_folder", "someone/my-net", "v2", "hello"),
    ]
    folder = false_hub.home / "someone" / "my-net"
    assert 'from_pretrained("someone/my-net")' in (folder / "README.md").read_text()
    assert same_logits(from_pretrained(folder), checkpoint, small_task.splits["test_ood"].tokens)
    for file in folder.iterdir():
        assert b"secret" not in file.read_bytes()


def test_push_to_main_makes_no_branch(false_hub, checkpoint):
    push_to_hub(checkpoint, "someone/my-net")
    assert [call[0] for call in false_hub.calls] == ["HfApi", "create_repo", "upload_folder"]
    assert false_hub.calls[1] == ("create_repo", "someone/my-net", False, True)


def hub_cache(home, folder):
    """A snapshot whose files are links to blobs, as huggingface_hub keeps them."""
    repository = home / "models--someone--my-net"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in folder.iterdir():
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copyfile(file, repository / "blobs" / name)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", name))
    return snapshot


def test_from_pretrained_reads_the_hubs_cache(tmp_path, monkeypatch, checkpoint, small_task):
    snapshot, calls = hub_cache(tmp_path / "cache", save_pretrained(checkpoint, tmp_path / "shared")), []

    def download(repo_id, **options):
        calls.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(snapshot)

    monkeypatch.setattr(hub, "snapshot_download", download)
    loaded = from_pretrained("someone/my-net", revision="v2")
    assert calls == [("someone/my-net", "v2", ["weights.safetensors"])]
    assert same_logits(loaded, checkpoint, small_task.splits["test_ood"].tokens)
    (snapshot / "weights.safetensors").unlink()
    with pytest.raises(InputError, match=r"someone/my-net has no weights.safetensors, .* circuit_lab.load\(path\)"):
        from_pretrained("someone/my-net")


def response(status):
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))


HUB_ERRORS = [
    (hub_errors.RepositoryNotFoundError("long\ntext", response=response(404)), "no such repository, or it is private"),
    (hub_errors.GatedRepoError("x", response=response(403)), "its owner must grant access"),
    (hub_errors.RevisionNotFoundError("x", response=response(404)), "no such revision"),
    (hub_errors.LocalEntryNotFoundError("x"), "the Hub is not reached and the files are not in the cache"),
    (hub_errors.OfflineModeIsEnabled("x"), "the Hub is not reached"),
    (httpx.ConnectError("x"), "the Hub is not reached"),
    (hub_errors.LocalTokenNotFoundError("x"), "no permission; log in with `hf auth login`"),
    (hub_errors.HfHubHTTPError("x", response=response(401)), "no permission; log in with `hf auth login`"),
    (hub_errors.HfHubHTTPError("x", response=response(503)), "answers with status 503; try again later"),
    (hub_errors.EntryNotFoundError("two\nlines"), "two lines"),
]


@pytest.mark.parametrize("error, message", HUB_ERRORS, ids=[type(error).__name__ for error, _ in HUB_ERRORS])
def test_errors_of_the_hub_are_one_line(monkeypatch, checkpoint, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(hub, "HfApi", fail)
    for call in (lambda: from_pretrained("someone/my-net"), lambda: push_to_hub(checkpoint, "someone/my-net")):
        with pytest.raises(InputError, match=f"'someone/my-net' on the Hugging Face Hub: .*{message}") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_error_of_the_hub(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        from_pretrained("someone/my-net")


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing", "a b/c", "../x"])
def test_names_that_are_none_ask_nobody(monkeypatch, checkpoint, name):
    monkeypatch.setattr(hub, "snapshot_download", None)
    monkeypatch.setattr(hub, "HfApi", None)
    with pytest.raises(InputError, match="not a folder here, and no name of a repository; a name is 'user/name'"):
        from_pretrained(name)
    with pytest.raises(InputError, match="no name of a repository"):
        push_to_hub(checkpoint, name)


def test_paths_of_this_machine_are_not_shared(tmp_path, small_task):
    data = write_dataset_folder(small_task, tmp_path / "private" / "data")
    task = read_dataset_folder(data)
    recipe = {"task": {"kind": "two_hop_folder", "path": str(data)}, "parent": {"checkpoint": "models/x", "step": 3}}
    checkpoint = make_checkpoint(task, recipe=recipe)
    folder = save_pretrained(checkpoint, tmp_path / "shared")
    for file in folder.iterdir():
        assert b"private" not in file.read_bytes()
    assert "read_dataset_folder" in (folder / "README.md").read_text()
    loaded = from_pretrained(folder, task=task)
    assert loaded.recipe["task"]["path"] == "data"
    assert loaded.recipe["parent"] == {"checkpoint": "models/x", "step": 3}
    assert same_logits(loaded, checkpoint, task.splits["test_ood"].tokens)
    assert recipe["task"]["path"] == str(data)
    with pytest.raises(InputError, match="data"):
        from_pretrained(folder)
