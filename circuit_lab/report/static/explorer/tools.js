/* Names, marks and numbers as the explorer shows them, and moving by arrow keys. */
(() => {
  "use strict";

  const { CircuitLab } = window;
  const { element } = CircuitLab.elements;
  const MARKS = {
    bridge: { symbol: "◆", colour: "#E69F00", line: "diamond", dash: "dash" },
    answer: { symbol: "★", colour: "#0072B2", line: "star", dash: "solid" },
  };
  const WRONG_ANSWER = "▲";

  /** A name from the data set, kept apart from the direction of the text around it. */
  const token = (name) => element("bdi", { class: "explorer-token" }, name);
  const percentWords = (percent) => (percent === 0 ? "<1 %" : `${percent} %`);
  /** A name that fits beside a small chart. */
  const shortened = (name) => ([...name].length > 14 ? `${[...name].slice(0, 13).join("")}…` : name);
  const range = (n) => Array.from({ length: n }, (_, i) => i);
  const passedSymbol = (passed) => (passed ? "✓" : "✗");
  const passedClass = (passed) => (passed ? "explorer-passed" : "explorer-failed");

  /** Token names with spaces between. */
  function spaced(names, separator = " ") {
    return names.flatMap((name, i) => (i ? [separator, token(name)] : [token(name)]));
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

  CircuitLab.explorerParts = {
    MARKS,
    WRONG_ANSWER,
    passedClass,
    passedSymbol,
    percentWords,
    range,
    shortened,
    spaced,
    token,
    withArrowKeys,
  };
})();
