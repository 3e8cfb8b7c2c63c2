/* What a diagram of modular arithmetic says: of its spectra and ablations, and in the panel of a node. */
(() => {
  "use strict";

  const { circuitParts } = window.CircuitLab;
  const { attentionBlock, block, interval, number, quiet, table } = circuitParts;

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

  circuitParts.ModularView = ModularView;
})();
