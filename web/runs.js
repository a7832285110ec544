/** What the page knows of the runs: filled from the routes, kept up by events. */
import { get, on, onReconnected } from "./api.js";

/** @type {Map<string, {summary: object, reports: object[], next: number, asked: Promise|null}>} */
const known = new Map();
const watchers = new Set();
let names = [];

/** Ids of all runs, the newest first. */
export function runNames() {
  return names;
}

/** What is known of a run: its summary, and its reports once somebody asked for them. */
export function runOf(name) {
  return known.get(name);
}

/** Call `watcher(name)` after a run changed, or `watcher(null)` after the list did. */
export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

function tell(name) {
  for (const watcher of watchers) watcher(name);
}

/** Read the list of runs again; the server is the truth, also after a reload or a break. */
export async function refreshList() {
  const list = await get("runs");
  names = list.map((summary) => summary.run);
  for (const summary of list) entry(summary.run).summary = summary;
  tell(null);
}

/** Read what is new in a run's journal. Of several calls at once, one asks. */
export function refreshRun(name) {
  const run = entry(name);
  run.asked ??= read(name, run).finally(() => {
    run.asked = null;
  });
  return run.asked;
}

async function read(name, run) {
  let answer;
  do {
    answer = await get(`runs/${encodeURIComponent(name)}?after=${run.next}`);
    if (answer.total < run.next) Object.assign(run, { reports: [], next: 0 });
    else {
      run.reports.push(...answer.reports);
      run.next = answer.next;
    }
    const { reports, next, total, ...summary } = answer;
    run.summary = summary;
  } while (run.next < answer.total);
  tell(name);
}

function entry(name) {
  if (!known.has(name)) known.set(name, { summary: {}, reports: [], next: 0, asked: null });
  return known.get(name);
}

/** A report that follows the last one known is taken as it is; else the journal is read. */
function take({ run: name, node, index, report }) {
  const isNew = !names.includes(name);
  const run = entry(name);
  const { step, steps = run.summary.steps } = report;
  run.summary = { ...run.summary, run: name, node, state: "running", step, steps };
  if (index === run.next && !run.asked) {
    run.reports.push(report);
    run.next += 1;
    tell(name);
  } else {
    refreshRun(name);
  }
  if (isNew) refreshList();
}

function end({ run: name }) {
  refreshRun(name).then(refreshList);
}

/** Start to listen, once. */
export function listen() {
  on("report", take);
  on("ended", end);
  onReconnected(refreshList);
  refreshList();
}
