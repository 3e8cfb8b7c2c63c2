/* The circuit diagram of one checkpoint: choosing test and split, hover and focus, the panel of a node.
 *
 * The drawing comes from Python, and what its data holds is written in report/circuit/. Names come from data sets that
 * nobody vouches for: they enter the page as text nodes only.
 */
(() => {
  "use strict";

  const CircuitLab = (window.CircuitLab = window.CircuitLab || {});
  const SVG = "http://www.w3.org/2000/svg";

  // ---------------------------------------------------------------- words

  const isNumber = (value) => typeof value === "number";
  const number = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : "–");
  const signed = (value) => (isNumber(value) ? (value > 0 ? "+" : "") + String(value) : "–");
  const interval = (low, high, digits = 3) =>
    isNumber(low) && isNumber(high) ? `${number(low, digits)} to ${number(high, digits)}` : "–";
  const levelOf = (value) => (isNumber(value) ? `v${Math.floor(Math.min(Math.max(value, 0), 1) * 10 + 0.5)}` : "vnone");
  const words = (name) => name.replaceAll("_", " ");

  // ---------------------------------------------------------------- elements

  function element(tag, properties, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === undefined || value === false) continue;
      made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

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

  // ---------------------------------------------------------------- a diagram

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
      this.view = data.kind === "two_hop" ? new TwoHopView(data) : new ModularView(data);
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

  // ---------------------------------------------------------------- two hops

  class TwoHopView {
    constructor(data) {
      this.data = data;
      this.edgesOf = new Map();
      (data.edges?.list || []).forEach((edge, i) => {
        for (const id of edge.slice(0, 2)) this.edgesOf.set(id, [...(this.edgesOf.get(id) || []), i]);
      });
    }

    choose(test, split) {
      this.test = test;
      this.split = split;
    }

    node(id) {
      return this.data.nodes[id];
    }

    cell(id, test = this.test, split = this.split) {
      const node = this.node(id);
      if (node.accuracy) return node.accuracy[split];
      return node.effects ? node.effects[test * this.data.splits.length + split] : null;
    }

    shown(id) {
      const { kind } = this.node(id); // what is not tested never changes
      if (kind !== "answer" && !this.node(id).effects) return null;
      const cell = this.cell(id);
      return { value: cell ? cell[0] : null, control: cell ? cell[3] : null, text: cell ? number(cell[0], 2) : "–" };
    }

    title(id) {
      return this.node(id).name;
    }

    /** What hovering says: a title and lines. */
    tip(id) {
      const node = this.node(id);
      const split = this.data.splits[this.split];
      if (node.kind === "answer") return this.answerTip(node, split);
      if (node.kind !== "state") return this.componentTip(id, node);
      const test = this.data.tests[this.test];
      const cell = this.cell(id);
      const lines = [`${node.name}${node.located ? " (located: the bridge is handed on here)" : ""}`];
      if (!cell) {
        const why = node.effects ? "no query of this split could be tested here" : "no transplants at this stage";
        return [...lines, `${test.label}, ${split}: ${why}`, ...this.lensLines(node)];
      }
      const [rate, low, high, control, n, nTransplants] = cell;
      lines.push(`${test.label}, ${split}: ${number(rate)}, 95 % interval ${interval(low, high)}`);
      lines.push(`control ${number(control)} (${test.control})`);
      lines.push(`n = ${n} queries, ${nTransplants} transplants`);
      return [...lines, `Done: ${test.done}.`];
    }

    answerTip(node, split) {
      const cell = this.cell("answer");
      if (!cell) return [node.name, `${split}: not read`];
      const [value, low, high, chance, n] = cell;
      return [
        `${node.name}: accuracy`,
        `${split}: ${number(value)}, 95 % interval ${interval(low, high)}`,
        `control ${number(chance)} (the best answer that ignores the question)`,
        `n = ${n} queries`,
        "Done: each query was answered by the intact net.",
      ];
    }

    lensLines(node) {
      const at = this.data.lens.splits.indexOf(this.data.splits[this.split]);
      const cell = node.lens?.[at];
      if (!cell) return [];
      return [`lens: bridge on top ${number(cell[0])}, answer on top ${number(cell[1])}, n = ${this.data.lens.n[at]}`];
    }

    componentTip(id, node) {
      const touching = this.edgesOf.get(id) || [];
      if (touching.length === 0) return [node.name, "no edge of this node is among the strongest"];
      const strongest = this.data.edges.list[touching[0]];
      return [
        node.name,
        `${touching.length} of the strongest edges; the strongest of them: ${strongest[2]}`,
        ...this.edgeNumbers(strongest),
      ];
    }

    edgeNumbers([, , , effect, low, high]) {
      const { unit, n, receiving, lending } = this.data.edges;
      return [
        `effect ${signed(effect)} ${unit}, 95 % interval ${signed(low)} to ${signed(high)}`,
        `control 0 (nothing patched: ${receiving} ${unit}; the whole run: ${lending})`,
        `n = ${n} pairs of queries`,
      ];
    }

    edgeTip(i) {
      const edge = this.data.edges.list[i];
      const [from, into] = this.data.edges.direction === "noising" ? ["corrupt", "clean"] : ["clean", "corrupt"];
      const changed = `the corrupt one has another ${this.data.edges.corruption}`;
      const done = `Done: what the writer writes here in the ${from} run put into this reader's input alone in the ${into} run (${changed}).`;
      return [edge[2], ...this.edgeNumbers(edge), done];
    }

    edgeEnds(i) {
      return this.data.edges.list[i].slice(0, 2);
    }

    edgeCount(n) {
      const { list, measured, unit } = this.data.edges;
      const weakest = n > 0 ? `, |effect| ≥ ${Math.abs(list[n - 1][3])} ${unit}` : "";
      return `the ${n} strongest of ${measured}${weakest}`;
    }

    lookTip(i) {
      const look = this.data.looks[i];
      const heads = look.heads.map(([name, weight, low, high]) => `head ${name}: ${number(weight)}, 95 % interval ${interval(low, high)}`);
      return [
        `attention of layer ${look.layer}: ${look.dest} looks at ${look.src}`,
        ...heads,
        `control ${number(look.uniform)} (uniform attention)`,
        `n = ${this.data.attention.n} queries`,
        "Done: mean attention weight read off; a reading, not causal evidence.",
      ];
    }

    // -------------------------------------------------------------- the panel

    panel(id) {
      const node = this.node(id);
      const parts = [];
      if (node.kind === "answer") parts.push(...this.accuracyBlock(node));
      if (node.effects) parts.push(...this.effectsBlock(id));
      else if (node.kind === "state") parts.push(quiet("No transplants here: only stages between the embedding and the last are tested."));
      if (node.patching) parts.push(...this.patchingBlock(node));
      if (node.lens) parts.push(...this.lensBlock(node));
      parts.push(...attentionBlock(this.data.attention, node), ...this.edgesBlock(id));
      return parts;
    }

    accuracyBlock(node) {
      const rows = this.data.splits.map((split, i) => {
        const cell = node.accuracy[i];
        const cells = cell ? [split, number(cell[0]), interval(cell[1], cell[2], 2), number(cell[3]), String(cell[4])] : [split, "–", "–", "–", "–"];
        return { cells, current: i === this.split };
      });
      return block("Accuracy", table("Accuracy by split", ["split", "share", "95 % interval", "chance", "n"], rows));
    }

    effectsBlock(id) {
      const rows = [];
      this.data.tests.forEach((test, t) => {
        rows.push({ group: test.label });
        this.data.splits.forEach((split, s) => {
          const cell = this.cell(id, t, s);
          const cells = cell ? [split, number(cell[0]), interval(cell[1], cell[2], 2), number(cell[3]), String(cell[4])] : [split, "–", "–", "–", "0"];
          rows.push({ cells, current: t === this.test && s === this.split });
        });
      });
      const notes = this.data.tests.map((test) => quiet(`${test.label}: ${test.done}. Control: ${test.control}.`));
      return block("Transplants of this state", table("Transplants", ["split", "rate", "95 % interval", "control", "n"], rows), ...notes);
    }

    patchingBlock(node) {
      const rows = this.data.patching.flatMap((of, i) => {
        const cell = node.patching[i];
        if (!cell) return [];
        const [mean, low, high, recovered, from, to] = cell;
        const name = `another ${words(of.corruption)}`;
        return [{ cells: [name, number(mean, 2), interval(low, high, 2), number(recovered, 2), interval(from, to, 2), String(of.n)] }];
      });
      const runs = this.data.patching.map((of) => `another ${words(of.corruption)}: ${number(of.receiver, 2)} with nothing patched, ${number(of.source, 2)} in the lending run (${of.direction})`);
      return block(
        "Activation patching of this state",
        table("Activation patching", ["corrupt query has", "logit difference", "95 % interval", "recovered", "95 % interval", "n"], rows),
        quiet(`Logits. Controls: ${runs.join("; ")}.`),
      );
    }

    lensBlock(node) {
      const { splits, n, chance } = this.data.lens;
      const rows = splits.flatMap((split, i) => {
        const cell = node.lens[i];
        return cell ? [{ cells: [split, number(cell[0]), number(cell[1]), String(n[i])], current: split === this.data.splits[this.split] }] : [];
      });
      return block(
        "What the logit lens reads here",
        table("Logit lens", ["split", "bridge on top", "answer on top", "n"], rows),
        quiet(`Shares of queries; chance ${number(chance)}. The lens corroborates and never decides.`),
      );
    }

    edgesBlock(id) {
      const touching = this.edgesOf.get(id) || [];
      if (touching.length === 0) return [];
      const { list, unit, n, measured } = this.data.edges;
      const rows = touching.map((i) => {
        const [from, , name, effect, low, high] = list[i];
        return { cells: [name, from === id ? "out" : "in", signed(effect), `${signed(low)} to ${signed(high)}`] };
      });
      return block(
        "Path patching of its edges",
        table("Edges", ["edge", "", "effect", "95 % interval"], rows),
        quiet(`In ${unit}, n = ${n} pairs; of the ${list.length} strongest edges of ${measured}. Control: nothing patched, 0.`),
      );
    }
  }
  // ---------------------------------------------------------------- modular arithmetic

  const SHOWN_FREQUENCIES = 10;

  class ModularView {
    constructor(data) {
      this.data = data;
    }

    choose(test, split) {
      this.split = split;
    }

    /** The ablation of a node's site on the split chosen. */
    cell(id, split = this.split) {
      const site = this.data.nodes[id]?.site;
      return site ? this.data.ablations[site][split] : null;
    }

    shown(id) {
      if (!this.data.nodes[id]?.site) return null;
      const cell = this.cell(id);
      return { lines: cell ? [`without ${number(cell[0], 2)}`, `only ${number(cell[5], 2)}`] : ["without –", "only –"] };
    }

    title(id) {
      const node = this.data.nodes[id];
      return node ? node.name : `Spectrum of ${this.spectrum(id).name}`;
    }

    spectrum(id) {
      return this.data.spectra[Number(id.slice(1))];
    }

    /** Shares of the key frequencies in words, strongest first. */
    keyWords(spectrum) {
      const key = [...spectrum.key].sort((i, j) => spectrum.shares[j] - spectrum.shares[i]);
      return key.map((i) => `${spectrum.frequencies[i]}: ${spectrum.shares[i]}`).join(", ");
    }

    spectrumLines(spectrum) {
      const fromWeights = spectrum.name.endsWith("embedding");
      return [
        `key frequencies hold ${number(spectrum.key_share)} of the spectrum (${this.keyWords(spectrum)})`,
        `control ${number(spectrum.flat)} (equal energy in every frequency)`,
        fromWeights ? "no interval: read off the weights" : `n = ${this.data.n_pairs} pairs, all there are: no interval`,
        `this function holds ${number(spectrum.of)} of what varies in the component`,
      ];
    }

    ablationLines(id) {
      const cell = this.cell(id);
      const split = this.data.splits[this.split];
      if (!cell) return [`${split}: not ablated`];
      const [without, low, high, control, n, only, onlyLow, onlyHigh, , site] = cell;
      return [
        `${split}, right without the key frequencies: ${number(without)}, 95 % interval ${interval(low, high)}`,
        `control ${number(control)} (without random subspaces of the same rank)`,
        `right with key frequencies only: ${number(only)}, 95 % interval ${interval(onlyLow, onlyHigh)}`,
        `n = ${n} pairs`,
        `Done: the key frequencies removed at the ${site}; and everything else removed.`,
      ];
    }

    tip(id) {
      const node = this.data.nodes[id];
      if (!node) return [this.title(id), ...this.spectrumLines(this.spectrum(id))];
      if (!node.spectra) return [node.name, "the same in every pair: no spectrum"];
      const spectrum = this.data.spectra[node.main];
      const ablation = node.site ? this.ablationLines(id) : [];
      return [node.name, ...ablation, `Spectrum (${spectrum.name}): ${this.spectrumLines(spectrum)[0]}`, ...this.spectrumLines(spectrum).slice(1)];
    }

    lookTip(i) {
      const { layer, src, dest, mean } = this.data.looks[i];
      const { positions, heads, uniform, n } = this.data.attention;
      const [from, to] = [positions.indexOf(dest), positions.indexOf(src)];
      const names = Object.keys(heads).filter((name) => name.split(".")[0] === String(layer));
      return [
        `attention of layer ${layer}: ${dest} looks at ${src}`,
        `mean over heads ${number(mean)}`,
        ...names.map((name) => `head ${name}: ${number(heads[name][from][to][0])}, 95 % interval ${interval(heads[name][from][to][1], heads[name][from][to][2])}`),
        `control ${number(uniform[from][to])} (uniform attention)`,
        `n = ${n} pairs, those of the query explorer`,
        "Done: attention weight read off; a reading, not causal evidence.",
      ];
    }

    panel(id) {
      const node = this.data.nodes[id];
      if (!node) return this.spectrumBlock(this.spectrum(id));
      return [
        ...(node.site ? this.ablationBlock(id) : []),
        ...(node.lens ? this.lensBlock(node) : []),
        ...attentionBlock(this.data.attention, node),
        ...(node.spectra || []).flatMap((i) => this.spectrumBlock(this.data.spectra[i])),
      ];
    }

    ablationBlock(id) {
      const rows = [
        ["right without the key frequencies", 0, true],
        ["right with key frequencies only", 5, false],
      ].flatMap(([name, first, controlled]) => [
        { group: name },
        ...this.data.splits.map((split, s) => {
          const cell = this.cell(id, s);
          const cells = cell ? [split, number(cell[first]), interval(cell[first + 1], cell[first + 2], 2), controlled ? number(cell[3]) : "–", String(cell[4])] : [split, "–", "–", "–", "0"];
          return { cells, current: s === this.split };
        }),
      ]);
      const site = this.data.ablations[this.data.nodes[id].site].find((cell) => cell)?.[9];
      return block(
        "Ablation of the key frequencies here",
        table("Ablation", ["split", "share", "95 % interval", "control", "n"], rows),
        quiet(`At the ${site}. Control: without random subspaces of the same rank.`),
      );
    }

    lensBlock(node) {
      const [stage, mean, low, high] = node.lens;
      const rows = [{ cells: [stage, number(mean), interval(low, high, 2), String(this.data.lens.n)] }];
      return block(
        "What the logit lens reads here",
        table("Logit lens", ["stage", "answer on top", "95 % interval", "n"], rows),
        quiet(`Of the pairs of the query explorer, which are picked by outcome; chance ${number(this.data.lens.chance)}. It never decides.`),
      );
    }

    spectrumBlock(spectrum) {
      const order = spectrum.shares.map((_, i) => i).sort((i, j) => spectrum.shares[j] - spectrum.shares[i]);
      const isKey = new Set(spectrum.key);
      const shown = order.filter((i, place) => place < SHOWN_FREQUENCIES || isKey.has(i));
      const rows = shown.map((i) => ({
        cells: [spectrum.frequencies[i], isKey.has(i) ? "key" : "", number(spectrum.shares[i])],
        current: isKey.has(i),
      }));
      const rest = order.length - shown.length;
      return block(
        `Spectrum: ${spectrum.name}`,
        table("Spectrum", ["frequency", "", "share of energy"], rows),
        quiet(`${rest > 0 ? `${rest} weaker frequencies are left out. ` : ""}${this.spectrumLines(spectrum).slice(1).join("; ")}.`),
      );
    }
  }

  CircuitLab.mountCircuit = (section, data) => {
    const root = section.querySelector(".circuit");
    if (root && data && root.querySelector(".circuit-svg")) new Diagram(root, data);
  };
})();
