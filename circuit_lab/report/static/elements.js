/* Elements of the page, and names as words: what the explorer and the circuit diagram both make. */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});

  /** An element with properties and children; strings become text nodes, and what is null or undefined is left out. */
  function element(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  const words = (name) => name.replaceAll("_", " ");

  CircuitLab.elements = { element, words };
})();
