/* The query in words, and the tests that it passes. */
(() => {
  "use strict";

  const { elements, explorerParts } = window.CircuitLab;
  const { element, words } = elements;
  const { MARKS, WRONG_ANSWER, passedClass, passedSymbol, token } = explorerParts;

  function drawWords(host, queries, section, query) {
    const { data } = queries;
    const right = Boolean(data.right[query]);
    const outcome = queries.outcome(query);
    const chip = (what, name, kind) =>
      element("li", { class: `explorer-chip ${kind || ""}` }, element("span", { class: "explorer-chip-what" }, what), token(name));
    const chips = queries.tokens(query).map((name, i) => chip(data.positions[i], name));
    if (data.bridge) chips.push(chip(`${MARKS.bridge.symbol} bridge`, queries.name(data.bridge[query]), "explorer-bridge"));
    chips.push(chip(`${MARKS.answer.symbol} right answer`, queries.name(data.answer[query]), "explorer-answer"));
    const answered = right ? "✓ the net answers" : `${WRONG_ANSWER} the net answers`;
    chips.push(chip(answered, queries.name(data.predicted[query]), right ? "explorer-right" : "explorer-wrong"));
    host.replaceChildren(
      element("h4", {}, `Query ${query} of `, data.splits[data.split[query]], `: ${words(outcome.name)}`),
      element("ul", { class: "explorer-chips" }, ...chips),
      ...(data.bridge ? [element("p", {}, ...inWords(queries, query))] : []),
      element("p", {}, element("strong", {}, `Outcome: ${words(outcome.name)}. `), outcome.meaning),
      element(
        "p",
        { class: "explorer-note" },
        inTraining(data, query),
        element("a", { href: `#${section.id}-query-${query}` }, "Link to this query")
      )
    );
  }

  function inTraining(data, query) {
    if (!data.in_training) return "Whether the query itself is trained on is not known. ";
    return data.in_training[query] ? "The query itself is trained on. " : "The query itself is not in training. ";
  }

  function inWords(queries, query) {
    const { data } = queries;
    const [head, first, second] = queries.tokens(query);
    const bridge = queries.name(data.bridge[query]);
    return [
      "First hop: ", token(head), ", ", token(first), " → ", token(bridge), ". Second hop: ",
      token(bridge), ", ", token(second), " → ", token(queries.name(data.answer[query])), ".",
    ];
  }

  /** Which tests the query passes; of a two-hop net with the counts behind it, by site. */
  function drawChecks(host, queries, query) {
    const { data } = queries;
    const twoHop = data.family === "two_hop";
    const groups = twoHop ? queries.transplants(query) : [];
    const rows = data.checks.map((check) => {
      const passed = Boolean(check.passed[query]);
      const [yes, no] = twoHop ? ["passed", "not passed"] : ["right", "wrong"];
      const counts = groups
        .filter(({ test, n }) => test.name === check.name && n > 0)
        .map(({ site, n_passed, n }) => element("span", { class: "explorer-count-of" }, `${n_passed} of ${n} at ${site}`));
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, check.name),
        // Without the key frequencies a wrong answer is no failure.
        element("td", { class: twoHop ? passedClass(passed) : "" }, `${passedSymbol(passed)} ${passed ? yes : no}`),
        element("td", {}, ...(twoHop ? (counts.length ? counts : ["no transplant could be made"]) : [check.meaning]))
      );
    });
    const heads = twoHop ? ["test", "of most partners", "transplants that passed"] : ["answered", "the answer is", "what is expected"];
    host.replaceChildren(
      element("h5", {}, twoHop ? "Transplant tests" : "Answered with and without the key frequencies"),
      element(
        "div",
        { class: "explorer-scroll" },
        element(
          "table",
          { class: "explorer-checks" },
          element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
          element("tbody", {}, ...rows)
        )
      )
    );
  }

  Object.assign(explorerParts, { drawWords, drawChecks });
})();
