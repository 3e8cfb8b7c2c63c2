/* The shell of a report: one view at a time, chosen by the address (#c3-evidence), figures drawn when they come into
 * sight, light and dark, and printing.
 *
 * Text from elsewhere (names of tokens and files) enters the page as text only.
 */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});
  const root = document.documentElement;
  const THEMES = ["auto", "light", "dark"];
  const KEPT = "circuit-lab-theme";
  const NARROW = 600;
  const PAPER = 680; // pixels of a printed page's width
  root.classList.add("js");

  // ---------------------------------------------------------------- light and dark

  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = "auto";
  let printing = false;
  try {
    const kept = localStorage.getItem(KEPT);
    if (THEMES.includes(kept)) chosen = kept;
  } catch {
    // A browser that keeps nothing for files: the theme is the system's.
  }

  CircuitLab.theme = () => {
    if (printing) return "light";
    return chosen === "auto" ? (prefersDark.matches ? "dark" : "light") : chosen;
  };

  function applyTheme() {
    const before = root.dataset.theme;
    root.dataset.theme = CircuitLab.theme();
    const button = document.querySelector(".theme-button");
    if (button) button.textContent = `Theme: ${chosen}`;
    if (before === root.dataset.theme) return;
    for (const element of drawn) redraw(element);
    document.dispatchEvent(new CustomEvent("circuitlab:theme", { detail: root.dataset.theme }));
  }

  function nextTheme() {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    try {
      localStorage.setItem(KEPT, chosen);
    } catch {
      // as above
    }
    applyTheme();
  }

  // ---------------------------------------------------------------- figures

  const drawn = new Set();
  const figureOf = new WeakMap();
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  /** What a figure leaves open, in the page's colours. */
  function template() {
    const line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true, title: { standoff: 10 } };
    const panel = { bgcolor: colour("--panel"), bordercolor: line, font: { color: colour("--fg") } };
    return {
      layout: {
        font: { color: colour("--fg"), family: "system-ui, sans-serif", size: 13 },
        paper_bgcolor: colour("--bg"),
        plot_bgcolor: colour("--bg"),
        xaxis: axis,
        yaxis: axis,
        legend: { bgcolor: "rgba(0,0,0,0)" },
        hoverlabel: { ...panel, align: "left" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: colour("--accent") },
        annotationdefaults: { font: { color: colour("--fg") }, arrowcolor: colour("--muted") },
        shapedefaults: { line: { color: colour("--muted") } },
        updatemenudefaults: { ...panel },
        sliderdefaults: { font: { color: colour("--fg") }, bordercolor: line, bgcolor: line },
      },
    };
  }

  const ARRAYS = { 8: Uint8Array, 16: Uint16Array };

  /** Packed arrays of numbers become plain ones; see figure_json.py. */
  function unpacked(value) {
    if (Array.isArray(value)) return value.map(unpacked);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.packed !== "string") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, unpacked(inner)]));
    }
    const bytes = Uint8Array.from(atob(value.packed), (character) => character.charCodeAt(0));
    const whole = new ARRAYS[value.bits](bytes.buffer);
    const missing = 2 ** value.bits - 1;
    const numbers = Array.from(whole, (k) => (k === missing ? null : value.low + k * value.step));
    return shaped(numbers, value.shape);
  }

  function shaped(numbers, shape) {
    if (shape.length === 1) return numbers;
    const size = numbers.length / shape[0];
    return Array.from({ length: shape[0] }, (_, i) => shaped(numbers.slice(i * size, (i + 1) * size), shape.slice(1)));
  }

  /** The layout for this page: its theme, and a phone's width. */
  function fitted(layout, width) {
    const fit = { ...layout, template: template(), autosize: true };
    delete fit.width;
    if (printing) Object.assign(fit, { autosize: false, width: PAPER });
    for (const own of ["paper_bgcolor", "plot_bgcolor"]) if (fit[own] === "white") delete fit[own];
    fit.margin = { t: 36, r: 24, b: 48, l: 48, ...fit.margin };
    if (width < NARROW) {
      fit.margin = { ...fit.margin, l: Math.min(fit.margin?.l ?? 40, 40), r: 8 };
      fit.font = { ...fit.font, size: 11 };
      const below = { orientation: "h", x: 0, y: -0.22, yanchor: "top" };
      if (fit.showlegend !== false) fit.legend = fit.legend?.y < 0 ? { ...below, y: fit.legend.y } : { ...fit.legend, ...below };
    }
    return fit;
  }

  function traces(data, width) {
    if (width >= NARROW) return data;
    return data.map((trace) => {
      if (!trace.colorbar || trace.showscale === false) return trace;
      const title = trace.colorbar.title;
      const text = typeof title === "object" && title ? title.text : title;
      return { ...trace, colorbar: { ...trace.colorbar, thickness: 8, title: { text, side: "right" } } };
    });
  }

  function plotted(element, how) {
    const { data, layout } = figureOf.get(element);
    const width = printing ? PAPER : element.clientWidth || root.clientWidth;
    return how(element, traces(data, width), fitted(layout, width), { responsive: true, displaylogo: false });
  }

  /** Draw a figure of plotly's JSON into an element, in the page's theme; again to replace it. */
  CircuitLab.draw = (element, json) => {
    figureOf.set(element, { data: unpacked(json.data), layout: unpacked(json.layout || {}) });
    const first = !drawn.has(element);
    drawn.add(element);
    return plotted(element, first ? Plotly.newPlot : Plotly.react);
  };

  const stale = new Set();

  /** Draw anew in the theme of now; what is not to be seen, when it is shown again: it has no width until then. */
  function redraw(element) {
    stale.delete(element);
    if (!element.isConnected) drawn.delete(element);
    else if (element.offsetParent === null) stale.add(element);
    else plotted(element, Plotly.react);
  }

  function drawFigure(element) {
    if (drawn.has(element)) return;
    const { figures } = data.get(element.closest(".view"));
    element.setAttribute("aria-label", `Figure: ${element.previousElementSibling.textContent}`);
    CircuitLab.draw(element, figures[element.dataset.figure]);
    element.style.minHeight = "";
  }

  const inSight = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.isIntersecting) drawFigure(entry.target);
    },
    { rootMargin: "400px" },
  );

  // ---------------------------------------------------------------- views

  const data = new Map();
  const mounted = new Set();

  /** The data of a view. */
  async function read(view) {
    const block = document.getElementById(view.dataset.data);
    const found = block ? JSON.parse(block.textContent) : {};
    return "deflated" in found ? inflated(found.deflated) : found;
  }

  async function inflated(text) {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  /** Set a view up when it is first shown. */
  async function mount(view) {
    if (mounted.has(view)) return;
    mounted.add(view);
    if (view.classList.contains("checkpoint")) CircuitLab.mountEvidence(view);
    const ofView = await read(view);
    data.set(view, ofView);
    for (const figure of view.querySelectorAll(".figure[data-figure]")) inSight.observe(figure);
    if (view.classList.contains("together")) CircuitLab.mountSideBySide(view, ofView);
    if (!view.classList.contains("checkpoint")) return;
    Object.defineProperty(ofView, "evidence", { get: () => CircuitLab.readEvidence(view), enumerable: true });
    if (ofView.circuit) CircuitLab.mountCircuit(view, ofView.circuit, ofView);
    if (ofView.explorer) CircuitLab.mountExplorer(view, ofView.explorer, ofView);
  }

  /** Show what an address names: its view, and within it the place. */
  function show(id, { focus = true } = {}) {
    const views = document.querySelectorAll(".view");
    const target = (id && document.getElementById(id)) || views[0];
    const view = target.closest(".view");
    if (!view) return; // "#main" and the like: nothing to change
    for (const one of views) one.classList.toggle("current", one === view);
    mount(view);
    for (const element of [...stale]) if (view.contains(element)) redraw(element);
    markPlace(view, target);
    closeMenu();
    CircuitLab.markRow?.(target);
    if (target === view) window.scrollTo(0, 0);
    else target.scrollIntoView({ block: target.matches("tr") ? "center" : "start" });
    if (focus) target.focus({ preventScroll: true });
  }

  function markPlace(view, target) {
    const part = target.closest(".part");
    for (const link of document.querySelectorAll("#contents a")) {
      const id = link.hash.slice(1);
      if (id === view.id) link.setAttribute("aria-current", "page");
      else if (part && id === part.id) link.setAttribute("aria-current", "location");
      else link.removeAttribute("aria-current");
      if (id === view.id) link.closest("li").classList.add("open");
      else if (!link.closest(".parts")) link.closest("li").classList.remove("open");
    }
  }

  const address = () => decodeURIComponent(location.hash.slice(1));

  /** Go to an anchor even if the address names it already. */
  CircuitLab.goTo = (id) => {
    if (address() === id) show(id);
    else location.hash = id;
  };

  function closeMenu() {
    document.body.classList.remove("menu-open");
    document.querySelector(".menu-button").setAttribute("aria-expanded", "false");
  }

  // ---------------------------------------------------------------- print

  /** Draw all figures of the view, in light colours, at a page's width. */
  function beforePrint() {
    printing = true;
    applyTheme();
    const view = document.querySelector(".view.current");
    if (data.has(view)) for (const figure of view.querySelectorAll(".figure[data-figure]")) drawFigure(figure);
  }

  function afterPrint() {
    printing = false;
    applyTheme();
  }

  // ---------------------------------------------------------------- start

  applyTheme();
  prefersDark.addEventListener("change", applyTheme);
  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", afterPrint);
  window.addEventListener("hashchange", () => show(address()));
  document.addEventListener("DOMContentLoaded", () => {
    applyTheme();
    document.querySelector(".theme-button").addEventListener("click", nextTheme);
    document.querySelector(".print-button").addEventListener("click", () => window.print());
    const button = document.querySelector(".menu-button");
    button.addEventListener("click", () => {
      const open = document.body.classList.toggle("menu-open");
      button.setAttribute("aria-expanded", String(open));
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.body.classList.contains("menu-open")) {
        closeMenu();
        button.focus();
      }
    });
    // A link to the place that the address names already.
    document.getElementById("contents").addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (link && address() === link.hash.slice(1)) show(address());
    });
    CircuitLab.mountSortableTables();
    show(address(), { focus: false });
  });
})();
