"""Two-hop queries as the tiny recursive model of [He] is asked them: with a blank place where the answer goes.

Source: preprocess_training_data.ipynb of github.com/KaiyuHe998/IsGrokkingWorthwhile, folder TRM_model. That net reads
all positions at once and writes its answer into one of them:

* a token's id is its place in `vocab.json` plus 1; id 0 is the blank;
* a row has five places: an inferred query is `h r1 r2 _ _`, an atomic one `h r _ _ _`, where `_` is the blank;
* the target repeats the query, then has the answer, then `</a>`: so the answer is read from the first blank, at
  position 3 of an inferred query and 2 of an atomic one. Blanks in the target carry no loss.

Its vocabulary has as many ids as `vocab.json` has tokens, so the last token has none; in the released datasets that is
`</q>`, which no query has. Ours stands differently: an answer is read from the query's last token, and the pad token
comes last where the file has none.
"""

from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Int
from torch import Tensor

from circuit_lab.errors import InputError
from circuit_lab.tasks.queries import Queries
from circuit_lab.tasks.two_hop import PAD, TwoHopTask
from circuit_lab.tasks.two_hop_config import AnswerSlots

N_PLACES = 5
"""Positions of a row in the released code."""
BLANK = 0
"""The id of the blank."""
_PLACE_NAMES = ("h", "r1", "r2", "answer", "end")


def in_answer_slots(task: TwoHopTask, *, d_vocab: int, n_ctx: int = N_PLACES) -> TwoHopTask:
    """The same queries with a blank place for the answer, in the ids of the recursive net.

    Facts, splits, chance levels and certificate are those of the task: the same is asked in other words.

    Args:
        task: A two-hop task, best read from the dataset folder that the net was trained on.
        d_vocab: Ids that the net has, its `cfg.d_vocab`.
        n_ctx: Positions of a row, at least 4: the net's `cfg.n_ctx`.

    Returns:
        The task for that net: its `d_vocab` and `n_ctx` are as asked, its pad token is the blank; a task that is
        laid out so already is given back as it is.

    Raises:
        InputError: If there are too few positions, or the vocabulary is not the task's.

    >>> from circuit_lab.tasks import TwoHopConfig
    >>> task = TwoHopTask.from_config(TwoHopConfig(n_entities=30, n_relations=10, out_degree=10, ood_share=0.1))
    >>> slots = in_answer_slots(task, d_vocab=41)
    >>> task.splits["test_id"].tokens[0].tolist(), slots.splits["test_id"].tokens[0].tolist()
    ([0, 39, 34], [1, 40, 35, 0, 0])
    """
    if task.config.answer_slots is not None:
        laid_out = task.config.answer_slots
        if (laid_out.d_vocab, laid_out.n_ctx) != (d_vocab, n_ctx):
            raise InputError(
                f"{task} is laid out for {laid_out!r} already, not for d_vocab = {d_vocab}, n_ctx = {n_ctx}"
            )
        return task
    if n_ctx < 4:
        raise InputError(f"n_ctx must be at least 4, for h, r1, r2 and the answer's place, got {n_ctx}")
    vocab = _vocabulary(task, d_vocab)
    return replace(
        task,
        config=task.config.model_copy(update={"answer_slots": AnswerSlots(d_vocab=d_vocab, n_ctx=n_ctx)}),
        vocab=vocab,
        facts=task.facts + 1,
        splits=MappingProxyType({name: _laid_out(queries, task, n_ctx) for name, queries in task.splits.items()}),
        training=_laid_out(task.training, task, n_ctx),
    )


def _vocabulary(task: TwoHopTask, d_vocab: int) -> tuple[str, ...]:
    """The blank, then the tokens of the file, as many as the net has ids for."""
    tokens = task.vocab[:-1] if task.vocab[-1] == PAD else task.vocab
    n_needed = 2 + int(torch.stack([task.facts.max(), task.training.answer.max()]).max())
    if not n_needed <= d_vocab <= 1 + len(tokens):
        raise InputError(
            f"the net has d_vocab = {d_vocab} ids, but the queries of {task} need {n_needed} (the blank and the tokens "
            f"up to {task.vocab[n_needed - 2]}), and with all of its vocabulary there are {1 + len(tokens)}; "
            "give the dataset folder that the net was trained on"
        )
    return (PAD, *tokens)[:d_vocab]


def _laid_out(queries: Queries, task: TwoHopTask, n_ctx: int) -> Queries:
    """Queries of one split, with blanks behind them; the answer is read from the first blank."""
    names = tuple(_PLACE_NAMES[place] if place < len(_PLACE_NAMES) else f"blank {place}" for place in range(n_ctx))
    blanks = torch.full((len(queries), n_ctx - queries.tokens.shape[1]), BLANK)
    return replace(
        queries,
        tokens=torch.cat([_ids(queries.tokens, task), blanks], dim=1),
        answer=_ids(queries.answer, task),
        answer_position=queries.answer_position + 1,
        position_names=names,
        intermediates=MappingProxyType({name: _ids(value, task) for name, value in queries.intermediates.items()}),
    )


def _ids(tokens: Int[Tensor, "*shape"], task: TwoHopTask) -> Int[Tensor, "*shape"]:
    """The net's ids of the task's tokens."""
    return torch.where(tokens == task.pad_token, BLANK, tokens + 1)
