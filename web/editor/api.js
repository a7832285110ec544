/** The pack's routes and events. */
import { api } from "../../../scripts/api.js";
import { say } from "./words.js";

/**
 * An address below /pivotal/ with each value as one part of its path, or as one value of its query.
 * Values come from workflows and files of strangers: none of them leads to another route.
 */
export function route(texts, ...values) {
  return texts.reduce((path, text, place) => {
    const value = String(values[place - 1]);
    // A browser takes these for steps up, however they are written.
    if (/^\.{1,2}$/.test(value)) throw new Error(say('"{value}" is not the name of anything.', { value }));
    return path + encodeURIComponent(value) + text;
  });
}

/** Call a /pivotal route. Rejections throw with the server's message. */
async function ask(path, options) {
  const response = await api.fetchApi(`/pivotal/${path}`, options).catch(() => {
    // The browser's own sentence is in its language and names nothing.
    throw new Error(say("The server cannot be reached."));
  });
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Error(answer?.error ?? say("The server responded with status {status}.", response));
  return answer;
}

/** @param {string} path such as "runs", or what `route` makes */
export function get(path) {
  return ask(path);
}

/** @param {string} path @param {object} body */
export function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

/** The address of a picture that a route serves. */
export function pictureAddress(path) {
  // A browser cannot send a header with it, by which the server would know the user.
  const user = api.user ? `${path.includes("?") ? "&" : "?"}user=${encodeURIComponent(api.user)}` : "";
  return api.apiURL(`/pivotal/${path}${user}`);
}

/** Call `listener` with the data of each `pivotal.<noun>` event. */
export function on(noun, listener) {
  api.addEventListener(`pivotal.${noun}`, (event) => listener(event.detail));
}

/** Call `listener` when the editor is connected again after a break. */
export function onReconnected(listener) {
  api.addEventListener("reconnected", listener);
}
