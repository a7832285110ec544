/** The pack's own words in the editor's language: English is the key, locales/ has the others. */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const ENGLISH = "en";
/** @type {Record<string, string>} */
let words = {};

/** Read the words of the editor's language, before anything is shown. */
export async function loadWords() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? ENGLISH;
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
