/** The bottom panel that lists the runs and shows how one goes. */
import { drawLines, colorOf, smooth, short } from "./chart.js";
import { make, setText } from "./dom.js";
import { listen, refreshRun, runNames, runOf, watch } from "./runs.js";

/** What is on the page while the panel is open. */
let panel = null;

export const bottomPanelTabs = [
  { id: "pivotal.runs", title: "Training", type: "custom", render: open, destroy: close },
];

export function setup() {
  listen();
}

function open(container) {
  close();
  const list = make("div.pivotal-runs");
  const status = make("div.pivotal-status");
  const chart = make("canvas.pivotal-chart", { data: { chart: "loss" } });
  const detail = make("div.pivotal-detail", {}, status, chart);
  const root = make("div.pivotal-monitor", {}, list, detail);
  container.replaceChildren(root);
  panel = { root, list, status, chart, chosen: null, drawing: 0 };
  panel.unwatch = watch((name) => {
    if (name === null) showList();
    else markState(name);
    if (name === null || name === panel?.chosen) draw();
  });
  panel.resized = new ResizeObserver(draw);
  panel.resized.observe(root);
  showList();
}

function close() {
  panel?.unwatch();
  panel?.resized.disconnect();
  panel?.root.remove();
  panel = null;
}

function showList() {
  if (!panel) return;
  const names = runNames();
  panel.list.replaceChildren(...names.map(listed));
  if (!names.length) panel.list.append("No run yet: queue a graph with Train Concepts.");
  const running = names.find((name) => runOf(name).summary.state === "running");
  if (!panel.chosen && names.length) choose(running ?? names[0]);
}

function stateOf(name) {
  const { state, step, steps } = runOf(name).summary;
  return `${state} ${step}/${steps}`;
}

function markState(name) {
  const buttons = [...(panel?.list.querySelectorAll("button") ?? [])];
  const label = buttons.find((button) => button.dataset.run === name)?.lastElementChild;
  if (label) setText(label, stateOf(name));
}

function listed(name) {
  const { state } = runOf(name).summary;
  const parts = [make("span", {}, name), make("small", {}, stateOf(name))];
  const on = { click: () => choose(name) };
  const button = make("button.pivotal-run", { on, data: { run: name, state } }, ...parts);
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

/** Draw once a frame at most, however many reports come. */
function draw() {
  if (!panel || panel.drawing) return;
  panel.drawing = requestAnimationFrame(() => {
    if (!panel) return;
    panel.drawing = 0;
    const run = runOf(panel.chosen);
    if (run) show(run);
  });
}

function show({ summary, reports }) {
  const losses = reports.map((report) => report.loss);
  const steps = reports.map((report) => report.step);
  const pairs = (values) => values.map((value, index) => [steps[index], value]);
  const last = reports.at(-1);
  const loss = last ? `, loss ${short(last.loss)}` : "";
  setText(panel.status, `${summary.run}: ${summary.state}, step ${summary.step} of ${summary.steps}${loss}`);
  panel.chart.dataset.points = String(losses.length);
  drawLines(panel.chart, [
    { points: pairs(losses), color: "#8888", width: 1 },
    { points: pairs(smooth(losses)), color: colorOf(0), width: 2 },
  ]);
}
