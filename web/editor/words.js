/** The pack's own words in the editor's language: English is the key, locales/ has the others. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const ENGLISH = "en";
/** @type {Record<string, string>} */
let words = {};
let language = ENGLISH;

/** Read the words of the editor's language, before anything is shown. */
export async function loadWords() {
  language = app.extensionManager?.setting?.get("Comfy.Locale") ?? ENGLISH;
  if (language === ENGLISH) return;
  const answer = await api.fetchApi("/i18n").then((response) => response.json(), () => ({}));
  words = answer[language]?.pivotal ?? {};
}

/**
 * A text in the editor's language; English where it has none.
 * @param {string} text in English, with {names} for values
 * @param {Record<string, unknown>} values
 */
export function say(text, values = {}) {
  const said = words[text] ?? text;
  return said.replace(/\{(\w+)\}/g, (hole, name) => (name in values ? String(values[name]) : hole));
}

/** A word that comes from the server, such as a run's state; unknown ones stay as they are. */
export function word(text) {
  return words[text] ?? text;
}

const UNITS = [[1e9, "gigabyte"], [1e6, "megabyte"], [1e3, "kilobyte"]];

/** A number of bytes in the unit in which it is neither 0 nor long. */
export function fileSize(bytes) {
  const [whole, unit] = UNITS.find(([least]) => bytes >= least) ?? UNITS.at(-1);
  return (bytes / whole).toLocaleString(tag(), { style: "unit", unit, maximumFractionDigits: 1 });
}

/** The day of a time, in seconds since 1970. */
export function day(seconds) {
  return new Date(seconds * 1000).toLocaleDateString(tag(), { dateStyle: "medium" });
}

/** The editor's language for numbers and dates; those of English differ by country. */
function tag() {
  return language === ENGLISH ? undefined : language;
}
