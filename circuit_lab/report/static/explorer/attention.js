/* The attention patterns of one query, drawn by circuitsvis. */
(() => {
  "use strict";

  const { elements, explorerParts } = window.CircuitLab;
  const { element } = elements;
  const { MARKS, range, shortened, token, withArrowKeys } = explorerParts;

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
    const { layers, n_heads, causal } = queries.data.attention;
    const isNumbered = layers.every((name) => /^\d+$/.test(name)); // else they are named, as the steps of a recursive net
    const head_name = (layer, head) => `${isNumbered ? "layer " : ""}${layers[layer]}, head ${head}`;
    const short_name = (layer, head) => (isNumbered ? `L${layers[layer]} H${head}` : `${layers[layer]} ${head}`);
    const blue = MARKS.answer.colour;
    const heads = range(layers.length).flatMap((layer) => range(n_heads).map((head) => ({ layer, head })));
    let chosen = n_heads * (layers.length - 1);
    let shown = null;

    const thumbs = heads.map(({ layer, head }, i) => {
      const canvas = element("span", { id: `${section.id}-head-${layer}-${head}`, class: "explorer-head-canvas" });
      const button = element(
        "button",
        { type: "button", class: "explorer-head", onclick: () => ((chosen = i), show(shown)) },
        canvas,
        element("span", { class: "explorer-head-name" }, short_name(layer, head))
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
      const names = queries.attended(query);
      const { positions } = queries.data.attention;
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

  explorerParts.makeAttention = makeAttention;
})();
