/** The bottom panel, which lists the runs and shows one of them. */
import { app } from "../../../scripts/app.js";
import { on } from "../editor/api.js";
import { colorOf, drawLines, short } from "./chart.js";
import { make, setText } from "../editor/dom.js";
import { showControls } from "./controls.js";
import { keptView } from "./kept.js";
import { showPreviews } from "./previews.js";
import * as series from "./series.js";
import { listen, listTrouble, refreshRun, runNames, runOf, seriesList, watch } from "./store.js";
import { opensPanel } from "../editor/settings.js";
import { say, word } from "../editor/words.js";

const TAB = "pivotal.runs";

/** What is on the page while the panel is open. */
let panel = null;

export const bottomPanelTabs = [
  {
    id: TAB,
    get title() {
      return say("Training");
    },
    type: "custom",
    render: open,
    destroy: close,
  },
];

/** The run that has opened the panel; a person who closes it again is left in peace. */
let started = null;

export function setup() {
  listen();
  on("report", ({ run }) => {
    if (run !== started && opensPanel() && !panel) {
      app.extensionManager.command.execute(`Workspace.ToggleBottomPanelTab.${TAB}`);
    }
    started = run;
  });
  on("ended", () => {
    started = null;
  });
}

function open(container) {
  close();
  const list = make("div.pivotal-runs");
  const status = make("div.pivotal-status", { role: "status" });
  const controls = make("div.pivotal-controls");
  const facts = make("div.pivotal-facts");
  const charts = make("div.pivotal-charts");
  const previews = make("div.pivotal-previews");
  const detail = make("div.pivotal-detail", {}, status, controls, facts, charts, previews);
  const kept = keptView();
  const toggle = { ariaPressed: "false", on: { click: () => showKept(kept.root.hidden) } };
  const entry = make("button.pivotal-run.pivotal-kept-entry", toggle, say("What Pivotal keeps"));
  const side = make("div.pivotal-side", {}, list, entry);
  const root = make("div.pivotal-monitor", {}, side, detail, kept.root);
  container.replaceChildren(root);
  panel = { root, list, detail, kept, entry, status, controls, facts, charts, previews };
  Object.assign(panel, { chosen: null, follows: true });
  panel.unwatch = watch((name) => {
    if (name === null) showList();
    else markState(name);
    follow();
    if (name === null || name === panel?.chosen) draw();
  });
  panel.resized = new ResizeObserver(draw);
  panel.resized.observe(root);
  showList();
}

function chart({ key }) {
  const canvas = make("canvas.pivotal-chart", { data: { chart: key } });
  return make("div.pivotal-plot", {}, make("div.pivotal-legend"), canvas);
}

function close() {
  panel?.unwatch();
  panel?.resized.disconnect();
  panel?.root.remove();
  panel = null;
}

/** Show what is kept in the place of a run, or the run again. */
function showKept(isShown) {
  panel.kept.root.hidden = !isShown;
  panel.detail.hidden = isShown;
  panel.entry.ariaPressed = String(isShown);
  panel.entry.classList.toggle("chosen", isShown);
  if (isShown) panel.kept.refresh();
  else draw();
}

function showList() {
  if (!panel) return;
  const names = runNames();
  panel.list.replaceChildren(...names.map(listed));
  if (listTrouble()) panel.list.append(make("div.pivotal-trouble", {}, listTrouble()));
  else if (!names.length) panel.list.append(say("No run yet: queue a graph with Train Concepts."));
  follow();
}

/** Show the run that trains until somebody chooses another one. */
function follow() {
  if (!panel) return;
  const names = runNames();
  const running = names.find((name) => runOf(name).summary.state === "running");
  if (panel.follows && running && running !== panel.chosen) choose(running);
  else if (!panel.chosen && names.length) choose(names[0]);
}

function stateOf(name) {
  const { state, step, steps } = runOf(name).summary;
  return `${word(state)} ${step}/${steps}`;
}

