/** What the page knows of the runs: read from the routes and kept up to date by events. */
import { get, on, onReconnected, route } from "../editor/api.js";
import { isReport, listOf, sound, soundReport } from "./sound.js";

/**
 * @typedef {object} Run
 * @property {object} summary
 * @property {object[]} reports
 * @property {number} next index of the next report to read
 * @property {Promise<void>|null} reading
 * @property {string|null} trouble why the journal could not be read
 */

/** @type {Map<string, Run>} */
const known = new Map();
const watchers = new Set();
const list = { names: [], series: [], trouble: null };

/** The ids of all runs, the newest first. */
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

/** Why the list could not be read; null once it could. */
export function listTrouble() {
  return list.trouble;
}

/** What is known of a run: its summary, and its reports after a `refreshRun`. */
export function runOf(name) {
  return known.get(name);
}

/** Call `watcher(name)` after a run changed, or `watcher(null)` after the list did. */
export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

/** One view that fails does not keep the others from being drawn. */
function notify(name) {
  for (const watcher of watchers) {
    try {
      watcher(name);
    } catch (error) {
      console.error("Pivotal could not show a run:", error);
    }
  }
}

/** Wait for a read; an error is not thrown but saved in `owner`, and the views show it. */
async function withTrouble(owner, reading) {
  owner.trouble = await reading.then(() => null, (error) => error.message);
}

/** Read the list of runs again. The server's word counts, also after a lost connection. */
export async function refreshList() {
  await withTrouble(list, readList());
  notify(null);
}

async function readList() {
  const answer = await get("runs");
  const runs = listOf(answer?.runs).filter((one) => typeof one?.run === "string").map(sound);
  list.series = listOf(answer?.series).filter((one) => typeof one?.key === "string");
  list.names = runs.map((summary) => summary.run);
  for (const summary of runs) entry(summary.run).summary = summary;
}

/** Read what is new in a run's journal; calls while it is being read share that read. */
export function refreshRun(name) {
  const run = entry(name);
  run.reading ??= withTrouble(run, read(name, run)).then(() => notify(name)).finally(() => {
    run.reading = null;
  });
  return run.reading;
}

async function read(name, run) {
  let answer, before;
  do {
    answer = (await get(route`runs/${name}?after=${run.next}`)) ?? {};
    // A run that is trained again from an earlier checkpoint has a shorter journal than before.
    if (answer.total < run.next) Object.assign(run, { reports: [], next: 0 });
    else {
      before = run.next;
      run.reports.push(...listOf(answer.reports).filter(isReport).map(soundReport));
      run.next = answer.next ?? before;
    }
    const { reports, next, total, ...summary } = answer;
    run.summary = sound({ ...summary, run: name });
  } while (run.next < answer.total && run.next !== before);
}

function entry(name) {
  const empty = { summary: {}, reports: [], next: 0, reading: null, trouble: null };
  if (!known.has(name)) known.set(name, empty);
  return known.get(name);
}

/** Append a report that follows the last one known; after any other, read the journal. */
function takeReport({ run: name, node, index, report }) {
  if (!isReport(report)) return;
  const isNew = !list.names.includes(name);
  const run = entry(name);
  const { step, steps = run.summary.steps } = report;
  run.summary = { ...run.summary, run: name, node, state: "running", step, steps };
  if (index === run.next && !run.reading) {
    run.reports.push(soundReport(report));
    run.next += 1;
    run.trouble = null;
    notify(name);
  } else {
    refreshRun(name);
  }
  if (isNew) refreshList();
}

function end({ run: name }) {
  refreshRun(name).then(refreshList);
}

/** After a lost connection, read what could not be read. */
async function recover() {
  await refreshList();
  for (const [name, run] of known) if (run.trouble) refreshRun(name);
}

/** Start to listen; called once. */
export function listen() {
  on("report", takeReport);
  on("ended", end);
  onReconnected(recover);
  refreshList();
}
