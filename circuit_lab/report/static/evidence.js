/* Tables: sorting by a heading; and of the evidence: filter, marked rows, downloads, the line of Python to copy.
 *
 * The table in the page is the one copy of the evidence; what is downloaded is read from it, with all digits.
 */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});
  const COLUMNS = ["name", "split", "site", "value", "low", "high", "n", "unit", "control", "compared_with", "decides"];
  const ORDER = { none: "ascending", ascending: "descending", descending: "none" };

  // ---------------------------------------------------------------- sorting

  const rowsAsGiven = new WeakMap();

  function sortKey(row, column) {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    if (text === "") return null;
    return "value" in cell.dataset || /^\d+$/.test(text) ? Number(text) : text;
  }

  /** Numbers by size, texts by the alphabet, nothing always last. */
  function compared(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    const numbers = typeof a === "number" && typeof b === "number";
    return sign * (numbers ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  }

  function sortBy(table, column, order) {
    const body = table.tBodies[0];
    if (!rowsAsGiven.has(table)) rowsAsGiven.set(table, [...body.rows]);
    const rows = [...rowsAsGiven.get(table)];
    if (order !== "none") {
      const sign = order === "ascending" ? 1 : -1;
      const keys = new Map(rows.map((row) => [row, sortKey(row, column)]));
      rows.sort((a, b) => compared(keys.get(a), keys.get(b), sign));
    }
    body.append(...rows);
  }

  CircuitLab.mountSortableTables = () => {
    for (const table of document.querySelectorAll("table.sortable")) {
      for (const heading of table.querySelectorAll("th[aria-sort]")) {
        heading.querySelector("button").addEventListener("click", () => {
          const order = ORDER[heading.getAttribute("aria-sort")];
          for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
          heading.setAttribute("aria-sort", order);
          sortBy(table, heading.cellIndex, order);
        });
      }
    }
  };

  // ---------------------------------------------------------------- reading the table

  const rowsOf = (view) => [...view.querySelectorAll(".evidence tbody tr")];
  const number = (text) => (text === "" ? null : Number(text));

  function readRow(row) {
    const [name, split, site, value, unit, interval, n, control, compared_with, decides] = row.cells;
    return {
      name: name.textContent,
      split: split.textContent,
      site: site.textContent,
      value: number(value.dataset.value),
      low: number(interval.dataset.value),
      high: number(interval.dataset.high),
      n: Number(n.textContent),
      unit: unit.textContent,
      control: number(control.dataset.value),
      compared_with: compared_with.textContent,
      decides: decides.textContent === "yes",
    };
  }

  const place = (row) => Number(row.id.split("-e")[1]);

  /** The evidence of a checkpoint's view, in the order of its diagnosis, as `Diagnosis.to_json` writes it. */
  CircuitLab.readEvidence = (view) =>
    rowsOf(view)
      .sort((a, b) => place(a) - place(b))
      .map(readRow);

  // ---------------------------------------------------------------- downloads

  /** A field of RFC 4180; a text that a spreadsheet would run as a formula is led by an apostrophe. */
  function csvField(value) {
    if (value === null) return "";
    if (typeof value !== "string") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  const FORMATS = {
    csv: {
      type: "text/csv",
      text: (rows) =>
        [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column]))]
          .map((fields) => `${fields.map(csvField).join(",")}\r\n`)
          .join(""),
    },
    json: { type: "application/json", text: (rows) => `${JSON.stringify(rows, COLUMNS, 2)}\n` },
  };

  function download(name, type, text) {
    const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  /** A file name from a source: its last parts, in plain letters. */
  const fileName = (source) => source.replace(/[^A-Za-z0-9.]+/g, "-").replace(/^[-.]+|[-.]+$/g, "").slice(-80);

  // ---------------------------------------------------------------- the line of Python

  /** As `recomputing_line` in evidence_table.py writes it, which tests run; made here, for it doubles the table. */
  function pythonLine(call, row) {
    const [name, split, site] = [...row.cells].map((cell) => cell.textContent);
    const where = (site ? [name, split, site] : [name, split]).map((text) => JSON.stringify(text));
    return `${call}.number(${where.join(", ")})`;
  }

  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  // ---------------------------------------------------------------- filter and marked rows

  class EvidenceView {
    constructor(view) {
      this.view = view;
      this.filter = view.querySelector(".evidence-filter");
      this.only = view.querySelector(".only-cited");
      this.onlyCited = false;
      this.filter.addEventListener("input", () => this.refresh());
      this.only.addEventListener("click", () => {
        this.onlyCited = !this.onlyCited;
        this.refresh();
      });
    }

    refresh() {
      const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = rowsOf(this.view);
      const cited = rows.filter((row) => row.classList.contains("cited"));
      if (cited.length === 0) this.onlyCited = false;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word)) || (this.onlyCited && !cited.includes(row));
      }
      const n = rows.filter((row) => !row.hidden).length;
      this.only.hidden = cited.length === 0;
      this.only.textContent = this.onlyCited
        ? "Show all rows"
        : `Show only the ${cited.length} marked ${cited.length === 1 ? "row" : "rows"}`;
      this.view.querySelector(".evidence-count").textContent =
        n === rows.length ? `${n} rows` : `${n} of ${rows.length} rows`;
    }

    mark(rows) {
      for (const row of rowsOf(this.view)) row.classList.toggle("cited", rows.includes(row));
      this.filter.value = "";
      this.onlyCited = false;
      this.refresh();
    }
  }

  const evidenceViews = new Map();
  let citing = null;

  /** Mark the rows that a sentence rests on, or the one row that the address names. */
  CircuitLab.markRow = (target) => {
    const evidence = target.matches(".evidence tbody tr") && evidenceViews.get(target.closest(".view"));
    if (!evidence) return;
    const view = target.closest(".view");
    const ids = citing && citing[0] === target.id ? citing : [target.id];
    citing = null;
    evidence.mark(rowsOf(view).filter((row) => ids.includes(row.id)));
  };

  function copyButton() {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the line of Python");
    return button;
  }

  CircuitLab.mountEvidence = (view) => {
    const table = view.querySelector(".evidence");
    for (const row of rowsOf(view)) {
      row.tabIndex = -1;
      const code = document.createElement("code");
      code.textContent = pythonLine(table.dataset.python, row);
      row.lastElementChild.append(copyButton(), " ", code);
    }
    evidenceViews.set(view, new EvidenceView(view));
    view.addEventListener("click", (event) => {
      const sentence = event.target.closest("a.cites");
      if (!sentence) return;
      event.preventDefault();
      citing = sentence.dataset.rows.split(" ").map((row) => `${view.id}-e${row}`);
      CircuitLab.goTo(citing[0]);
    });
    table.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.matches(".copy")) copy(button);
      if (button?.matches(".download")) {
        const format = button.dataset.format;
        const { type, text } = FORMATS[format];
        download(`evidence-${fileName(table.dataset.file)}.${format}`, type, text(CircuitLab.readEvidence(view)));
      }
    });
  };
})();
