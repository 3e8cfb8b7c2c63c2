/* The query explorer of one checkpoint. What its data holds is written in query_explorer.py.
 *
 * Names come from data sets that nobody vouches for: they enter the page as text nodes only.
 */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});
  const MARKS = {
    bridge: { symbol: "◆", colour: "#E69F00", line: "diamond", dash: "dash" },
    answer: { symbol: "★", colour: "#0072B2", line: "star", dash: "solid" },
  };
  const WRONG_ANSWER = "▲";

  // ---------------------------------------------------------------- small tools

  /** An element with properties and children; strings become text nodes. */
  function element(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === undefined || value === false) continue;
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  /** A name from the data set, kept apart from the direction of the text around it. */
  const token = (name) => element("bdi", { class: "explorer-token" }, name);
  const words = (name) => name.replaceAll("_", " ");
  const percentWords = (percent) => (percent === 0 ? "<1 %" : `${percent} %`);
  /** A name that fits beside a small chart. */
  const shortened = (name) => ([...name].length > 14 ? `${[...name].slice(0, 13).join("")}…` : name);
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const passedSymbol = (passed) => (passed ? "✓" : "✗");
  const passedClass = (passed) => (passed ? "explorer-passed" : "explorer-failed");

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

  /** Arrow keys, Home and End move among the buttons of a grid; Tab enters and leaves it. */
  function withArrowKeys(grid, n_columns) {
    const buttons = [...grid.querySelectorAll("button")];
    buttons.forEach((button, i) => (button.tabIndex = i === 0 ? 0 : -1));
    grid.addEventListener("focusin", (event) => {
      const entered = event.target.closest("button");
      if (entered) for (const button of buttons) button.tabIndex = button === entered ? 0 : -1;
    });
    grid.addEventListener("keydown", (event) => {
      const at = buttons.indexOf(document.activeElement);
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n_columns, ArrowDown: n_columns };
      const ends = { Home: 0, End: buttons.length - 1 };
      const to = event.key in ends ? ends[event.key] : at + steps[event.key];
      if (at < 0 || !(to >= 0 && to < buttons.length)) return;
      event.preventDefault();
      buttons[to].focus();
    });
  }

  // ---------------------------------------------------------------- reading the data

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

    /** Attention weights of a head in per cent, a row per position that attends; null where it cannot look. */
    attention(query, layer, head) {
      const { n_layers, n_heads, causal, percent } = this.data.attention;
      const n_kept = causal ? (this.n_ctx * (this.n_ctx - 1)) / 2 : this.n_ctx * (this.n_ctx - 1);
      let at = ((query * n_layers + layer) * n_heads + head) * n_kept;
      return range(this.n_ctx).map((to) => {
        const last = causal ? to : this.n_ctx - 1;
        const kept = range(last).map(() => percent[at++]);
        const rest = 100 - kept.reduce((sum, weight) => sum + weight, 0);
        return [...kept, rest, ...range(this.n_ctx - 1 - last).map(() => null)];
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

  // ---------------------------------------------------------------- choosing

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

  /** Token names with spaces between. */
  function spaced(names, separator = " ") {
    return names.flatMap((name, i) => (i ? [separator, token(name)] : [token(name)]));
  }

  // ---------------------------------------------------------------- the query in words

  function drawWords(host, queries, section, query) {
    const { data } = queries;
    const right = Boolean(data.right[query]);
    const outcome = queries.outcome(query);
    const chip = (what, name, kind) =>
      element("li", { class: `explorer-chip ${kind || ""}` }, element("span", { class: "explorer-chip-what" }, what), token(name));
    const chips = queries.tokens(query).map((name, i) => chip(data.positions[i], name));
    if (data.bridge) chips.push(chip(`${MARKS.bridge.symbol} bridge`, queries.name(data.bridge[query]), "explorer-bridge"));
    chips.push(chip(`${MARKS.answer.symbol} right answer`, queries.name(data.answer[query]), "explorer-answer"));
    const answered = right ? "✓ the net answers" : `${WRONG_ANSWER} the net answers`;
    chips.push(chip(answered, queries.name(data.predicted[query]), right ? "explorer-right" : "explorer-wrong"));
    host.replaceChildren(
      element("h4", {}, `Query ${query} of `, data.splits[data.split[query]], `: ${words(outcome.name)}`),
      element("ul", { class: "explorer-chips" }, ...chips),
      ...(data.bridge ? [element("p", {}, ...inWords(queries, query))] : []),
      element("p", {}, element("strong", {}, `Outcome: ${words(outcome.name)}. `), outcome.meaning),
      element(
        "p",
        { class: "explorer-note" },
        data.in_training[query] ? "The query itself is trained on. " : "The query itself is not in training. ",
        element("a", { href: `#${section.id}-query-${query}` }, "Link to this query")
      )
    );
  }

  function inWords(queries, query) {
    const { data } = queries;
    const [head, first, second] = queries.tokens(query);
    const bridge = queries.name(data.bridge[query]);
    return [
      "First hop: ", token(head), ", ", token(first), " → ", token(bridge), ". Second hop: ",
      token(bridge), ", ", token(second), " → ", token(queries.name(data.answer[query])), ".",
    ];
  }

  /** Which tests the query passes; of a two-hop net with the counts behind it, by site. */
  function drawChecks(host, queries, query) {
    const { data } = queries;
    const twoHop = data.family === "two_hop";
    const groups = twoHop ? queries.transplants(query) : [];
    const rows = data.checks.map((check) => {
      const passed = Boolean(check.passed[query]);
      const [yes, no] = twoHop ? ["passed", "not passed"] : ["right", "wrong"];
      const counts = groups
        .filter(({ test, n }) => test.name === check.name && n > 0)
        .map(({ site, n_passed, n }) => element("span", { class: "explorer-count-of" }, `${n_passed} of ${n} at ${site}`));
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, check.name),
        // Without the key frequencies a wrong answer is no failure.
        element("td", { class: twoHop ? passedClass(passed) : "" }, `${passedSymbol(passed)} ${passed ? yes : no}`),
        element("td", {}, ...(twoHop ? (counts.length ? counts : ["no transplant could be made"]) : [check.meaning]))
      );
    });
    const heads = twoHop ? ["test", "of most partners", "transplants that passed"] : ["answered", "the answer is", "what is expected"];
    host.replaceChildren(
      element("h5", {}, twoHop ? "Transplant tests" : "Answered with and without the key frequencies"),
      element(
        "div",
        { class: "explorer-scroll" },
        element(
          "table",
          { class: "explorer-checks" },
          element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
          element("tbody", {}, ...rows)
        )
      )
    );
  }

  // ---------------------------------------------------------------- the lens

  /** The trajectory of one query; the cell under the mouse or focus, and those clicked, are shown with their top tokens. */
  function drawLens(host, queries, query) {
    const { data } = queries;
    const { sites } = data.lens;
    const predicted = data.predicted[query];
    const cards = element("div", { class: "explorer-cards" });
    const pinned = new Set();
    let looked = null;

    const marksOf = (id, targets) => targets.filter((target) => target.id === id);

    function card(site, position) {
      const { top, targets } = queries.lens(query, site, position);
      const key = `${site},${position}`;
      const items = top.map(({ id, percent }) => {
        const bar = element("span", { class: "explorer-bar" });
        bar.style.width = `${Math.max(percent, 1)}%`;
        return element(
          "li",
          {},
          element("span", { class: "explorer-top-name" }, token(queries.name(id)), ...marksOf(id, targets).map((m) => ` ${m.symbol}`)),
          element("span", { class: "explorer-bars", "aria-hidden": "true" }, bar),
          element("span", { class: "explorer-number" }, percentWords(percent))
        );
      });
      const ranks = targets.map(({ symbol, name, rank, percent }) =>
        element("p", {}, `${symbol} ${name}: rank ${rank}, ${percentWords(percent)}`)
      );
      return element(
        "div",
        { class: pinned.has(key) ? "explorer-card explorer-pinned" : "explorer-card" },
        element("h6", {}, `${sites[site]} @ ${data.positions[position]}`, pinned.has(key) ? " (pinned)" : ""),
        element("ol", {}, ...items),
        ...ranks
      );
    }

    function redraw() {
      const keys = [...new Set([...(looked === null ? [] : [looked]), ...pinned])];
      cards.replaceChildren(
        ...(keys.length
          ? keys.map((key) => card(...key.split(",").map(Number)))
          : [element("p", { class: "explorer-note" }, "Point at a cell, or move there with Tab and the arrow keys, to see its five most probable tokens here; click or Enter pins them.")])
      );
    }

    function cell(site, position) {
      const { top, targets } = queries.lens(query, site, position);
      const [first] = top;
      const marks = marksOf(first.id, targets);
      const wrong = first.id === predicted && !data.right[query];
      const key = `${site},${position}`;
      const look = () => ((looked = key), redraw());
      const symbols = [...marks.map((mark) => mark.symbol), ...(wrong ? [WRONG_ANSWER] : [])].join("");
      const meanings = [...marks.map((mark) => `the ${mark.name}`), ...(wrong ? ["the net's wrong answer"] : [])];
      const label = [
        `${sites[site]} at ${data.positions[position]}: ${queries.name(first.id)} ${percentWords(first.percent)}`,
        ...meanings,
        ...targets.map(({ name, rank }) => `${name} rank ${rank}`),
      ].join(", ");
      const button = element(
        "button",
        { type: "button", "aria-label": label, "aria-pressed": "false", onmouseenter: look, onfocus: look },
        element("span", { class: "explorer-cell-top" }, symbols ? `${symbols} ` : "", token(queries.name(first.id))),
        element("span", { class: "explorer-number" }, percentWords(first.percent)),
        element("span", { class: "explorer-ranks" }, targets.map(({ symbol, rank }) => `${symbol}${rank}`).join(" "))
      );
      button.addEventListener("click", () => {
        if (!pinned.delete(key)) pinned.add(key);
        button.setAttribute("aria-pressed", String(pinned.has(key)));
        redraw();
      });
      const kinds = [...marks.map((mark) => `explorer-${mark.name}`), ...(wrong ? ["explorer-wrong"] : [])];
      const made = element("td", { class: kinds.join(" ") }, button);
      made.style.setProperty("--share", `${first.percent}%`);
      return made;
    }

    const names = queries.tokens(query);
    const table = element(
      "table",
      { class: "explorer-lens" },
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col" }, "site"),
          ...data.positions.map((position, i) => element("th", { scope: "col" }, `${position}: `, token(names[i])))
        )
      ),
      element(
        "tbody",
        { onmouseleave: () => (looked = null, redraw()) },
        ...range(sites.length)
          .reverse() // the input at the bottom, as layers are drawn
          .map((site) =>
            element("tr", {}, element("th", { scope: "row" }, sites[site]), ...range(queries.n_ctx).map((position) => cell(site, position)))
          )
      )
    );
    withArrowKeys(table, queries.n_ctx);
    const legend = [
      ...queries.targets.map(({ symbol, name }) => `${symbol} ${name}`),
      ...(data.right[query] ? [] : [`${WRONG_ANSWER} the net's wrong answer`]),
    ].join(", ");
    const ranks = queries.targets.map(({ symbol }) => symbol).join(" and ");
    redraw();
    host.replaceChildren(
      element("h5", {}, "Logit lens: what the stream says at each site"),
      element("p", { class: "explorer-note" }, `In each cell the most probable token and its probability (${legend}); below it the rank of ${ranks}, 1 being the top. The input is at the bottom. What can be read need not be used: the lens decides nothing.`),
      element("div", { class: "explorer-scroll" }, table),
      cards
    );
  }

  /** Where a target is read most surely: at its highest probability; among equals where it is read the longest. */
  function bestPosition(queries, query, t) {
    const { sites } = queries.data.lens;
    const score = (position) => {
      const percents = range(sites.length).map((site) => queries.lens(query, site, position).targets[t].percent);
      return [Math.max(...percents), percents.reduce((sum, percent) => sum + percent)];
    };
    return range(queries.n_ctx)
      .map((position) => ({ position, score: score(position) }))
      .reduce((best, one) => (one.score[0] - best.score[0] || one.score[1] - best.score[1]) >= 0 ? one : best).position;
  }

  function trajectoryFigure(queries, query) {
    const { sites, chance } = queries.data.lens;
    const lines = queries.targets.map((target, t) => {
      const position = bestPosition(queries, query, t);
      const readings = range(sites.length).map((site) => queries.lens(query, site, position).targets[t]);
      return {
        type: "scatter",
        mode: "lines+markers",
        name: `${target.name} @ ${queries.data.positions[position]}`,
        x: sites,
        y: readings.map((reading) => reading.percent),
        customdata: readings.map((reading) => reading.rank),
        hovertemplate: "%{x}: %{y} %, rank %{customdata}",
        line: { color: target.colour, dash: target.dash, width: 2 },
        marker: { symbol: target.line, size: 10 },
      };
    });
    const by_chance = { type: "scatter", mode: "lines", name: `chance (${chance} %)`, x: sites, y: sites.map(() => chance), line: { color: "#999999", dash: "dot", width: 1 }, hoverinfo: "skip" };
    return {
      data: [...lines, by_chance],
      layout: {
        height: 260,
        margin: { l: 55, r: 15, t: 10, b: 45 },
        yaxis: { title: { text: "probability (%)" }, range: [-4, 104], tickvals: [0, 25, 50, 75, 100] },
        xaxis: { type: "category" },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      },
    };
  }

  // ---------------------------------------------------------------- attention

  /** A circuitsvis pattern that can be drawn again.
   *
   * `CircuitsVis.render` keeps the root it makes to itself, so that what it has drawn can be neither changed nor
   * removed. A component of ours between root and pattern can change its state; React takes any class marked as below.
   */
  function makePattern(host) {
    const { AttentionPattern, Hello, render } = window.CircuitsVis;
    const anyElement = Hello({ name: "" });
    let mounted = null;
    let latest = null;

    class Changing {
      componentDidMount() {
        mounted = this;
        this.show();
      }
      show() {
        this.updater.enqueueSetState(this, { properties: latest });
      }
      render() {
        return this.state ? { ...anyElement, type: AttentionPattern, props: this.state.properties } : null;
      }
    }
    Changing.prototype.isReactComponent = {};

    return function draw(properties) {
      const first = latest === null;
      latest = properties;
      if (first) render(host.id, Changing);
      else if (mounted) mounted.show();
    };
  }

  /** Small patterns of all heads to choose from, one of them large and in numbers. Returns what shows a query. */
  function makeAttention(host, queries, section) {
    const { n_layers, n_heads, causal } = queries.data.attention;
    const head_name = (layer, head) => `layer ${layer}, head ${head}`;
    const blue = MARKS.answer.colour;
    const heads = range(n_layers).flatMap((layer) => range(n_heads).map((head) => ({ layer, head })));
    let chosen = n_heads * (n_layers - 1);
    let shown = null;

    const thumbs = heads.map(({ layer, head }, i) => {
      const canvas = element("span", { id: `${section.id}-head-${layer}-${head}`, class: "explorer-head-canvas" });
      const button = element(
        "button",
        { type: "button", class: "explorer-head", onclick: () => ((chosen = i), show(shown)) },
        canvas,
        element("span", { class: "explorer-head-name" }, `L${layer} H${head}`)
      );
      return { button, canvas };
    });
    const grid = element("div", { class: "explorer-heads", role: "group", "aria-label": "Heads" }, ...thumbs.map((thumb) => thumb.button));
    grid.style.setProperty("--heads", n_heads);
    const title = element("h6", {});
    const large = element("div", { id: `${section.id}-head-large`, class: "explorer-head-large" });
    const numbers = element("div", { class: "explorer-scroll" });
    host.replaceChildren(
      element("h5", {}, "Attention of this query"),
      element("p", { class: "explorer-note" }, `One small pattern per layer (row) and head (column): a row of a pattern is the position that attends (destination), a column the position it looks at (source); darker is more${causal ? ", grey cannot be looked at" : ""}. Choose a head to see it large and in numbers.`),
      grid,
      element("div", { class: "explorer-head-view" }, element("div", { class: "explorer-light" }, large), element("div", {}, title, numbers))
    );
    withArrowKeys(grid, n_heads);
    thumbs.forEach(({ button }, i) => (button.tabIndex = i === chosen ? 0 : -1));
    const patterns = thumbs.map((thumb) => makePattern(thumb.canvas));
    const largePattern = makePattern(large);

    function strongest(percent) {
      const last = percent[percent.length - 1];
      return last.indexOf(Math.max(...last));
    }

    function show(query) {
      shown = query;
      const names = queries.tokens(query);
      const { positions } = queries.data;
      const last = positions[positions.length - 1];
      heads.forEach(({ layer, head }, i) => {
        const percent = queries.attention(query, layer, head);
        const from = strongest(percent);
        const common = { attention: percent.map((row) => row.map((p) => (p ?? 0) / 100)), tokens: names.map(shortened), positiveColor: blue, maskUpperTri: causal };
        patterns[i]({ ...common, showAxisLabels: false });
        const most = `${last} looks most at ${positions[from]}, ${percent[percent.length - 1][from]} %`;
        thumbs[i].button.setAttribute("aria-label", `${head_name(layer, head)}: ${most}`);
        thumbs[i].button.setAttribute("aria-pressed", String(i === chosen));
        if (i !== chosen) return;
        largePattern({ ...common, showAxisLabels: true, zoomed: true });
        title.textContent = `${head_name(layer, head)}: ${most}`;
        numbers.replaceChildren(numberTable(percent, names, positions));
      });
    }

    function numberTable(percent, names, positions) {
      const label = (i) => [`${positions[i]}: `, token(names[i])];
      return element(
        "table",
        { class: "explorer-attention" },
        element("caption", {}, "attention weights, %"),
        element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "from ↓ at →"), ...names.map((_, i) => element("th", { scope: "col" }, ...label(i))))),
        element("tbody", {}, ...percent.map((row, to) => element("tr", {}, element("th", { scope: "row" }, ...label(to)), ...row.map((p) => element("td", { class: "explorer-number" }, p === null ? "" : String(p))))))
      );
    }

    return show;
  }

  // ---------------------------------------------------------------- transplants

  function drawTransplants(host, queries, query) {
    if (!queries.data.transplants) return;
    const groups = queries.transplants(query).filter(({ made }) => made.length);
    const blocks = queries.data.transplants.tests.map((test) => {
      const of_test = groups.filter((group) => group.test === test);
      return element(
        "div",
        { class: "explorer-test" },
        element("h6", {}, test.name),
        element("p", { class: "explorer-note" }, test.meaning),
        ...(of_test.length ? of_test.flatMap((group) => transplantList(group)) : [element("p", {}, "No transplant could be made: no partner is fit for this query.")])
      );
    });
    host.replaceChildren(element("h5", {}, "What single transplants did"), ...blocks);
  }

  function transplantList({ test, site, n_passed, n, made }) {
    const items = made.map(({ partner, wanted, answered, passed }) => {
      const other = element("span", { class: "explorer-tuple" }, "(", ...spaced(partner, ", "), ")");
      const ours = "this query";
      const moved = test.lends ? ["the state of ", ours, " put into ", other] : ["the state of ", other, " put into ", ours];
      return element(
        "li",
        { class: passedClass(passed) },
        element("span", { class: "explorer-symbol" }, passedSymbol(passed), element("span", { class: "explorer-hidden" }, passed ? " passed: " : " not passed: ")),
        element("span", { class: "explorer-plain" }, ...moved, ": answered ", token(answered), ", wanted ", token(wanted))
      );
    });
    return [
      element("p", { class: "explorer-site" }, element("strong", {}, site), `: ${n_passed} of ${n} transplants passed in the diagnosis. Others like them:`),
      element("ul", { class: "explorer-transplants" }, ...items),
    ];
  }

  // ---------------------------------------------------------------- putting it together

  /** Parts of the details that stay in the page while queries come and go. */
  function makeDetails(article, queries, section) {
    const part = (name) => element("div", { class: `explorer-part explorer-${name}` });
    const parts = { words: part("words"), checks: part("checks"), lens: part("lens-part"), trajectory: part("trajectory"), attention: part("attention-part"), transplants: part("transplants-part") };
    const figure = element("div", { class: "figure", role: "img" });
    parts.trajectory.append(element("h5", {}, `Probability of ${queries.targets.map((t) => t.name).join(" and ")} along the sites, ${queries.targets.length > 1 ? "each " : ""}at the position where it is read most surely`), figure);
    article.replaceChildren(...Object.values(parts));
    const showAttention = makeAttention(parts.attention, queries, section);
    let waiting = 0;

    return function show(query) {
      drawWords(parts.words, queries, section, query);
      // The rest takes longer: while an arrow key is held, only the last query gets it.
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        drawChecks(parts.checks, queries, query);
        drawLens(parts.lens, queries, query);
        drawTransplants(parts.transplants, queries, query);
        figure.setAttribute("aria-label", `Lens probability along the sites, query ${query}; the numbers are in the table above.`);
        CircuitLab.draw(figure, trajectoryFigure(queries, query));
        showAttention(query);
        article.dataset.query = query;
      }, 30);
    };
  }

  function queryInHash(section, n_queries) {
    const prefix = `#${section.id}-query-`;
    const number = location.hash.startsWith(prefix) ? location.hash.slice(prefix.length) : "";
    return /^\d+$/.test(number) && Number(number) < n_queries ? Number(number) : null;
  }

  CircuitLab.mountExplorer = async function mountExplorer(section, panel) {
    const explorer = section.querySelector(".explorer");
    if (!panel) return;
    const queries = new Queries(await unpacked(panel));
    explorer.querySelector(".explorer-body").hidden = false;
    const article = explorer.querySelector(".explorer-query");
    const show = makeDetails(article, queries, section);
    const fields = [...queries.data.positions, ...(queries.data.bridge ? ["bridge"] : []), "answer", "net"];
    explorer.querySelector(".explorer-hint").textContent =
      `Search by any token, “right” or “wrong”; all words must match. “${fields[fields.length - 2]}:name” searches one field (${fields.join(", ")}).`;
    const chooser = makeChooser(explorer, section, queries, (query, byUser) => {
      article.id = `${section.id}-query-${query}`;
      if (byUser) history.replaceState(null, "", `#${article.id}`);
      show(query);
    });
    const follow = () => {
      const linked = queryInHash(section, queries.data.n_queries);
      if (linked === null) return;
      chooser.reveal(linked);
      article.scrollIntoView();
    };
    chooser.reveal(0);
    follow();
    window.addEventListener("hashchange", follow);
  };

  /** The shell shows the view of the element that an address names: for a query, this section's only place for one. */
  function nameLinkedQuery() {
    const link = /^#(.+)-query-\d+$/.exec(location.hash);
    const article = link && document.getElementById(link[1])?.querySelector(".explorer-query");
    if (article) article.id = location.hash.slice(1);
    return Boolean(article);
  }
  // Capturing, and so before the shell looks for it for the first time; later the shell has looked already.
  window.addEventListener("DOMContentLoaded", nameLinkedQuery, { capture: true });
  window.addEventListener("hashchange", () => {
    if (nameLinkedQuery()) CircuitLab.goTo?.(location.hash.slice(1));
  });
})();
