/* The data of an explorer, unpacked and by query. What it holds is written in query_explorer.py. */
(() => {
  "use strict";

  const { explorerParts } = window.CircuitLab;
  const { MARKS, range } = explorerParts;

  function decompressed(packed) {
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
  }

  /** The panel's content: its JSON with the arrays that this refers to. */
  async function unpacked({ head, arrays }) {
    const numbers = await decompressed(arrays).arrayBuffer();
    const types = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
    const array = ({ at, n, width }) => new types[width](numbers.slice(at, at + n * width));
    return JSON.parse(await decompressed(head).text(), (_, value) => (value && value.width ? array(value) : value));
  }

  /** The flat lists of the data, by query. */
  class Queries {
    constructor(data) {
      this.data = data;
      this.n_ctx = data.positions.length;
      this.targets = data.lens.targets.map((name) => ({ name, ...MARKS[name] }));
    }

    name(id) {
      return this.data.vocab[id] ?? `token ${id}`;
    }

    tokens(query) {
      return this.#names(this.data.tokens, query);
    }

    #names(rows, row) {
      return range(this.n_ctx).map((position) => this.name(rows[row * this.n_ctx + position]));
    }

    target(query, name) {
      return this.data[name][query];
    }

    outcome(query) {
      return this.data.outcomes[this.data.outcome[query]];
    }

    /** What a search looks through: names with what they are. */
    terms(query) {
      const { data } = this;
      const named = this.tokens(query).map((name, i) => [data.positions[i], name]);
      if (data.bridge) named.push(["bridge", this.name(data.bridge[query])]);
      named.push(["answer", this.name(data.answer[query])], ["net", this.name(data.predicted[query])]);
      named.push(["", data.right[query] ? "right" : "wrong"]);
      return named.map(([what, name]) => [what.toLowerCase(), name.toLowerCase()]);
    }

    /** The lens at a site and position: the top tokens, and rank and probability (per cent) of each target. */
    lens(query, site, position) {
      const { lens } = this.data;
      const cell = (query * lens.sites.length + site) * this.n_ctx + position;
      const top = range(lens.top_k).map((k) => ({
        id: lens.tokens[cell * lens.top_k + k],
        percent: lens.percent[cell * lens.top_k + k],
      }));
      const targets = this.targets.map((target, t) => {
        const at = ((query * this.targets.length + t) * lens.sites.length + site) * this.n_ctx + position;
        const id = this.target(query, target.name);
        return { ...target, id, rank: lens.rank[at], percent: lens.target_percent[at] };
      });
      return { top, targets };
    }

    /** What stands at the positions that attention sees: the tokens, behind a learned prefix if there is one. */
    attended(query) {
      const before = this.data.attention.positions.slice(0, this.data.attention.positions.length - this.n_ctx);
      return [...before, ...this.tokens(query)];
    }

    /** Attention weights of a head in per cent, a row per position that attends; null where it cannot look. */
    attention(query, layer, head) {
      const { layers, positions, n_heads, causal, percent } = this.data.attention;
      const n = positions.length;
      const n_kept = causal ? (n * (n - 1)) / 2 : n * (n - 1);
      let at = ((query * layers.length + layer) * n_heads + head) * n_kept;
      return range(n).map((to) => {
        const last = causal ? to : n - 1;
        const kept = range(last).map(() => percent[at++]);
        const rest = 100 - kept.reduce((sum, weight) => sum + weight, 0);
        return [...kept, rest, ...range(n - 1 - last).map(() => null)];
      });
    }

    /** The single transplants of a query, and of how many of its own in the diagnosis passed, by test and site. */
    transplants(query) {
      const { transplants } = this.data;
      const rows = range(transplants.query.length).filter((row) => transplants.query[row] === query);
      const groups = transplants.tests.flatMap((test, t) =>
        transplants.sites.map((site, s) => {
          const at = 2 * ((query * transplants.tests.length + t) * transplants.sites.length + s);
          const [n_passed, n] = transplants.passed_of.slice(at, at + 2);
          const own = rows.filter((row) => transplants.test[row] === t && transplants.site[row] === s);
          return { test, site, n_passed, n, made: own.map((row) => this.#transplant(row)) };
        })
      );
      return groups;
    }

    #transplant(row) {
      const { transplants } = this.data;
      return {
        partner: this.#names(transplants.partners, transplants.partner[row]),
        wanted: this.name(transplants.wanted[row]),
        answered: this.name(transplants.answered[row]),
        passed: Boolean(transplants.passed[row]),
      };
    }
  }

  Object.assign(explorerParts, { Queries, unpacked });
})();
