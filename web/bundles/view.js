/** The small view of a chosen bundle on its node: thumbnail, names, and buttons that copy them. */
import { make, setText } from "../editor/dom.js";
import { fileWidget, glance } from "./store.js";
import { addView, chain } from "../editor/node_view.js";
import { say } from "../editor/words.js";

const COPIED_MS = 1200;
/** In a terminal or a chat, a line end in what is pasted would send it. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g;
/** @type {Map<object, {root: HTMLElement, file: string|undefined}>} */
const views = new Map();

export function graphLoaded() {
  for (const node of views.keys()) show(node);
}

export function nodeCreated(node) {
  const widget = fileWidget(node);
  if (!widget) return;
  const root = make("div.pivotal-bundle", {}, say("No file."));
  const on = { filled: () => show(node), removed: () => views.delete(node) };
  addView(node, "bundle_view", { root, height: 96 }, on);
  views.set(node, { root, file: undefined });
  chain(widget, "callback", () => show(node, true));
  show(node);
}

/** Draw what the node's file holds, unless another one was chosen meanwhile. */
async function show(node, fresh = false) {
  const view = views.get(node);
  const file = fileWidget(node).value;
  if (!view || (!fresh && view.file === file)) return;
  view.file = file;
  try {
    const found = await glance(file, fresh);
    if (views.get(node)?.file === file) draw(view.root, found);
  } catch (error) {
    if (views.get(node)?.file === file) view.root.replaceChildren(make("div", {}, error.message));
  }
}

function draw(root, found) {
  if (!found) return root.replaceChildren(say("The connected bundle."));
  const notes = found.notes.map((note) => make("div.pivotal-about", {}, note));
  if (found.opened === false) return root.replaceChildren(...notes);
  const names = found.names.map((one) => chip(one));
  const said = names.length ? [] : [say("No names in this file.")];
  const all = found.names.map((one) => one.trigger).join(", ");
  if (found.names.length > 1) names.push(copyButton(say("copy all"), all, say("Copy all triggers")));
  const list = make("div.pivotal-names", {}, ...said, ...names);
  const lora = found.lora ? say("{count} LoRA tensors", { count: found.lora }) : say("no LoRA");
  const about = [found.family, lora];
  const line = make("div.pivotal-about", {}, about.filter(Boolean).join(", "));
  const text = make("div.pivotal-text", {}, line, list, ...notes);
  root.replaceChildren(...picture(found.thumbnail, "thumbnail"), text);
}

function chip({ name, trigger, initial, placeholder, thumbnail }) {
  const from = [
    initial && say('started from "{initial}"', { initial }),
    placeholder && say("in captions: {placeholder}", { placeholder }),
  ];
  const title = [say("Copy {trigger}", { trigger }), ...from.filter(Boolean)].join(", ");
  const button = copyButton(name, trigger, title);
  button.prepend(...picture(thumbnail, name));
  return button;
}

function copyButton(label, text, title) {
  const shown = make("span", {}, label);
  const line = text.replace(CONTROLS, " ").trim();
  const on = {
    click: async () => {
      await copy(line);
      setText(shown, say("copied"));
      setTimeout(() => setText(shown, label), COPIED_MS);
    },
  };
  return make("button.pivotal-copy", { type: "button", title, on, data: { text: line } }, shown);
}

/** The clipboard of a page that is not served by https is closed; the old way is not. */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).catch(() => copyOld(text));
  return copyOld(text);
}

function copyOld(text) {
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Only pictures in the text itself: a file's header must not make the page call another server. */
function picture(address, alt) {
  return address?.startsWith("data:image/") ? [make("img", { src: address, alt })] : [];
}