function markState(name) {
  const buttons = [...(panel?.list.querySelectorAll("button") ?? [])];
  const label = buttons.find((button) => button.dataset.run === name)?.lastElementChild;
  if (label) setText(label, stateOf(name));
}

function listed(name) {
  const parts = [make("span", {}, name), make("small", {}, stateOf(name))];
  const on = {
    click() {
      showKept(false);
      panel.follows = runOf(name).summary.state === "running";
      choose(name);
    },
  };
  const button = make("button.pivotal-run", { on, title: name, data: { run: name } }, ...parts);
  button.classList.toggle("chosen", name === panel.chosen);
  return button;
}

function choose(name) {
  panel.chosen = name;
  for (const button of panel.list.querySelectorAll("button")) {
    button.classList.toggle("chosen", button.dataset.run === name);
  }
  refreshRun(name);
}

/** Draw at most once per frame, however many reports arrive. */
function draw() {
  if (!panel || panel.drawing) return;
  panel.drawing = requestAnimationFrame(() => {
    if (!panel) return;
    panel.drawing = 0;
    const run = runOf(panel.chosen);
    if (run) show(run);
  });
}

function show({ summary, reports, trouble }) {
  setText(panel.status, series.statusLine(summary, reports));
  showControls(panel.controls, summary);
  panel.facts.replaceChildren(...facts(reports).map((text) => make("span", {}, text)));
  if (trouble) panel.facts.append(make("span.pivotal-trouble", {}, trouble));
  const marks = series.marks(reports);
  const kinds = seriesList();
  if (panel.charts.children.length !== kinds.length) panel.charts.replaceChildren(...kinds.map(chart));
  kinds.forEach((kind, index) => showChart(panel.charts.children[index], kind, reports, marks));
  showPreviews(panel.previews, summary.run, series.previewRows(reports));
}

/** What a glance should tell: the latest numbers, nearest words, events and trouble. */
function facts(reports) {
  const shown = [];
  const loss = series.latest(reports, "loss");
  const memory = series.latest(reports, "memory");
  const trouble = series.latest(reports, "trouble");
  if (typeof loss === "number") shown.push(say("loss {loss}", { loss: short(loss) }));
  if (memory) shown.push(say("memory {size} GiB", { size: (memory / 2 ** 30).toFixed(1) }));
  for (const [name, words] of series.nearestWords(reports)) {
    shown.push(say("{name} is closest to: {words}", { name, words }));
  }
  for (const { event, step, concept } of reports.filter((report) => report.event)) {
    shown.push(eventLine(event, step, concept));
  }
  return trouble ? [...shown, trouble] : shown;
}

function eventLine(event, step, concept) {
  const said = { event: word(event), step, concept };
  return say(concept ? "{event} of {concept} after step {step}" : "{event} after step {step}", said);
}

function showChart(plot, { key, title, unit, smooth }, reports, marks) {
  const [legend, canvas] = plot.children;
  const points = series.pointsOf(reports, key);
  plot.hidden = !points.size;
  if (plot.hidden) return;
  const lines = smooth ? smoothLines(points.get("")) : namedLines(points);
  const names = lines.filter(({ name }) => name);
  const labels = names.map(({ name, color }) => make("b", { style: `color: ${color}` }, ` ${name}`));
  legend.replaceChildren([title, unit].filter(Boolean).map(word).join(", "), ...labels);
  canvas.dataset.points = String(lines[0].points.length);
  drawLines(canvas, lines, { marks });
}

/** Values that scatter: thin, under their exponential mean. */
function smoothLines(points) {
  return [
    { points, color: "#8888", width: 1 },
    { points: series.smoothed(points), color: colorOf(0), width: 2 },
  ];
}

function namedLines(points) {
  return [...points].map(([name, line], index) => ({ name, points: line, color: colorOf(index) }));
}
