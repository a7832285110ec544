/** The small view of a run on its Train Concepts node. */
import { colorOf, drawLines, short } from "./chart.js";
import { make, setText } from "../editor/dom.js";
import { addView, nodeAt } from "../editor/node_view.js";
import { lossPoints, progress, smoothed, timeLeft } from "./series.js";
import { listTrouble, refreshRun, runNames, runOf, watch } from "./store.js";
import { drawsOnNode } from "../editor/settings.js";
import { say } from "../editor/words.js";

const NODE = "Pivotal_TrainConcepts";
/** @type {Map<object, {line: HTMLElement, chart: HTMLCanvasElement, run: string|null}>} */
const views = new Map();

export function setup() {
  watch((name) => (name === null ? assign() : drawRun(name)));
}

export function graphLoaded() {
  assign();
}

export function nodeCreated(node) {
  if (node.comfyClass !== NODE) return;
  const chart = make("canvas.pivotal-spark");
  const line = make("div.pivotal-line", {}, nothing());
  const root = make("div.pivotal-view", {}, line, chart);
  const on = { filled: () => assign([node]), removed: () => views.delete(node) };
  addView(node, "run_view", { root, height: 84 }, on);
  views.set(node, { line, chart, run: null });
}

/** Give each node the run that it trains, else the newest run with its run name. */
function assign(nodes = views.keys()) {
  const running = runNames().filter((name) => runOf(name).summary.state === "running");
  const owner = new Map(running.map((name) => [nodeAt(runOf(name).summary.node), name]));
  for (const node of nodes) {
    const view = views.get(node);
    if (!view) continue;
    const name = owner.get(node) ?? newest(node);
    if (name) {
      view.run = name;
      refreshRun(name);
    } else if (!view.run) setText(view.line, nothing());
  }
}

/** What a view without a run says. */
function nothing() {
  return listTrouble() ?? say("No run yet.");
}

function newest(node) {
  const wanted = node.widgets?.find((widget) => widget.name === "run_name")?.value;
  return runNames().find((name) => name === wanted || name.replace(/_\d+$/, "") === wanted);
}

function drawRun(name) {
  const run = runOf(name);
  const node = run.summary.state === "running" ? nodeAt(run.summary.node) : null;
  if (views.has(node)) views.get(node).run = name;
  for (const view of views.values()) if (view.run === name) draw(view, run);
}

function draw({ line, chart }, { summary, reports, trouble }) {
  const { state, step, steps } = summary;
  const points = smoothed(lossPoints(reports));
  const parts = [progress(summary)];
  if (points.length) parts.push(say("loss {loss}", { loss: short(points.at(-1)[1]) }));
  const pace = reports.findLast((report) => report.pace)?.pace;
  if (state === "running" && pace) parts.push(timeLeft(pace * (steps - step)));
  if (trouble) parts.push(trouble);
  setText(line, parts.join(", "));
  chart.dataset.points = String(points.length);
  chart.hidden = !drawsOnNode();
  drawLines(chart, [{ points, color: colorOf(0), width: 1.5 }], { bare: true });
}
