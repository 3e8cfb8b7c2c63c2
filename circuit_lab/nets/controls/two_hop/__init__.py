"""Known-answer controls: two-hop nets whose mechanism is wired by hand, exact by construction at any size.

Each answers atomic queries (h, r) at r's position and two-hop queries (h, r1, r2) at r2's, without norms and with ReLU
neurons, so that nothing is approximate. What each does is known because it was put there:

| net | right answers come from |
|---|---|
| `fact_table_read_twice` | the bridge, at r1's position |
| `hidden_bridge` | the bridge, at r1's position, where the logit lens cannot read it |
| `bridge_at_h` | the bridge, at h's position |
| `bridge_at_r2` | the bridge, at r2's position, beside r2 itself |
| `split_bridge` | the bridge, half of it at h's position and half at r1's |
| `duplicate_paths` | the bridge, found several times, by majority |
| `triple_table` | a table of whole queries |
| `triple_table_over_circuit` | a table for the queries it lists, the bridge for the others |
| `pair_through_r1` | a table of whole queries, which reads h and r1 through r1's position |

All refuse, with a ValueError, tokens outside the vocabulary, a question that is listed twice, and a token that is both
an entity and a relation.
"""

from circuit_lab.nets.controls.two_hop.circuits import fact_table_read_twice, hidden_bridge
from circuit_lab.nets.controls.two_hop.duplicates import duplicate_paths
from circuit_lab.nets.controls.two_hop.places import bridge_at_h, bridge_at_r2, split_bridge
from circuit_lab.nets.controls.two_hop.tables import pair_through_r1, triple_table, triple_table_over_circuit

__all__ = [
    "bridge_at_h",
    "bridge_at_r2",
    "duplicate_paths",
    "fact_table_read_twice",
    "hidden_bridge",
    "pair_through_r1",
    "split_bridge",
    "triple_table",
    "triple_table_over_circuit",
]
