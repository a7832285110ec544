/** The small view of a run on its Train Concepts node. */
import { app } from "../../scripts/app.js";
import { colorOf, drawLines, short } from "./chart.js";
import { make, setText } from "./dom.js";
import { lossPoints, smoothed, standing, timeLeft } from "./run_series.js";
import { refreshRun, runNames, runOf, watch } from "./runs.js";
import { drawsOnNode } from "./settings.js";
import { say } from "./words.js";

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
  const line = make("div.pivotal-line", {}, say("No run yet."));
  const root = make("div.pivotal-view", {}, line, chart);
  const options = { serialize: false, hideOnZoom: true, getMinHeight: () => 84 };
  const widget = node.addDOMWidget("run_view", "pivotal_run_view", root, options);
  // The option keeps it out of the prompt, and this out of the saved widget values.
  widget.serialize = false;
  views.set(node, { line, chart, run: null });
  const removed = node.onRemoved;
  node.onRemoved = function () {
    views.delete(node);
    return removed?.apply(this, arguments);
  };
}

/** The node at an execution path such as "3:7", which leads through subgraphs. */
function nodeAt(path) {
  // Before the first graph is there, asking for it is an error in the console.
  const graph = app.isGraphReady === false ? null : (app.rootGraph ?? app.graph);
  return String(path)
    .split(":")
    .reduce((at, id) => (at?.subgraph ?? at)?.getNodeById?.(id), graph);
}

/** Give each view the run that trains on its node, else the newest with the node's run name. */
function assign() {
  const running = runNames().filter((name) => runOf(name).summary.state === "running");
  const owner = new Map(running.map((name) => [nodeAt(runOf(name).summary.node), name]));
  for (const [node, view] of views) {
    const name = owner.get(node) ?? newest(node);
    if (name) {
      view.run = name;
      refreshRun(name);
    }
  }
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

function draw({ line, chart }, { summary, reports }) {
  const { state, step, steps } = summary;
  const points = smoothed(lossPoints(reports));
  const parts = [standing(summary)];
  if (points.length) parts.push(say("loss {loss}", { loss: short(points.at(-1)[1]) }));
  const pace = reports.findLast((report) => report.pace)?.pace;
  if (state === "running" && pace) parts.push(timeLeft(pace * (steps - step)));
  setText(line, parts.join(", "));
  chart.dataset.points = String(points.length);
  chart.hidden = !drawsOnNode();
  drawLines(chart, [{ points, color: colorOf(0), width: 1.5 }], { bare: true });
}
