/** What the page knows of the runs: filled from the routes, kept up by events. */
import { get, on, onReconnected } from "../editor/api.js";

/**
 * @typedef {object} Run
 * @property {object} summary
 * @property {object[]} reports
 * @property {number} next report that is not known yet
 * @property {Promise<void>|null} asked
 * @property {string|null} trouble that kept the journal from being read
 */

/** @type {Map<string, Run>} */
const known = new Map();
const watchers = new Set();
const list = { names: [], series: [], trouble: null };

/** Ids of all runs, the newest first. */
export function runNames() {
  return list.names;
}

/**
 * The numbers that runs report over their steps, in the order in which they are drawn.
 * @returns {{key: string, title: string, unit: string, smooth: boolean}[]}
 */
export function seriesList() {
  return list.series;
}

/** What kept the list from being read, null once it was. */
export function listTrouble() {
  return list.trouble;
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

/** Wait for what is read; what goes wrong is not thrown but noted, for the views to say. */
async function noted(owner, reading) {
  owner.trouble = await reading.then(() => null, (error) => error.message);
}

/** Read the list of runs again; the server is the truth, also after a reload or a break. */
export async function refreshList() {
  await noted(list, readList());
  tell(null);
}

async function readList() {
  const { runs, series } = await get("runs");
  list.series = series;
  list.names = runs.map((summary) => summary.run);
  for (const summary of runs) entry(summary.run).summary = summary;
}

/** Read what is new in a run's journal. Of several calls at once, one asks. */
export function refreshRun(name) {
  const run = entry(name);
  run.asked ??= noted(run, read(name, run)).then(() => tell(name)).finally(() => {
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
}

function entry(name) {
  const empty = { summary: {}, reports: [], next: 0, asked: null, trouble: null };
  if (!known.has(name)) known.set(name, empty);
  return known.get(name);
}

/** A report that follows the last one known is taken as it is; else the journal is read. */
function take({ run: name, node, index, report }) {
  const isNew = !list.names.includes(name);
  const run = entry(name);
  const { step, steps = run.summary.steps } = report;
  run.summary = { ...run.summary, run: name, node, state: "running", step, steps };
  if (index === run.next && !run.asked) {
    run.reports.push(report);
    run.next += 1;
    run.trouble = null;
    tell(name);
  } else {
    refreshRun(name);
  }
  if (isNew) refreshList();
}

function end({ run: name }) {
  refreshRun(name).then(refreshList);
}

/** After a break, read again what could not be read in it. */
async function recover() {
  await refreshList();
  for (const [name, run] of known) if (run.trouble) refreshRun(name);
}

/** Start to listen, once. */
export function listen() {
  on("report", take);
  on("ended", end);
  onReconnected(recover);
  refreshList();
}
