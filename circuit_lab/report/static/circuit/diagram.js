/* The circuit diagram of one checkpoint: choosing test and split, hover and focus, the panel of a node.
 *
 * The drawing comes from Python, and what its data holds is written in report/circuit/. Names come from data sets that
 * nobody vouches for: they enter the page as text nodes only.
 */
(() => {
  "use strict";

  const { CircuitLab } = window;
  const { circuitParts, elements } = CircuitLab;
  const { element } = elements;
  const { isNumber, levelOf } = circuitParts;
  const SVG = "http://www.w3.org/2000/svg";

  class Diagram {
    constructor(root, data) {
      this.root = root;
      this.data = data;
      this.svg = root.querySelector(".circuit-svg");
      this.controls = root.querySelector(".circuit-controls");
      this.panel = root.querySelector(".circuit-panel");
      this.columns = root.querySelector(".circuit-columns");
      this.nodes = new Map([...this.svg.querySelectorAll(".node")].map((node) => [node.dataset.id, node]));
      this.edges = [...this.svg.querySelectorAll(".edge")];
      this.looks = [...this.svg.querySelectorAll(".look")];
      this.hits = [];
      this.opened = null;
      this.tip = element("div", { class: "circuit-tip", role: "tooltip", hidden: true });
      this.root.append(this.tip);
      this.view = data.kind === "two_hop" ? new circuitParts.TwoHopView(data) : new circuitParts.ModularView(data);
      this.svg.querySelector("title")?.remove(); // a browser would show it wherever the pointer rests
      this.prepare();
      this.update();
    }

    prepare() {
      for (const [id, node] of this.nodes) {
        this.makeButton(node, () => this.view.tip(id), () => this.open(id));
      }
      this.edges.forEach((edge, i) => this.hits.push(this.hitArea(edge, () => this.view.edgeTip(i), () => this.view.edgeEnds(i))));
      this.looks.forEach((look, i) => this.hitArea(look, () => this.view.lookTip(i), () => []));
      this.controls.hidden = false;
      this.controls.addEventListener("submit", (event) => event.preventDefault());
      this.controls.addEventListener("input", () => this.update());
      this.root.addEventListener("keydown", (event) => {
        if (event.key === "Escape") this.escape(event);
      });
      this.root.querySelector(".circuit-drawing").addEventListener("scroll", () => this.followTip(), { passive: true });
      window.addEventListener("scroll", () => this.followTip(), { passive: true });
    }

    /** Hover, focus, click and keys of a node or edge. */
    makeButton(target, tip, act) {
      target.setAttribute("tabindex", "0");
      target.setAttribute("role", "button");
      target.tip = tip;
      target.addEventListener("pointerenter", () => this.showTip(target));
      target.addEventListener("pointerleave", () => this.hideTip());
      target.addEventListener("focus", () => this.showTip(target));
      target.addEventListener("blur", () => this.hideTip());
      target.addEventListener("click", () => act());
      target.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        act();
      });
    }

    /** A wide, invisible twin of a thin line, which takes its hover and focus. */
    hitArea(line, tip, ends) {
      const hit = document.createElementNS(SVG, "path");
      hit.setAttribute("class", "hit");
      hit.setAttribute("d", line.getAttribute("d"));
      line.after(hit);
      this.makeButton(hit, tip, () => this.showTip(hit));
      hit.line = line;
      hit.ends = ends;
      return hit;
    }

    choice(name) {
      const chosen = this.controls.querySelector(`input[name="${name}"]:checked`);
      return chosen ? Number(chosen.value) : 0;
    }

    /** Colour, number and words of everything, for what is chosen. */
    update() {
      this.view.choose(this.choice("test"), this.choice("split"));
      for (const [id, node] of this.nodes) {
        const shown = this.view.shown(id);
        if (shown) this.recolour(node, shown);
        node.setAttribute("aria-label", this.view.tip(id).join(". "));
      }
      const slider = this.controls.querySelector('input[name="edges"]');
      if (slider) this.showEdges(Number(slider.value), slider);
      const looks = this.controls.querySelector('input[name="looks"]');
      this.svg.querySelector(".looks")?.classList.toggle("off", looks !== null && !looks.checked);
      for (const hit of this.svg.querySelectorAll(".hit")) hit.setAttribute("aria-label", hit.tip().join(". "));
      if (this.opened) this.fillPanel();
    }

    recolour(node, { value, control, text, lines }) {
      if (lines) {
        node.querySelectorAll(".ablated").forEach((line, i) => (line.textContent = lines[i]));
        return;
      }
      node.setAttribute("class", node.getAttribute("class").replace(/\bv(\d+|none)\b/, levelOf(value)));
      node.querySelector(".value").textContent = text;
      node.querySelector(".bar").setAttribute("d", `M-26 13h${(52 * (value || 0)).toFixed(1)}`);
      const tick = node.querySelector(".tick");
      tick.classList.toggle("off", !isNumber(control));
      tick.setAttribute("d", `M${(52 * (control || 0) - 26).toFixed(1)} 9v8`);
    }

    showEdges(n, slider) {
      this.edges.forEach((edge, i) => {
        edge.classList.toggle("off", i >= n);
        this.hits[i].classList.toggle("off", i >= n);
      });
      const said = this.view.edgeCount(n);
      slider.setAttribute("aria-valuetext", said);
      this.controls.querySelector("output").textContent = said;
    }

    showTip(target) {
      const [title, ...lines] = target.tip();
      this.tip.replaceChildren(element("strong", {}, title), document.createTextNode(lines.join("\n")));
      this.tip.hidden = false;
      this.placeTip(target);
      this.light(target);
    }

    placeTip(target) {
      const at = target.getBoundingClientRect();
      const box = this.tip.getBoundingClientRect();
      const room = { width: document.documentElement.clientWidth, height: window.innerHeight };
      const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), room.width - box.width - 8);
      const above = at.top - box.height - 8;
      const top = above >= 4 ? above : Math.min(at.bottom + 8, room.height - box.height - 4);
      this.tip.style.left = `${left}px`;
      this.tip.style.top = `${Math.max(4, top)}px`;
    }

    /** While the page scrolls, what is said of a focused element stays beside it; focus itself may scroll. */
    followTip() {
      if (this.tip.hidden) return;
      if (document.activeElement?.tip) this.placeTip(document.activeElement);
      else this.hideTip();
    }

    hideTip() {
      this.tip.hidden = true;
      this.light(null);
    }

    /** Fade the edges that do not touch what is pointed at. */
    light(target) {
      const id = target?.dataset?.id;
      const touching = this.hits.map((hit) => hit === target || (id !== undefined && hit.ends().includes(id)));
      const any = touching.some((touches, i) => touches && !this.edges[i].classList.contains("off"));
      this.edges.forEach((edge, i) => {
        edge.classList.toggle("lit", any && touching[i]);
        edge.classList.toggle("faded", any && !touching[i]);
      });
      for (const look of this.looks) look.classList.toggle("lit", target?.line === look);
    }

    open(id) {
      this.nodes.get(this.opened)?.classList.remove("open");
      this.opened = id;
      this.nodes.get(id).classList.add("open");
      this.fillPanel();
      this.panel.hidden = false;
      this.columns.classList.add("with-panel");
      this.hideTip();
      this.panel.querySelector("h4").focus({ preventScroll: true });
      this.panel.scrollIntoView({ block: "nearest" });
    }

    fillPanel() {
      const close = element("button", { type: "button", "aria-label": "Close the panel" }, "Close");
      close.addEventListener("click", () => this.close());
      const title = element("h4", { tabindex: "-1" }, this.view.title(this.opened));
      this.panel.replaceChildren(element("header", {}, title, close), ...this.view.panel(this.opened));
      this.panel.setAttribute("aria-label", this.view.title(this.opened));
    }

    escape(event) {
      if (!this.tip.hidden) this.hideTip();
      if (this.opened === null) return;
      event.stopPropagation();
      this.close();
    }

    close() {
      const node = this.nodes.get(this.opened);
      this.opened = null;
      this.panel.hidden = true;
      this.panel.replaceChildren();
      this.columns.classList.remove("with-panel");
      node.classList.remove("open");
      node.focus({ preventScroll: true });
    }
  }

  CircuitLab.mountCircuit = (section, data) => {
    const root = section.querySelector(".circuit");
    if (root && data && root.querySelector(".circuit-svg")) new Diagram(root, data);
  };
})();
