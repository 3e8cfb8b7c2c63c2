/* What a diagram of two hops says: of its states and components, of its edges, and in the panel of a node. */
(() => {
  "use strict";

  const { circuitParts, elements } = window.CircuitLab;
  const { words } = elements;
  const { attentionBlock, block, interval, number, quiet, signed, table } = circuitParts;

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

  circuitParts.TwoHopView = TwoHopView;
})();
