"""Transplants between queries and a pool: states at a site, kept while the site stays, and the patched answers."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_lab.measures.sites import AnySite, n_state_rows, patched_logits, shares_states, site_states
from circuit_lab.measures.two_hop.partners import NONE, Partners
from circuit_lab.nets import HookedNet, queries_at_once, queries_kept
from circuit_lab.tasks import Queries


def patched_answers(
    net: HookedNet,
    *,
    site: AnySite,
    receiver_states: Float[Tensor, "m rows d_model"],
    source_states: Float[Tensor, "m rows d_model"],
    answer_position: Int[Tensor, " m"],
) -> Int[Tensor, " m"]:
    """The net's top answers with the sources' states at a site put into the receivers'; see `patched_logits`.

    Args:
        net: A hooked net.
        site: Where to patch.
        receiver_states: `site_states` of the queries that are asked.
        source_states: `site_states` of the queries that lend their state.
        answer_position: Position read, per receiver.

    Returns:
        Token ids, on the CPU.
    """
    logits = patched_logits(
        net,
        site=site,
        receiver_states=receiver_states,
        source_states=source_states,
        answer_position=answer_position,
    )
    return logits.argmax(-1).cpu()


class TransplantLab:
    """States of the queries and of the pool at one stage, and the transplants between them."""

    def __init__(self, net: HookedNet, queries: Queries, pool: Queries, *, batch_size: int) -> None:
        self.net, self.queries, self.pool, self.batch_size = net, queries, pool, batch_size
        self._states_of: AnySite | None = None
        self._query_states = self._pool_states = torch.empty(0)

    def _enter(self, site: AnySite) -> None:
        """Compute the states at a site; sites of one stage share them."""
        if self._states_of is None or not shares_states(self._states_of, site):
            self._query_states = self._pool_states = torch.empty(0)  # not beside the new ones
            self._query_states = site_states(self.net, self.queries.tokens, site=site)
            self._pool_states = site_states(self.net, self.pool.tokens, site=site)
            self._states_of = site

    def run(
        self,
        site: AnySite,
        receivers: Partners,
        strangers: Partners,
        same_bridge: Partners,
        other_bridge: Partners,
        *,
        generator: torch.Generator,
    ) -> dict[str, tuple[Bool[Tensor, "n n_partners"], Bool[Tensor, "n n_partners"]]]:
        """Per test, where the transplant passed and where its control did."""
        handed_on = self.answers_when_lending(site, receivers)
        handed_on_by_stranger = self.answers_when_lending(site, receivers, lenders=strangers)
        with_same_bridge = self.answers_when_receiving(site, same_bridge)
        with_other_bridge = self.answers_when_receiving(site, other_bridge)
        displaced = self.answers_when_receiving(site, other_bridge, displace=generator)
        own_answer = self.queries.answer[:, None]
        return {
            "hop1": (
                (handed_on == receivers.wanted) & receivers.exists,
                (handed_on_by_stranger == receivers.wanted) & receivers.exists,
            ),
            "hop2": (
                (with_same_bridge == own_answer) & same_bridge.exists,
                (with_other_bridge == own_answer) & other_bridge.exists,
            ),
            "interchange": (
                (with_other_bridge == other_bridge.wanted) & other_bridge.exists,
                (displaced == own_answer) & other_bridge.exists,
            ),
        }

    def answers_when_lending(
        self, site: AnySite, receivers: Partners, *, lenders: Partners | None = None
    ) -> Int[Tensor, "n n_partners"]:
        """Answers of the receivers with the state of each query, or of its stranger, put in."""
        self._enter(site)
        cell = receivers.exists
        receiver = receivers.rows[cell]
        if lenders is None:
            source_states, source = self._query_states, _query_rows(cell)
        else:
            source_states, source = self._pool_states, lenders.rows[cell]
        answers = torch.full(cell.shape, NONE)
        answers[cell] = self._patched(
            site,
            (self._pool_states, receiver),
            (source_states, source),
            self.pool.answer_position[receiver],
        )
        return answers

    def answers_when_receiving(
        self, site: AnySite, sources: Partners, *, displace: torch.Generator | None = None
    ) -> Int[Tensor, "n n_partners"]:
        """Answers of each query with its sources' states put in, or displaced by as much in a random direction."""
        self._enter(site)
        cell = sources.exists
        receiver = _query_rows(cell)
        answers = torch.full(cell.shape, NONE)
        answers[cell] = self._patched(
            site,
            (self._query_states, receiver),
            (self._pool_states, sources.rows[cell]),
            self.queries.answer_position[receiver],
            displace=displace,
        )
        return answers

    def _patched(
        self,
        site: AnySite,
        receivers: tuple[Tensor, Tensor],
        sources: tuple[Tensor, Tensor],
        answer_position: Int[Tensor, " m"],
        *,
        displace: torch.Generator | None = None,
    ) -> Int[Tensor, " m"]:
        """Patched answers of (states, rows) pairs, in batches."""
        answers = [torch.zeros(0, dtype=torch.long)]
        size = queries_at_once(self.net, self.queries.tokens.shape[1], at_most=self.batch_size)
        for start in range(0, len(answer_position), size):
            part = slice(start, start + size)
            receiver_states, source_states = (states[rows[part]] for states, rows in (receivers, sources))
            if displace is not None:
                source_states = displaced_states(receiver_states, source_states, generator=displace)
            answers.append(
                patched_answers(
                    self.net,
                    site=site,
                    receiver_states=receiver_states,
                    source_states=source_states,
                    answer_position=answer_position[part],
                )
            )
        return torch.cat(answers)


