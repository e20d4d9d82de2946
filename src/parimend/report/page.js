"use strict";
// One section for each sheet: filters, a figure, a table. All text is set as text, never as markup.
(async () => {
  // Okabe and Ito's colours without yellow, which is faint on white, and the colour of text for black.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", null];
  const MARKS = ["circle", "square", "triangle-up", "diamond", "cross", "x", "star", "triangle-down",
    "pentagon", "hexagon"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const HOLLOW = { measured: "-open", bounded: "-open-dot", proven: "" };
  const MOST_ROWS = 500; // in a table: more are chosen from, not read
  const MOST_MARKS = 5_000; // in a figure, about: over many more a browser stands still
  const GOLDEN = (Math.sqrt(5) - 1) / 2;
  const MOST_BOXES = 14; // to tick: with more values there is a field to search in
  const APART = 0.6; // of a place, that the marks of several series take side by side
  const dark = matchMedia("(prefers-color-scheme: dark)");

  async function unpacked(id) {
    const text = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function element(tag, parent, text = "", properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  }

  // Plotly takes some tags in texts for markup, and %{...} for what it has to put in.
  const plain = (text) =>
    String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("%", "&#37;");

  class Section {
    constructor(sheet, parent) {
      this.sheet = sheet;
      this.columns = new Map(sheet.columns.map((column) => [column.name, column]));
      this.rows = sheet.columns.length ? sheet.columns[0].texts.map((_, i) => i) : [];
      this.by = (sheet.chart?.by ?? []).map((name) => this.columns.get(name));
      this.series = this.allSeries();
      const section = element("section", parent);
      element("h2", section, sheet.name);
      if (sheet.about) element("p", section, sheet.about);
      this.controls = element("div", section, "", { className: "controls" });
      this.tests = sheet.columns.map((column) => this.filter(column)).filter(Boolean);
      if (sheet.chart) {
        this.along = this.choice("along", sheet.chart.along);
        this.value = this.choice("show", sheet.chart.values);
        this.figure = element("div", section, "", { className: "figure", role: "group" });
        this.figure.setAttribute("aria-label", `${sheet.name}, figure of rows of the table`);
      }
      this.count = element("p", section, "", { className: "note" });
      this.count.setAttribute("aria-live", "polite");
      // What moves sideways is reached by keys, too, and has a name for those who hear it.
      const scroll = element("div", section, "", { className: "scroll", tabIndex: 0, role: "region" });
      scroll.setAttribute("aria-label", `${sheet.name}, table`);
      const table = element("table", scroll);
      this.head(table);
      this.body = element("tbody", table);
      const notes = sheet.columns.filter((column) => column.note);
      if (notes.length) {
        const text = notes.map((column) => `${column.name}: ${column.note}`).join(" ");
        element("p", section, text, { className: "note" });
      }
    }

    // A test of a row, and what it is set with; nothing where there is nothing to choose.
    filter(column) {
      const values = [...new Set(column.texts)];
      if (!column.choice || values.length < 2) return null;
      const box = element("fieldset", this.controls);
      element("legend", box, column.title);
      if (values.length > MOST_BOXES) {
        const field = element("input", box, "", { type: "search", placeholder: `${values.length}` });
        field.setAttribute("aria-label", column.title);
        field.addEventListener("input", () => this.update());
        return (i) => column.texts[i].toLowerCase().includes(field.value.toLowerCase());
      }
      const chosen = new Set(column.chosen.length ? column.chosen : values);
      for (const value of values) {
        const label = element("label", box);
        const tick = element("input", label, "", { type: "checkbox", checked: chosen.has(value) });
        tick.addEventListener("change", () => {
          tick.checked ? chosen.add(value) : chosen.delete(value);
          this.update();
        });
        label.append(" ", value);
      }
      return (i) => chosen.has(column.texts[i]);
    }

    choice(title, names) {
      const box = element("select", element("label", this.controls, `${title} `));
      for (const name of names) element("option", box, this.columns.get(name).title, { value: name });
      box.addEventListener("change", () => this.update());
      box.parentElement.hidden = names.length < 2;
      return () => this.columns.get(box.value);
    }

    head(table) {
      const row = element("tr", element("thead", table));
      for (const column of this.sheet.columns) {
        const cell = element("th", row, "", { scope: "col", title: column.note });
        cell.classList.toggle("number", column.numeric);
        if (column.known !== "given") {
          element("span", cell, column.known, { className: `known ${column.known}` });
        }
        cell.append(column.title);
      }
    }

    update() {
      const rows = this.rows.filter((i) => this.tests.every((test) => test(i)));
      this.body.replaceChildren();
      for (const i of rows.slice(0, MOST_ROWS)) {
        const line = element("tr", this.body);
        for (const column of this.sheet.columns) {
          element("td", line, column.texts[i], { className: column.numeric ? "number" : "" });
        }
      }
      const shown = Math.min(rows.length, MOST_ROWS).toLocaleString("en");
      const chosen = rows.length === this.rows.length ? "" : ` of ${rows.length.toLocaleString("en")} chosen`;
      this.shown = this.thinned(rows);
      const marks = this.figure && this.shown.length < rows.length;
      const marked = marks ? `, marks of ${this.shown.length.toLocaleString("en")} in the figure` : "";
      this.count.textContent = `${shown}${chosen} of ${this.rows.length.toLocaleString("en")} rows${marked}`;
      this.draw(dark.matches);
    }

    // A share of the rows of each series, without a period that theirs could meet; the first always.
    thinned(rows) {
      const share = MOST_MARKS / rows.length;
      if (share >= 1) return rows;
      const seen = new Map();
      return rows.filter((i) => {
        const key = this.label(i, this.by);
        const at = seen.get(key) ?? 0;
        seen.set(key, at + 1);
        return (at * GOLDEN) % 1 < share;
      });
    }

    label(i, by) {
      return by.map((column) => column.texts[i]).join(", ");
    }

    // A colour for what the first column says, a dash for the rest, a mark for both, all in the order
    // of the rows: they stay when rows are left out.
    allSeries() {
      const all = (columns) => [...new Set(this.rows.map((i) => this.label(i, columns)))];
      return { colours: all(this.by.slice(0, 1)), dashes: all(this.by.slice(1)), marks: all(this.by) };
    }

    style(i, ink) {
      const at = (kind, columns) => this.series[kind].indexOf(this.label(i, columns));
      return {
        colour: COLOURS[at("colours", this.by.slice(0, 1)) % COLOURS.length] ?? ink,
        dash: DASHES[at("dashes", this.by.slice(1)) % DASHES.length],
        mark: MARKS[at("marks", this.by) % MARKS.length],
      };
    }

    draw(isDark) {
      if (!this.figure || !window.Plotly) return;
      const { lying, known } = this.sheet.chart;
      const [along, value] = [this.along(), this.value()];
      const ink = isDark ? "#e8ebee" : "#1b1f24";
      // Names are told apart by what differs in them.
      const differ = this.by.filter((column) => new Set(this.shown.map((i) => column.texts[i])).size > 1);
      const groups = new Map();
      for (const i of this.shown) {
        const key = this.label(i, this.by);
        groups.has(key) ? groups.get(key).push(i) : groups.set(key, [i]);
      }
      const places = [...new Set(this.shown.map((i) => along.texts[i]))];
      const alone = along.numeric || this.sheet.chart.joined || places.length === this.shown.length;
      const traces = [...groups.values()].map((rows, at) => {
        const apart = alone ? 0 : APART * ((at + 0.5) / groups.size - 0.5);
        const place = rows.map((i) => (along.numeric ? along.numbers[i] : places.indexOf(along.texts[i]) + apart));
        return this.trace(rows, place, this.label(rows[0], differ), this.style(rows[0], ink), value);
      });
      const axes = [this.axis(along, isDark), this.axis(value, isDark)];
      if (along.log && places.length < 12) {
        const ticks = new Map(this.shown.map((i) => [along.texts[i], along.numbers[i]]));
        Object.assign(axes[0], { tickvals: [...ticks.values()], ticktext: [...ticks.keys()] });
      }
      if (!along.numeric) {
        const ends = [-0.5, places.length - 0.5];
        Object.assign(axes[0], {
          tickvals: places.map((_, i) => i), ticktext: places.map(plain), range: lying ? ends.reverse() : ends,
        });
        if (lying) axes[0].title = {};
      }
      const lines = lying ? Math.max(12, places.length * Math.min(3, 1 + groups.size / 3)) : 20;
      const layout = {
        xaxis: axes[lying ? 1 : 0], yaxis: axes[lying ? 0 : 1],
        height: 140 + 18 * lines, margin: { l: 10, r: 10, t: 40, b: 10 },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 13 },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink },
        showlegend: groups.size > 1, hovermode: "closest",
        legend: {
          orientation: "h", yref: "container", y: 0, yanchor: "bottom",
          title: { text: known ? "filled: proven, open: measured " : "", side: "left" },
        },
        shapes: value.neutral === null ? [] : [this.reference(value, lying, ink)],
      };
      Plotly.react(this.figure, traces, layout, { responsive: true, displaylogo: false });
    }

    axis(column, isDark) {
      const seen = this.shown.map((i) => column.numbers?.[i]).filter((x) => x > 0);
      // One after the other: as arguments of Math.max, of which there is a limit, many rows fail.
      const [least, most] = [Math.min, Math.max].map((end) => seen.reduce((a, b) => end(a, b), seen[0]));
      const wide = most / least > 50; // then powers of ten are enough
      const scale = column.log ? { type: "log", exponentformat: "power", ...(wide && { dtick: 1 }) } : {};
      const grid = { gridcolor: isDark ? "#3a4149" : "#d4d9de", zeroline: false };
      return { title: { text: plain(column.title) }, automargin: true, ...grid, ...scale };
    }

    reference(value, lying, ink) {
      const line = { type: "line", line: { color: ink, width: 1, dash: "dot" } };
      const across = { xref: lying ? "x" : "paper", yref: lying ? "paper" : "y" };
      const at = value.neutral;
      return lying
        ? { ...line, ...across, x0: at, x1: at, y0: 0, y1: 1 }
        : { ...line, ...across, x0: 0, x1: 1, y0: at, y1: at };
    }

    trace(rows, place, name, style, value) {
      const { chart } = this.sheet;
      const known = chart.known ? this.columns.get(chart.known) : null;
      const colour = style.colour;
      // Where nothing was seen, the mark is an arrow at the bound.
      const unseen = (i) => value.upper && value.upper[i] !== null;
      const size = rows.map((i) => (unseen(i) ? value.upper[i] : value.numbers[i]));
      const ends = (end, sign) => rows.map((i) =>
        unseen(i) || value[end][i] === null ? 0 : sign * (value[end][i] - value.numbers[i]));
      const bars = value.low ? {
        type: "data", symmetric: false, array: ends("high", 1), arrayminus: ends("low", -1),
        thickness: 1.2, width: 3, color: colour,
      } : { visible: false };
      const down = chart.lying ? "triangle-left-open" : "triangle-down-open";
      const mark = (i) => style.mark + (known ? HOLLOW[known.texts[i]] ?? "" : "");
      return {
        type: "scatter", name: plain(name), mode: chart.joined ? "lines+markers" : "markers",
        x: chart.lying ? size : place, y: chart.lying ? place : size,
        [chart.lying ? "error_x" : "error_y"]: bars,
        marker: { color: colour, size: 8, symbol: rows.map((i) => (unseen(i) ? down : mark(i))) },
        line: { color: colour, width: 1.5, dash: style.dash },
        text: rows.map((i) => plain(value.texts[i])),
        hovertemplate: `%{text}<extra>${plain(name)}</extra>`,
      };
    }
  }

  const main = document.getElementById("sheets");
  try {
    const sections = JSON.parse(await unpacked("data")).map((sheet) => new Section(sheet, main));
    for (const section of sections) section.update(); // tables first: they wait for nothing
    const script = document.createElement("script");
    script.textContent = await unpacked("plotly");
    document.head.append(script);
    const redraw = (isDark) => sections.forEach((section) => section.draw(isDark));
    redraw(dark.matches);
    dark.addEventListener("change", () => redraw(dark.matches));
    addEventListener("beforeprint", () => redraw(false));
    addEventListener("afterprint", () => redraw(dark.matches));
    performance.mark("ready");
    document.body.dataset.state = "ready";
  } catch (error) {
    element("p", main, `This page needs a browser of 2023 or newer: ${error}`);
    document.body.dataset.state = "failed";
    throw error;
  }
})();
