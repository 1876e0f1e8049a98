// A line over the last hour, drawn by uPlot (a global of its own script), with its numbers in words and as a table.

import { arrange, el, setText } from "../kit/dom.js";
import { clock, rate } from "../kit/words.js";

const HEIGHT = 190;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function hourAndMinute(unix) {
  return clock(unix).slice(-8, -3);
}

export class Chart {
  constructor({ id, title, unit, read }) {
    Object.assign(this, { unit, read, data: [[], []], plot: null, atCursor: null });
    this.words = el("p", { class: "now" });
    this.summary = el("figcaption");
    this.place = el("div", { class: "plot", "aria-hidden": "true" });
    this.rows = el("tbody");
    const head = el(
      "thead",
      {},
      el("tr", {}, el("th", { scope: "col", text: "Minute" }), el("th", { scope: "col", text: unit })),
    );
    const table = el("table", {}, el("caption", { class: "unseen", text: title }), head, this.rows);
    this.details = el(
      "details",
      { ontoggle: () => this.#fillTable() },
      el("summary", { text: "As a table" }),
      el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": `${title}, as a table` }, table),
    );
    const heading = el("h2", { id: `${id}-title`, text: title });
    const figure = el("figure", { "aria-labelledby": heading.id }, this.place, this.summary);
    this.node = el(
      "section",
      { id, class: "panel chart", "aria-labelledby": heading.id },
      heading,
      this.words,
      figure,
      this.details,
    );
    new ResizeObserver(() => this.#fit()).observe(this.place);
    document.addEventListener("theme", () => this.plot?.redraw());
  }

  update(fleet) {
    this.data = this.read(fleet);
    this.minute = Math.floor(fleet.read_at / 60) * 60;
    if (this.plot) this.plot.setData(this.data);
    else this.#fit();
    this.#say();
    this.#fillTable();
  }

  // uPlot draws into a place with a width, which a hidden page has not.
  #fit() {
    const width = Math.floor(this.place.clientWidth);
    if (!width || !this.data[0].length) return;
    if (this.plot) {
      if (this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
    } else this.plot = new uPlot(this.#options(width), this.data, this.place);
  }

  #options(width) {
    const axis = { stroke: () => colour("--soft"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: () => colour("--line"), width: 1 };
    return {
      width,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, __, most) => [0, Math.max(4, most * 1.08)] } },
      axes: [
        { ...axis, grid: { show: false }, size: 28, values: (_, times) => times.map(hourAndMinute) },
        { ...axis, grid, size: 58, values: (_, values) => values.map(rate) },
      ],
      series: [
        {},
        {
          stroke: () => colour("--accent"),
          fill: () => colour("--accent-wash"),
          width: 2,
          points: { show: false },
        },
      ],
      hooks: { setCursor: [(plot) => this.#point(plot.cursor.idx)] },
    };
  }

  #point(place) {
    this.atCursor = place ?? null;
    this.#say();
  }

  #say() {
    const [times, values] = this.data;
    const place = this.atCursor ?? times.length - 1;
    if (!(place in times)) return;
    const when = times[place] === this.minute ? "this minute so far" : `minute ${hourAndMinute(times[place])}`;
    setText(this.words, `${rate(values[place])} ${this.unit}, ${when}`);
    const mean = values.reduce((one, other) => one + other, 0) / values.length;
    const most = values.indexOf(Math.max(...values));
    setText(
      this.summary,
      `Mean ${rate(mean)} ${this.unit}, most ${rate(values[most])} at ${hourAndMinute(times[most])}.`,
    );
  }

  #fillTable() {
    if (!this.details.open) return;
    const [times, values] = this.data;
    const rows = times.map((time, place) => {
      const row = this.rows.rows[place] ?? el("tr", {}, el("th", { scope: "row" }), el("td", { class: "number" }));
      setText(row.cells[0], hourAndMinute(time));
      setText(row.cells[1], rate(values[place]));
      return row;
    });
    arrange(this.rows, rows);
  }
}