def labs(
    net: HookedNet,
    queries: Queries,
    pool: Queries,
    drawn: Sequence[Partners],
    *,
    sites: Sequence[AnySite],
    batch_size: int,
) -> Iterator[tuple[TransplantLab, list[Partners]]]:
    """Laboratories for as many of the queries at a time as memory holds the states of.

    Args:
        net: A hooked net.
        queries: The queries; those of the laboratories follow in the same order.
        pool: Who they are paired with.
        drawn: Their partners in the pool, of each test.
        sites: The sites that will be entered.
        batch_size: Transplants per forward pass at most.

    Yields:
        tuple[TransplantLab, list[Partners]]: A laboratory with its queries, and their partners, whose rows are those
            of its own pool.
    """
    most = 1 + sum(partners.rows.shape[1] for partners in drawn)
    n_rows = max((n_state_rows(net, site, queries.tokens.shape[1]) for site in sites), default=1)
    size = queries_kept(net, at_most=max(1, len(queries)), numbers=most * n_rows * net.cfg.d_model)
    for rows in torch.arange(len(queries)).split(size):
        small_pool, renumbered = _pool_in_use(pool, [partners[rows] for partners in drawn])
        yield TransplantLab(net, queries[rows], small_pool, batch_size=batch_size), renumbered


def _pool_in_use(pool: Queries, drawn: Sequence[Partners]) -> tuple[Queries, list[Partners]]:
    """The part of the pool that was drawn, and the partners with their rows renumbered to it.

    The pool may be a hundred times larger than what is drawn from it, and every row costs a forward pass.
    """
    used = torch.cat([partners.rows[partners.exists] for partners in drawn]).unique()
    new_row = torch.full((len(pool),), NONE)
    new_row[used] = torch.arange(len(used))
    renumbered = [
        Partners(rows=torch.where(partners.exists, new_row[partners.rows], NONE), wanted=partners.wanted)
        for partners in drawn
    ]
    return pool[used], renumbered


def _query_rows(cell: Bool[Tensor, "n n_partners"]) -> Int[Tensor, " m"]:
    """Row of the query of each existing cell, in the order in which a mask reads them."""
    return torch.arange(len(cell))[:, None].expand_as(cell)[cell]


def displaced_states(
    receiver: Float[Tensor, "m rows d_model"],
    source: Float[Tensor, "m rows d_model"],
    *,
    generator: torch.Generator,
) -> Float[Tensor, "m rows d_model"]:
    """The receiver's states moved as far as the sources lie from them, per position, in random directions."""
    direction = torch.randn(receiver.shape, generator=generator, dtype=receiver.dtype).to(receiver.device)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    return receiver + (source - receiver).norm(dim=-1, keepdim=True) * direction
