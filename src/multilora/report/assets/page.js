"use strict";
/* Draws the page's plots: which panels, by the controls; in which colours, by the theme. */
(() => {
  const SERIES = 8;
  const FILLS = 4, FIRST_FILL = -11;
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "cross"];
  const NEUTRAL_SYMBOLS = { "-1": "circle", "-2": "square-open", "-3": "x-thin-open" };
  const SIZE = 12.5; // pixels
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif';
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const mouse = window.matchMedia("(pointer: fine)").matches;
  const button = document.getElementById("theme");
  const figures = [];

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  function themed() {
    button.setAttribute("aria-pressed", String(isDark()));
    for (const figure of figures) figure.draw();
  }

  function colours() {
    const probe = document.body.appendChild(document.createElement("i")); // resolves light-dark()
    const of = (name) => {
      probe.style.color = `var(--${name})`;
      return getComputedStyle(probe).color;
    };
    const found = {
      ink: of("ink"), soft: of("soft"), grid: of("grid"), line: of("line"), card: of("card"),
      series: Array.from({ length: SERIES }, (_, n) => of(`s${n}`)),
      fills: Array.from({ length: FILLS }, (_, n) => of(`k${n}`)),
    };
    probe.remove();
    return found;
  }

  const faint = (colour, alpha) => colour.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function styled(trace, theme) {
    const { s, ...made } = trace;
    if (s === undefined) return made;
    if (s <= FIRST_FILL) return { ...made, marker: { color: theme.fills[FIRST_FILL - s] } };
    const colour = s < 0 ? theme.soft : theme.series[s % SERIES];
    const symbol = s < 0 ? NEUTRAL_SYMBOLS[s] : SYMBOLS[s % SYMBOLS.length];
    if (made.type === "bar") return { ...made, marker: { color: colour } };
    if (made.type === "box") return { ...made, line: { color: colour, width: 1.5 }, fillcolor: faint(colour, 0.25) };
    made.line = { width: 2, dash: s < 0 ? "solid" : DASHES[s % DASHES.length], ...made.line, color: colour };
    made.marker = { size: 9, symbol, color: colour, line: { width: s < 0 ? 1.5 : 0, color: colour } };
    if (made.fill) made.fillcolor = faint(colour, 0.12);
    if (made.error_x) made.error_x = { ...made.error_x, color: colour };
    return made;
  }

  function axis(given, theme) {
    return {
      automargin: true, gridcolor: theme.grid, zerolinecolor: theme.soft, linecolor: theme.line, zeroline: false,
      ...given,
      title: { standoff: 8, font: { size: SIZE }, ...given.title },
      ...(given.minor ? { minor: { ...given.minor, gridcolor: theme.grid } } : {}),
    };
  }

  function laidOut(layout, theme) {
    return {
      ...layout,
      autosize: true, showlegend: false, hovermode: "closest", dragmode: mouse ? "zoom" : false,
      margin: { l: 8, r: 12, t: 8, b: 8 },
      font: { family: FONT, size: SIZE, color: theme.ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: theme.card, bordercolor: theme.line, font: { color: theme.ink, family: FONT } },
      xaxis: axis(layout.xaxis, theme), yaxis: axis(layout.yaxis, theme),
    };
  }

  class Figure {
    constructor(element, data) {
      this.data = data;
      this.chosen = data.first.slice();
      this.panels = [...element.querySelectorAll(".panel")];
      this.none = element.querySelector(".none");
      this.said = element.querySelector(".said");
      for (const select of element.querySelectorAll("select[data-control]")) {
        const place = Number(select.dataset.control);
        select.value = String(this.chosen[place]); // browsers keep a choice when a page is loaded again
        select.addEventListener("change", () => {
          this.chosen[place] = Number(select.value);
          this.draw();
          this.say();
        });
      }
    }

    shown() {
      return this.data.views[this.chosen.join("|")] || [];
    }

    draw() {
      const theme = colours();
      const shown = this.shown();
      this.none.hidden = shown.length > 0;
      this.none.textContent = shown.length ? "" : "Nothing was measured for this choice.";
      this.panels.forEach((panel, place) => {
        panel.hidden = place >= shown.length;
        if (panel.hidden) return;
        const { alt, title, traces, layout } = shown[place];
        const [heading, plot] = panel.children;
        heading.textContent = title;
        plot.setAttribute("aria-label", alt);
        Plotly.react(plot, traces.map((trace) => styled(trace, theme)), laidOut(layout, theme), {
          displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false,
        });
      });
    }

    say() {
      this.said.textContent = this.shown().map((panel) => panel.alt).join(" ") || this.none.textContent;
    }
  }

  function failed(reason) {
    for (const plot of document.querySelectorAll(".plot")) {
      plot.textContent = `The plot cannot be drawn (${reason}); the table below has its numbers.`;
    }
  }

  async function main() {
    if (typeof DecompressionStream === "undefined") {
      failed("this browser is too old");
      return;
    }
    const [source, data] = await Promise.all([unpack("plotly"), unpack("data")]);
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    for (const [id, figure] of Object.entries(JSON.parse(data))) {
      const made = new Figure(document.getElementById(id), figure);
      figures.push(made);
      made.draw();
      await new Promise((done) => setTimeout(done)); // the page stays alive while it is drawn
    }
    root.dataset.drawn = String(figures.length);
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    themed();
  });
  dark.addEventListener("change", themed);
  button.setAttribute("aria-pressed", String(isDark()));
  main().catch((error) => {
    failed(error.message);
    throw error;
  });
})();
