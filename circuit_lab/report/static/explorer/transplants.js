/* What single transplants of one query did. */
(() => {
  "use strict";

  const { elements, explorerParts } = window.CircuitLab;
  const { element } = elements;
  const { passedClass, passedSymbol, spaced, token } = explorerParts;

  function drawTransplants(host, queries, query) {
    if (!queries.data.transplants) return;
    const groups = queries.transplants(query).filter(({ made }) => made.length);
    const blocks = queries.data.transplants.tests.map((test) => {
      const of_test = groups.filter((group) => group.test === test);
      return element(
        "div",
        { class: "explorer-test" },
        element("h6", {}, test.name),
        element("p", { class: "explorer-note" }, test.meaning),
        ...(of_test.length ? of_test.flatMap((group) => transplantList(group)) : [element("p", {}, "No transplant could be made: no partner is fit for this query.")])
      );
    });
    host.replaceChildren(element("h5", {}, "What single transplants did"), ...blocks);
  }

  function transplantList({ test, site, n_passed, n, made }) {
    const items = made.map(({ partner, wanted, answered, passed }) => {
      const other = element("span", { class: "explorer-tuple" }, "(", ...spaced(partner, ", "), ")");
      const ours = "this query";
      const moved = test.lends ? ["the state of ", ours, " put into ", other] : ["the state of ", other, " put into ", ours];
      return element(
        "li",
        { class: passedClass(passed) },
        element("span", { class: "explorer-symbol" }, passedSymbol(passed), element("span", { class: "explorer-hidden" }, passed ? " passed: " : " not passed: ")),
        element("span", { class: "explorer-plain" }, ...moved, ": answered ", token(answered), ", wanted ", token(wanted))
      );
    });
    return [
      element("p", { class: "explorer-site" }, element("strong", {}, site), `: ${n_passed} of ${n} transplants passed in the diagnosis. Others like them:`),
      element("ul", { class: "explorer-transplants" }, ...items),
    ];
  }

  explorerParts.drawTransplants = drawTransplants;
})();
