/* The logit lens of one query: a table of all sites, and what is read at the surest position as a figure. */
(() => {
  "use strict";

  const { elements, explorerParts } = window.CircuitLab;
  const { element } = elements;
  const { WRONG_ANSWER, percentWords, range, token, withArrowKeys } = explorerParts;

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

  Object.assign(explorerParts, { drawLens, trajectoryFigure });
})();
