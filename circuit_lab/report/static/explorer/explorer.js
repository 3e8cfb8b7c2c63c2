/* The query explorer of one checkpoint, put together. What its data holds is written in query_explorer.py.
 *
 * Names come from data sets that nobody vouches for: they enter the page as text nodes only.
 */
(() => {
  "use strict";

  const { CircuitLab } = window;
  const { elements, explorerParts } = CircuitLab;
  const { element } = elements;

  /** Parts of the details that stay in the page while queries come and go. */
  function makeDetails(article, queries, section) {
    const part = (name) => element("div", { class: `explorer-part explorer-${name}` });
    const parts = { words: part("words"), checks: part("checks"), lens: part("lens-part"), trajectory: part("trajectory"), attention: part("attention-part"), transplants: part("transplants-part") };
    const figure = element("div", { class: "figure", role: "img" });
    parts.trajectory.append(element("h5", {}, `Probability of ${queries.targets.map((t) => t.name).join(" and ")} along the sites, ${queries.targets.length > 1 ? "each " : ""}at the position where it is read most surely`), figure);
    article.replaceChildren(...Object.values(parts));
    const showAttention = queries.data.attention ? explorerParts.makeAttention(parts.attention, queries, section) : () => {};
    parts.attention.hidden = !queries.data.attention;
    let waiting = 0;

    return function show(query) {
      explorerParts.drawWords(parts.words, queries, section, query);
      // The rest takes longer: while an arrow key is held, only the last query gets it.
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        explorerParts.drawChecks(parts.checks, queries, query);
        explorerParts.drawLens(parts.lens, queries, query);
        explorerParts.drawTransplants(parts.transplants, queries, query);
        figure.setAttribute("aria-label", `Lens probability along the sites, query ${query}; the numbers are in the table above.`);
        CircuitLab.draw(figure, explorerParts.trajectoryFigure(queries, query));
        showAttention(query);
        article.dataset.query = query;
      }, 30);
    };
  }

  function queryInHash(section, n_queries) {
    const prefix = `#${section.id}-query-`;
    const number = location.hash.startsWith(prefix) ? location.hash.slice(prefix.length) : "";
    return /^\d+$/.test(number) && Number(number) < n_queries ? Number(number) : null;
  }

  CircuitLab.mountExplorer = async function mountExplorer(section, panel) {
    const explorer = section.querySelector(".explorer");
    if (!panel) return;
    const queries = new explorerParts.Queries(await explorerParts.unpacked(panel));
    explorer.querySelector(".explorer-body").hidden = false;
    const article = explorer.querySelector(".explorer-query");
    const show = makeDetails(article, queries, section);
    const fields = [...queries.data.positions, ...(queries.data.bridge ? ["bridge"] : []), "answer", "net"];
    explorer.querySelector(".explorer-hint").textContent =
      `Search by any token, “right” or “wrong”; all words must match. “${fields[fields.length - 2]}:name” searches one field (${fields.join(", ")}).`;
    const chooser = explorerParts.makeChooser(explorer, section, queries, (query, byUser) => {
      article.id = `${section.id}-query-${query}`;
      if (byUser) history.replaceState(null, "", `#${article.id}`);
      show(query);
    });
    const follow = () => {
      const linked = queryInHash(section, queries.data.n_queries);
      if (linked === null) return;
      chooser.reveal(linked);
      article.scrollIntoView();
    };
    chooser.reveal(0);
    follow();
    window.addEventListener("hashchange", follow);
  };

  /** The shell shows the view of the element that an address names: for a query, this section's only place for one. */
  function nameLinkedQuery() {
    const link = /^#(.+)-query-\d+$/.exec(location.hash);
    const article = link && document.getElementById(link[1])?.querySelector(".explorer-query");
    if (article) article.id = location.hash.slice(1);
    return Boolean(article);
  }
  // Capturing, and so before the shell looks for it for the first time; later the shell has looked already.
  window.addEventListener("DOMContentLoaded", nameLinkedQuery, { capture: true });
  window.addEventListener("hashchange", () => {
    if (nameLinkedQuery()) CircuitLab.goTo?.(location.hash.slice(1));
  });
})();
