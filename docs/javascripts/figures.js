// Draws the plotly figures of a notebook page in the page's own colours. plotly's script lies beside this one and is
// loaded only where there is a figure.
(() => {
  const plotlyUrl = new URL("plotly.min.js", document.currentScript.src);
  const inPageColours = () => {
    const style = getComputedStyle(document.body);
    const ink = style.getPropertyValue("--md-default-fg-color");
    const line = style.getPropertyValue("--md-default-fg-color--lightest");
    return {ink, line};
  };
  const themed = (layout) => {
    const {ink, line} = inPageColours();
    const axes = Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key));
    const themedAxes = Object.fromEntries(axes.map((key) => [key, {...layout[key], gridcolor: line, zerolinecolor: line}]));
    const font = {...layout.font, color: ink};
    // Titles are broken for a notebook's width; the column here is narrower.
    const title = layout.title && {...layout.title, font: {...layout.title.font, size: 13}};
    return {...layout, ...themedAxes, font, title, paper_bgcolor: "transparent", plot_bgcolor: "transparent", width: undefined, autosize: true};
  };
  const drawAll = () => {
    for (const figure of document.querySelectorAll(".plotly-figure")) {
      const {data, layout} = JSON.parse(figure.querySelector("script").textContent);
      let place = figure.querySelector(".plotly-place");
      if (!place) {
        place = document.createElement("div");
        place.className = "plotly-place";
        figure.append(place);
      }
      Plotly.react(place, data, themed(layout), {responsive: true, displaylogo: false});
    }
  };
  document.addEventListener("DOMContentLoaded", () => {
    if (!document.querySelector(".plotly-figure")) return;
    const script = document.createElement("script");
    script.src = plotlyUrl;
    script.onload = () => {
      drawAll();
      new MutationObserver(drawAll).observe(document.body, {attributeFilter: ["data-md-color-scheme"]});
    };
    document.head.append(script);
  });
})();
