/** Names after `embedding:` in prompts: those of the graph's bundles, then the host's files. */
import { api } from "../../scripts/api.js";
import { make } from "./dom.js";
import { loadedNames } from "./bundles.js";
import { offersNames } from "./settings.js";
import { say } from "./words.js";

const TYPED = /embedding:\s*([^\n,()\[\]]{0,60})$/i;
const MOST = 12;
let list = null;
let area = null;
let chosen = 0;

export function setup() {
  document.addEventListener("input", (event) => offer(event.target));
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("focusout", () => setTimeout(close, 150));
}

async function offer(target) {
  const wanting = offersNames() && target instanceof HTMLTextAreaElement;
  const typed = wanting ? typedName(target) : null;
  if (typed === null) return close();
  const [ours, files] = await Promise.all([loadedNames(), api.getEmbeddings().catch(() => [])]);
  if (document.activeElement !== target || typedName(target) !== typed) return;
  const names = [...new Set([...ours, ...files])];
  const wanted = typed.toLowerCase();
  const found = names.filter((name) => name.toLowerCase().includes(wanted) && name !== typed);
  show(target, found.slice(0, MOST), new Set(ours));
}

/** What stands between `embedding:` and the caret, null where there is no such thing. */
function typedName(target) {
  return target.value.slice(0, target.selectionStart).match(TYPED)?.[1] ?? null;
}

function show(target, names, ours) {
  close();
  if (!names.length) return;
  area = target;
  chosen = 0;
  const rows = names.map((name, index) => row(name, ours.has(name), index));
  list = make("div.pivotal-offer", { role: "listbox" }, ...rows);
  const box = target.getBoundingClientRect();
  list.style.left = `${box.left}px`;
  list.style.top = `${Math.min(box.bottom, window.innerHeight - 200)}px`;
  document.body.append(list);
  mark();
}

function row(name, ours, index) {
  const on = { pointerdown: (event) => (event.preventDefault(), take(index)) };
  const from = make("small", {}, say(ours ? "bundle" : "file"));
  return make("div", { role: "option", on, data: { name } }, make("span", {}, name), from);
}

function mark() {
  [...list.children].forEach((one, index) => one.classList.toggle("chosen", index === chosen));
}

function onKey(event) {
  if (!list || event.target !== area) return;
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) {
    chosen = (chosen + steps[event.key] + list.children.length) % list.children.length;
    mark();
  } else if (event.key === "Enter" || event.key === "Tab") take(chosen);
  else if (event.key === "Escape") close();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

/** Put a name in place of what was typed, as if it had been typed. */
function take(index) {
  const { name } = list.children[index].dataset;
  const target = area;
  const start = target.selectionStart - typedName(target).length;
  close();
  target.focus();
  target.setRangeText(name, start, target.selectionStart, "end");
  target.dispatchEvent(new Event("input", { bubbles: true }));
  close();
}

function close() {
  list?.remove();
  list = area = null;
}
