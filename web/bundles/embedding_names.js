/** Names after `embedding:` in prompts: those of the graph's bundles, then the host's files. */
import { api } from "../../../scripts/api.js";
import { make } from "../editor/dom.js";
import { loadedNames } from "./store.js";
import { isComposing, isShortcut, swallow } from "../editor/keys.js";
import { offersNames } from "../editor/settings.js";
import { say } from "../editor/words.js";

const TYPED = /embedding:\s*([^\n,()\[\]]{0,60})$/i;
const MOST = 12;
/** What the list on the page was made from: the field, what was typed in it, and all names. */
let open = null;
let list = null;
/** The place of the row that Enter takes, -1 for none. */
let chosen = 0;
let asked = 0;

export function setup() {
  document.addEventListener("input", (event) => offer(event.target));
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("selectionchange", closeIfLeft);
  document.addEventListener("focusout", ({ target }) => setTimeout(closeIfBlurred, 150, target));
}

async function offer(area) {
  const wanting = offersNames() && area instanceof HTMLTextAreaElement;
  const typed = wanting ? typedName(area) : null;
  if (typed === null) return close();
  // An open list follows each key at once: Enter must not take a name that fits no longer.
  if (open?.area === area) return show({ ...open, typed });
  const mine = ++asked;
  const [ours, files] = await Promise.all([loadedNames(), api.getEmbeddings().catch(() => [])]);
  const left = document.activeElement !== area || typedName(area) !== typed;
  if (mine === asked && !left) show({ area, typed, ours, files });
}

/** What stands between `embedding:` and the caret, null where there is no such thing. */
function typedName({ value, selectionStart, selectionEnd }) {
  if (selectionStart !== selectionEnd) return null;
  return value.slice(0, selectionStart).match(TYPED)?.[1] ?? null;
}

function show(offered) {
  close();
  const { area, typed, ours, files } = offered;
  const names = [...new Set([...ours, ...files])];
  const wanted = typed.toLowerCase();
  const found = names.filter((name) => name.toLowerCase().includes(wanted) && name !== typed);
  // A name that begins with what was typed is meant sooner than one that only contains it.
  const begins = (name) => name.toLowerCase().startsWith(wanted);
  found.sort((one, other) => begins(other) - begins(one));
  if (!found.length) return;
  open = offered;
  // Behind a whole name Enter and Tab are the field's again, until an arrow chooses another name.
  chosen = names.includes(typed.trim()) ? -1 : 0;
  const rows = found.slice(0, MOST).map((name, index) => row(name, ours.includes(name), index));
  list = make("div.pivotal-offer", { role: "listbox" }, ...rows);
  const box = area.getBoundingClientRect();
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
  closeIfLeft();
  if (event.target !== open?.area || isComposing(event) || isShortcut(event)) return;
  const taking = event.key === "Enter" || event.key === "Tab";
  if (event.key === "ArrowDown") choose(chosen + 1);
  else if (event.key === "ArrowUp") choose(chosen < 0 ? -1 : chosen - 1);
  else if (taking && chosen >= 0) take(chosen);
  else if (event.key === "Escape") close();
  else return;
  swallow(event);
}

/** Choose the row at a place that may lie past either end. */
function choose(place) {
  chosen = (place + list.children.length) % list.children.length;
  mark();
}

/** Put a name in place of what was typed, as if it had been typed. */
function take(index) {
  const { area, typed } = open;
  const { name } = list.children[index].dataset;
  const end = area.selectionStart;
  close();
  area.focus();
  area.setRangeText(name, end - typed.length, end, "end");
  area.dispatchEvent(new Event("input", { bubbles: true }));
  // The name is whole now: what its own input asked for is not to be offered.
  asked++;
}

/** The caret went elsewhere, by a key or a click: what was typed is no longer before it. */
function closeIfLeft() {
  if (open && typedName(open.area) !== open.typed) close();
}

function closeIfBlurred(area) {
  if (open?.area === area && document.activeElement !== area) close();
}

function close() {
  list?.remove();
  list = open = null;
}
