/* Choosing a query: the filters, the search and the list. */
(() => {
  "use strict";

  const { elements, explorerParts } = window.CircuitLab;
  const { element, words } = elements;
  const { passedClass, passedSymbol, range, spaced, token } = explorerParts;

  /** How well a query fits the words: 0 not at all, 1 every word is part of a name, 2 every word is a name. */
  function fit(terms, searched) {
    let best = 2;
    for (const word of searched) {
      const whole = terms.some(([what, name]) => name === word || `${what}:${name}` === word);
      const part = terms.some(([what, name]) => name.includes(word) || (word.includes(":") && `${what}:${name}`.startsWith(word)));
      if (!part && !whole) return 0;
      if (!whole) best = 1;
    }
    return best;
  }

  /** The filters and the list. Calls `onChoose(query, byUser)` whenever another query is chosen. */
  function makeChooser(explorer, section, queries, onChoose) {
    const { data } = queries;
    const form = explorer.querySelector(".explorer-filters");
    const { split, outcome, words: search } = form.elements;
    const list = explorer.querySelector(".explorer-list");
    const count = explorer.querySelector(".explorer-count");
    const all = range(data.n_queries);
    const terms = all.map((query) => queries.terms(query));
    const options = all.map((query) => option(query));
    let matching = [];
    let chosen = -1;

    function option(query) {
      const right = Boolean(data.right[query]);
      return element(
        "li",
        {
          id: `${section.id}-option-${query}`,
          role: "option",
          class: "explorer-option",
          "aria-selected": "false",
          onclick: () => choose(query, true),
        },
        element("span", { class: passedClass(right), "aria-hidden": "true" }, passedSymbol(right)),
        element("span", { class: "explorer-option-tokens" }, ...spaced(queries.tokens(query)), " → ", token(queries.name(data.predicted[query]))),
        element("span", { class: "explorer-option-notes" }, `${data.splits[data.split[query]]}, ${words(queries.outcome(query).name)}`)
      );
    }

    /** How many queries are shown, and how many there are, of a split and outcome (null: any). */
    function counted(s, o) {
      const fits = (a, b) => (s === null || a === s) && (o === null || b === o);
      const n_shown = all.filter((query) => fits(data.split[query], data.outcome[query])).length;
      const n = data.totals.filter(([a, b]) => fits(a, b)).reduce((sum, total) => sum + total[2], 0);
      return { n_shown, n };
    }

    function fill(select, any, names, of) {
      const before = select.value;
      const choices = [["", any, of(null)], ...names.map((name, i) => [String(i), name, of(i)])];
      const there = choices.filter(([value, , { n }]) => value === "" || n > 0);
      select.replaceChildren(
        ...there.map(([value, name, { n_shown, n }]) => element("option", { value }, `${name} (${n_shown} of ${n} shown)`))
      );
      select.value = there.some(([value]) => value === before) ? before : "";
    }

    const number = (select) => (select.value === "" ? null : Number(select.value));
    const fillOutcomes = () =>
      fill(outcome, "any outcome", data.outcomes.map((o) => words(o.name)), (o) => counted(number(split), o));

    function narrow() {
      const [s, o] = [number(split), number(outcome)];
      const searched = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const fits = all.map((query) => fit(terms[query], searched));
      matching = all.filter((q) => fits[q] && (s === null || data.split[q] === s) && (o === null || data.outcome[q] === o));
      matching.sort((one, other) => fits[other] - fits[one] || one - other);
      list.replaceChildren(...matching.map((query) => options[query]));
      count.textContent = matching.length
        ? `${matching.length} of ${data.n_queries} queries match.`
        : "No query matches; take a word away, or choose another split or outcome.";
      mark();
    }

    function narrowByUser() {
      narrow();
      if (matching.length && !matching.includes(chosen)) choose(matching[0], true);
    }

    function mark() {
      for (const query of all) options[query].setAttribute("aria-selected", String(query === chosen));
      const listed = matching.includes(chosen);
      if (listed) list.setAttribute("aria-activedescendant", options[chosen].id);
      else list.removeAttribute("aria-activedescendant");
      if (!listed) return;
      // Not scrollIntoView, which would move the page too.
      const [box, row] = [list.getBoundingClientRect(), options[chosen].getBoundingClientRect()];
      if (row.top < box.top) list.scrollTop -= box.top - row.top;
      if (row.bottom > box.bottom) list.scrollTop += row.bottom - box.bottom;
    }

    function choose(query, byUser) {
      const changed = query !== chosen;
      chosen = query;
      mark();
      if (changed) onChoose(query, byUser);
    }

    /** Show a query whatever the filters say. */
    function reveal(query) {
      if (!matching.includes(query)) {
        form.reset();
        fillOutcomes();
        narrow();
      }
      choose(query, false);
    }

    function onListKey(event) {
      const at = matching.indexOf(chosen);
      const last = matching.length - 1;
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last, PageDown: at + 8, PageUp: at - 8 }[event.key];
      if (event.key === "Enter" && at >= 0) explorer.querySelector(".explorer-query").focus();
      else if (to === undefined || last < 0) return;
      else choose(matching[Math.min(Math.max(to, 0), last)], true);
      event.preventDefault();
    }

    fill(split, "all splits", data.splits, (s) => counted(s, null));
    fillOutcomes();
    search.placeholder = `${data.positions[0]}, answer, right …`;
    split.addEventListener("change", () => (fillOutcomes(), narrowByUser()));
    outcome.addEventListener("change", narrowByUser);
    search.addEventListener("input", narrowByUser);
    search.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      list.focus();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    list.addEventListener("keydown", onListKey);
    narrow();
    return { reveal };
  }

  explorerParts.makeChooser = makeChooser;
})();
