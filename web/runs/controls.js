/** The buttons that request something of a run while it trains. */
import { app } from "../../../scripts/app.js";
import { post, route } from "../editor/api.js";
import { make } from "../editor/dom.js";
import { say, word } from "../editor/words.js";

const REQUESTS = [
  ["finish", "Finish now", "End the run after this step and continue the graph with its result"],
  ["checkpoint", "Checkpoint now", "Save a checkpoint and its bundle that newer ones do not replace"],
  ["preview", "Preview now", "Render the previews after this step"],
];

async function request(run, what, concept) {
  try {
    await post(route`runs/${run}/ask`, { ask: what, concept });
    toast("info", say("{run}: {what} after this step.", { run, what: word(what) }));
  } catch (error) {
    toast("error", error.message);
  }
}

function toast(severity, detail) {
  app.extensionManager?.toast?.add({ severity, summary: say("Training"), detail, life: 4000 });
}

function button(run, what, label, title, concept) {
  const on = { click: () => request(run, what, concept) };
  return make("button.pivotal-button", { title, on, data: { ask: what } }, label);
}

/** Show the buttons of a run while it trains; they are made again only when something changed. */
export function showControls(place, { run, state, concepts = [] }) {
  const signature = JSON.stringify([run, state === "running", concepts]);
  if (place.dataset.signature === signature) return;
  place.dataset.signature = signature;
  place.replaceChildren();
  if (state !== "running") return;
  place.append(...REQUESTS.map(([what, label, title]) => button(run, what, say(label), say(title))));
  for (const name of concepts) {
    const title = say("Permanently freeze the vectors of {name} after this step", { name });
    place.append(button(run, "pivot", say("Pivot {name} now", { name }), title, name));
  }
}
