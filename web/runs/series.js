/** What a run's reports hold: lines to draw, facts and rows of previews. */
import { smooth } from "./chart.js";
import { smoothing } from "../editor/settings.js";
import { say, word } from "../editor/words.js";

/** The loss of every step as [step, loss]. */
export function lossPoints(reports) {
  return pointsOf(reports, "losses").get("") ?? [];
}

/** The exponential mean of points. */
export function smoothed(points) {
  const means = smooth(points.map(([, y]) => y), smoothing());
  return points.map(([x], index) => [x, means[index]]);
}

/**
 * The points [step, value] that reports hold under a key, by name.
 * `points_of` in training/series.py is the same function.
 * @returns {Map<string, number[][]>}
 */
export function pointsOf(reports, key) {
  const points = new Map();
  for (const { step, [key]: reported } of reports) {
    for (const [name, at, value] of values(step, reported ?? {})) {
      if (typeof value !== "number") continue;
      if (!points.has(name)) points.set(name, []);
      points.get(name).push([at, value]);
    }
  }
  return points;
}

/**
 * An array holds a value for each step up to the report's; an object, one for each name.
 * Where a name has a value for each text encoder, the first encoder's is drawn.
 */
function values(step, reported) {
  if (Array.isArray(reported)) {
    return reported.map((value, index) => ["", step - reported.length + index + 1, value]);
  }
  return Object.entries(reported).map(([name, value]) =>
    [name, step, value && typeof value === "object" ? Object.values(value)[0] : value],
  );
}

/** The steps at which something happened to the run. */
export function marks(reports) {
  return reports.filter((report) => report.event).map((report) => report.step);
}

/** The latest value that a report has under a name. */
export function latest(reports, name) {
  return reports.findLast((report) => report[name] !== undefined)?.[name];
}

/** The nearest words of each concept's vectors, one entry [concept, words] for each. */
export function nearestWords(reports) {
  const last = reports.findLast((one) => one.nearest && Object.keys(one.nearest).length);
  return Object.entries(last?.nearest ?? {}).map(([concept, encoders]) => {
    const rows = Object.values(encoders)[0] ?? [];
    return [concept, rows.map((words) => words.join(", ")).join(" | ")];
  });
}

/** The rows of previews: what each shows, and its files by step. */
export function previewRows(reports) {
  const rows = new Map();
  for (const { step, previews } of reports) {
    for (const { row, file, prompt, seed, without } of previews ?? []) {
      if (!rows.has(row)) rows.set(row, { prompt, seed, without, pictures: new Map() });
      rows.get(row).pictures.set(step, file);
    }
  }
  return [...rows.values()];
}

/** Hours, minutes and seconds. */
function duration(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours) return say("{hours} h {minutes} min", { hours, minutes });
  const rest = whole % 60;
  if (minutes) return say("{minutes} min {rest} s", { minutes, rest });
  return say("{rest} s", { rest });
}

/** The time until the end of a run. */
export function timeLeft(seconds) {
  return say("{time} left", { time: duration(seconds) });
}

/** A run's state and step. */
export function progress({ run, state, step, steps }) {
  const said = { run, state: word(state), step, steps };
  return say("{run}: {state}, step {step} of {steps}", said);
}

/** One line about a run's progress. */
export function statusLine({ run, state, step, steps }, reports) {
  const last = reports.findLast((report) => report.loss !== undefined);
  const parts = [progress({ run, state, step, steps })];
  if (last?.pace && state === "running") {
    parts.push(say("{pace} s/step", { pace: last.pace.toFixed(2) }));
    parts.push(timeLeft(last.pace * (steps - step)));
  }
  return parts.join(", ");
}
