"""Tokens of a GPT-2 folder, and the rows of the embedding that a task needs.

The two-hop codes (GrokkedTransformer, IsGrokkingWorthwhile) add the tokens of the dataset's `vocab.json` to GPT-2's, in
that order, so their ids follow the 50,257 of GPT-2; the embedding is padded to a multiple of 8 rows. A query is its
tokens alone, `<e_1><r_2><r_3>`, with nothing before them, and the end-of-text token fills up to the right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.errors import InputError, quoted
from circuit_lab.importers.gpt2_config import GPT2Settings, read_json
from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.tasks import TwoHopTask
from circuit_lab.tasks.safe_files import file_kind
from circuit_lab.tasks.two_hop import PAD

VOCAB, ADDED, TOKENIZER, TOKENIZER_CONFIG = "vocab.json", "added_tokens.json", "tokenizer.json", "tokenizer_config.json"
TOKEN_FILES = (VOCAB, ADDED, TOKENIZER, TOKENIZER_CONFIG)
MAX_QUERIES = 2000
"""Queries on which answers outside the task's tokens are counted."""
_BATCH = 256


def read_token_ids(folder: Path, settings: GPT2Settings) -> dict[str, int]:
    """Every token that the folder's files give an id.

    Args:
        folder: The folder.
        settings: Its settings.

    Returns:
        Token -> id, each below vocab_size.

    Raises:
        InputError: If there is no such file, one is malformed, or two disagree.
    """
    sources = [name for name in TOKEN_FILES if file_kind(folder / name, what=name) is not None]
    if not sources:
        raise InputError(
            f"{folder} has none of {', '.join(TOKEN_FILES)}, so nothing says which row of the embedding belongs to "
            "which token of the task; put the tokenizer's files beside config.json, or load without a task"
        )
    ids: dict[str, int] = {}
    for name in sources:
        for token, index in _pairs(name, read_json(folder, name), folder / name):
            if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < settings.vocab_size:
                raise InputError(
                    f"{folder / name}: the id of {quoted(token)} must be a whole number below vocab_size = "
                    f"{settings.vocab_size}, got {quoted(index)}"
                )
            if ids.setdefault(token, index) != index:
                raise InputError(
                    f"{folder / name}: {quoted(token)} has the id {index}, but {ids[token]} in another file"
                )
    return ids


def _pairs(name: str, content: dict[str, Any], path: Path) -> list[tuple[str, Any]]:
    """Tokens and ids as one file has them."""
    if name in (VOCAB, ADDED):
        return list(content.items())
    if name == TOKENIZER_CONFIG:
        decoder = content.get("added_tokens_decoder", {})
        if not isinstance(decoder, dict):
            raise InputError(f"{path}: added_tokens_decoder must be a JSON object, got {type(decoder).__name__}")
        return [(_content_of(entry, path), _whole_number(index, path)) for index, entry in decoder.items()]
    model, added = content.get("model"), content.get("added_tokens", [])
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(added, list):
        raise InputError(f"{path} must have model.vocab, a map from token to id, and a list added_tokens")
    return [*model["vocab"].items(), *((_content_of(entry, path), entry.get("id")) for entry in added)]


def _content_of(entry: Any, path: Path) -> str:
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str):
        raise InputError(f"{path}: an added token must be an object with a string content, got {quoted(entry)}")
    return content


def _whole_number(text: str, path: Path) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InputError(f"{path}: a key of added_tokens_decoder must be a token id, got {quoted(text)}")
    return int(text)


@dataclass(frozen=True)
class TaskRows:
    """Which rows of the embedding the task's tokens are.

    Attributes:
        rows: Token id in the folder for each token of the task; None for a padding token that the folder lacks.
        inferred: What was chosen, a sentence each.
    """

    rows: tuple[int | None, ...]
    inferred: tuple[str, ...]


def find_rows(task: TwoHopTask, ids: Mapping[str, int], settings: GPT2Settings, folder: Path) -> TaskRows:
    """The rows of the task's tokens, in the task's order.

    Args:
        task: The task.
        ids: Token ids of the folder.
        settings: Its settings.
        folder: The folder, for messages.

    Returns:
        The rows.

    Raises:
        InputError: If the folder lacks a token of the task; names the first.
    """
    missing = [token for token in task.vocab if token not in ids and token != PAD]
    if missing:
        raise InputError(
            f"{folder}: its tokenizer has no token {quoted(missing[0])} ({len(missing)} of the task's "
            f"{len(task.vocab)} tokens are missing); give the dataset folder that the net was trained on"
        )
    rows = [ids.get(token) for token in task.vocab]
    taken = [row for row in rows if row is not None]
    if len(set(taken)) < len(taken):
        raise InputError(f"{folder}: two tokens of the task have the same id in its tokenizer; restore its token files")
    if PAD in ids:
        return TaskRows(tuple(rows), ())
    substitute = settings.padding_token
    if substitute in taken:
        substitute = None
    rows[task.pad_token] = substitute
    what = (
        f"row {substitute}, with which the folder pads"
        if substitute is not None
        else "zeros, unembedded as the mean of the other tokens, so that it is never the answer"
    )
    return TaskRows(tuple(rows), (f"{PAD} = {what} (the tokenizer has no {PAD}; no query reads it before its answer)",))


def keep_rows(matrix: Float[Tensor, "vocab_size d_model"], rows: TaskRows, *, mean: bool) -> Float[Tensor, "_ d_model"]:
    """The rows of the task's tokens.

    Args:
        matrix: Embedding, or transposed unembedding, of every token.
        rows: The rows.
        mean: Whether a missing row is the mean of the others rather than zeros.

    Returns:
        A row for each token of the task.
    """
    kept = matrix[torch.tensor([0 if row is None else row for row in rows.rows])].clone()
    is_missing = torch.tensor([row is None for row in rows.rows])
    kept[is_missing] = kept[~is_missing].mean(dim=0) if mean else 0.0
    return kept


@torch.no_grad()
def count_answers_outside(
    net: HookedSharedTransformer, task: TwoHopTask, rows: TaskRows, unembedding: Float[Tensor, "vocab_size d_model"]
) -> tuple[int, int]:
    """How often the full model's answer is no token of the task.

    Args:
        net: The net with the task's tokens alone, in `eval` mode.
        task: The task.
        rows: The rows that it kept.
        unembedding: A row for each token of the full model.

    Returns:
        Number of such training queries, and of those asked: at most `MAX_QUERIES`, drawn with a fixed seed.
    """
    queries = task.training.sample(MAX_QUERIES, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([row for token, row in zip(task.vocab, rows.rows, strict=True) if token != PAD])
    n_outside = 0
    for start in range(0, len(queries), _BATCH):
        batch = queries[start : start + _BATCH]
        state = _last_state(net, batch.tokens)[torch.arange(len(batch)), batch.answer_position]
        top = (net.ln_final(state) @ unembedding.T).argmax(dim=-1)
        n_outside += int((~torch.isin(top, own)).sum())
    return n_outside, len(queries)


def _last_state(net: HookedSharedTransformer, tokens: Int[Tensor, "n pos"]) -> Float[Tensor, "n pos d_model"]:
    """The stream after the last layer."""
    name = f"blocks.{net.cfg.n_layers - 1}.hook_resid_post"
    _, cache = net.run_with_cache(tokens, names_filter=name)
    return cache[name]
