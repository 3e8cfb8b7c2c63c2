/* Numbers in words, and the tables and blocks that the panel of a node is made of. */
(() => {
  "use strict";

  const { CircuitLab } = window;
  const { element } = CircuitLab.elements;

  const isNumber = (value) => typeof value === "number";
  const number = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : "–");
  const signed = (value) => (isNumber(value) ? (value > 0 ? "+" : "") + String(value) : "–");
  const interval = (low, high, digits = 3) =>
    isNumber(low) && isNumber(high) ? `${number(low, digits)} to ${number(high, digits)}` : "–";
  const levelOf = (value) => (isNumber(value) ? `v${Math.floor(Math.min(Math.max(value, 0), 1) * 10 + 0.5)}` : "vnone");

  /** A name that may be broken after its underscores. */
  const breakable = (name) => name.split(/(?<=_)/).flatMap((part, i) => (i ? [element("wbr"), part] : [part]));

  /** A table; a row is {group} or {cells, current}. The first cell of a row names it. */
  function table(caption, columns, rows) {
    const head = element("tr", {}, ...columns.map((name) => element("th", { scope: "col" }, name)));
    const body = rows.map((row) => {
      if (row.group !== undefined) {
        return element("tr", { class: "group" }, element("th", { scope: "rowgroup", colspan: columns.length }, row.group));
      }
      const cells = row.cells.map((cell, i) => (i ? element("td", {}, cell) : element("th", { scope: "row" }, ...breakable(cell))));
      return element("tr", row.current ? { class: "current" } : {}, ...cells);
    });
    const made = element("table", { "aria-label": caption }, element("thead", {}, head), element("tbody", {}, ...body));
    return element("div", { class: "circuit-scroll", tabindex: "0", role: "region", "aria-label": caption }, made);
  }

  const block = (title, ...children) => [element("h5", {}, title), ...children];
  const quiet = (text) => element("p", { class: "quiet" }, text);

  /** The mean attention from a node's position, of the heads that write there. */
  function attentionBlock(attention, node) {
    if (!attention || node.position >= attention.positions.length) return [];
    const layers = (node.layers || []).map(String);
    const named = node.heads || Object.keys(attention.heads).filter((name) => layers.includes(name.split(".")[0]));
    if (named.length === 0) return [];
    const uniform = attention.uniform[node.position];
    const seen = attention.positions.map((_, i) => i).filter((i) => uniform[i] > 0);
    const rows = named.map((name) => {
      const weights = attention.heads[name][node.position];
      return { cells: [`head ${name}`, ...seen.map((i) => `${number(weights[i][0], 2)} (${interval(weights[i][1], weights[i][2], 2)})`)] };
    });
    rows.push({ cells: ["uniform", ...seen.map((i) => number(uniform[i], 2))] });
    return block(
      node.kind === "state" || node.lens ? "Attention of the heads that write here" : "Attention",
      table("Attention", ["from here to", ...seen.map((i) => attention.positions[i])], rows),
      quiet(`Mean weight with its 95 % interval over n = ${attention.n} queries; a reading, not causal evidence.`),
    );
  }

  CircuitLab.circuitParts = { attentionBlock, block, interval, isNumber, levelOf, number, quiet, signed, table };
})();
