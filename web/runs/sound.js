/** What the folder of a run holds can be anybody's: here it becomes what the views can draw. */

/** A list as it is, and nothing for anything else. */
export const listOf = (value) => (Array.isArray(value) ? value : []);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const entries = (value) => (isObject(value) ? Object.entries(value) : []);
const count = (value) => (Number.isFinite(value) ? value : 0);

/** A run's summary with whole counts, and the names of concepts as texts. */
export function sound({ step, steps, state, concepts, ...others }) {
  const names = listOf(concepts).map(String);
  return { ...others, step: count(step), steps: count(steps), state: String(state), concepts: names };
}

/** Whether a line of a journal is a report of a step. */
export function isReport(line) {
  return isObject(line) && Number.isFinite(line.step);
}

/** A report without the parts that no view can draw. */
export function soundReport(report) {
  const { nearest, previews, event, concept, trouble, pace, memory, ...others } = report;
  const texts = { event, concept, trouble };
  const numbers = { pace, memory };
  const found = { ...others };
  for (const [name, text] of Object.entries(texts)) if (typeof text === "string") found[name] = text;
  for (const [name, value] of Object.entries(numbers)) if (Number.isFinite(value)) found[name] = value;
  if (Array.isArray(previews)) found.previews = previews.filter(isPreview);
  const words = entries(nearest).map(([name, encoders]) => [name, wordsOf(encoders)]);
  if (words.length) found.nearest = Object.fromEntries(words);
  return found;
}

const isPreview = (one) => isObject(one) && typeof one.file === "string";

/** The nearest words of each row, by encoder. */
function wordsOf(encoders) {
  const rows = entries(encoders).map(([key, value]) => [key, listOf(value).map(listOf)]);
  return Object.fromEntries(rows);
}
