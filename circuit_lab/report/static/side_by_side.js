/* Checkpoints side by side: the differences to the reference that is chosen. All of them lie in the page's data. */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});
  const LETTERS = { paired: "p", independent: "i", "half-widths added": "w", none: "" };

  /** Three decimals, as in the tables made in Python. */
  const size = (value) => (Math.abs(value) < 100 ? Math.abs(value).toFixed(3) : Math.abs(value).toFixed(0));
  const signed = (value) => (value < 0 ? "−" : value > 0 ? "+" : "") + size(value);

  /** One difference: [difference, low, high, method]. */
  function words([difference, low, high, method]) {
    if (low === null) return signed(difference);
    const apart = low > 0 || high < 0 ? " *" : "";
    return `${signed(difference)} [${signed(low)}, ${signed(high)}] ${LETTERS[method]}${apart}`;
  }

  CircuitLab.mountSideBySide = (view, data) => {
    const select = view.querySelector(".reference");
    const rows = [...view.querySelectorAll("tr[data-number]")];

    function refresh() {
      const reference = Number(select.value);
      for (const row of rows) {
        row.querySelectorAll("td").forEach((cell, column) => {
          const found = data.differences[reference][column]?.[Number(row.dataset.number)];
          const difference = cell.querySelector(".difference");
          difference.textContent = found ? words(found) : "";
          cell.classList.toggle("apart", Boolean(found) && found[1] !== null && (found[1] > 0 || found[2] < 0));
          cell.classList.toggle("reference-column", column === reference);
        });
      }
      const n = data.looked_at[reference];
      view.querySelector(".together-count").textContent =
        `${data.excluding_zero[reference]} of ${n} differences exclude 0 (marked *); ` +
        `of equal nets about ${(n * data.false_alarms).toFixed(1)} would by chance.`;
    }

    select.addEventListener("change", refresh);
    refresh();
  };
})();
