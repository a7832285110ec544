/** One picture of the gallery with its caption. */
import { make } from "../editor/dom.js";
import { isComposing, isShortcut, swallow } from "../editor/keys.js";
import { say } from "../editor/words.js";

const OPENING = new Set(["Enter", " ", "F2"]);
const MARKED = ".pivotal-card-marked";
/** What can hold the focus and is on every card. */
const PARTS = [MARKED, "input"];

/** The caption's text with each placeholder marked, as whole words. */
function marked(text, placeholders) {
  const words = placeholders.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!words.length) return [text];
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])(${words.join("|")})(?![\\p{L}\\p{N}_])`, "gu");
  return text.split(pattern).map((part, index) => (index % 2 ? make("mark", {}, part) : part));
}

/** The caption as it is read; the title is its name where the caption is empty. */
function shownCaption(item, placeholders) {
  const properties = { tabIndex: 0, role: "button", title: item.name };
  return make("div.pivotal-card-marked", properties, ...marked(item.caption, placeholders));
}

/** The caption as it is written; Enter keeps it and Escape does not, and then `leave` is called. */
function captionField(item, gallery, leave) {
  const value = gallery.drafts.get(item.item) ?? item.caption;
  const field = make("textarea", { value, spellcheck: false, ariaLabel: item.name });
  let kept = item.caption;
  const keep = () => {
    if (field.value === kept) return;
    kept = field.value;
    // Against a changed file only the buttons decide; until then it is a draft.
    if (item.file === null) gallery.edit(item, { caption: kept });
    else gallery.drafts.set(item.item, kept);
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (isComposing(event)) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (item.file === null) {
        gallery.drafts.delete(item.item);
        leave();
      }
      // What could not be sent before is no change of the field.
      keep();
    } else if (event.key === "Escape") {
      field.value = item.caption;
      gallery.drafts.delete(item.item);
      leave();
    }
  });
  field.addEventListener("change", keep);
  return field;
}

/** Let a click or a key put the field in the shown text's place, until it is left with no draft. */
function joinCaption(root, shown, field, hasDraft) {
  // A hidden field takes no focus, so it is shown first.
  const write = () => {
    root.classList.add("writing");
    field.focus();
  };
  shown.addEventListener("click", write);
  shown.addEventListener("keydown", (event) => {
    if (isShortcut(event) || !OPENING.has(event.key)) return;
    swallow(event);
    write();
  });
  field.addEventListener("blur", () => root.classList.toggle("writing", hasDraft()));
}

/** Where the caption's file says something else: what it says, and which of the two to keep. */
function conflict(item, gallery, field) {
  if (item.file === null) return [];
  const keep = (label, text) => make("button", { type: "button",
    on: { click: () => (field.blur(), gallery.edit(item, { caption: text() })) } }, say(label));
  return [
    make("div.pivotal-card-conflict", { title: item.file }, say("File changed: {file}", item)),
    make("div.pivotal-card-line", {}, keep("Keep mine", () => field.value),
      keep("Use the file", () => item.file))];
}

/**
 * @param {object} item as the route gives it
 * @param {object} gallery that takes `edit(item, values)` and knows `thumb`, `drafts`
 */
export function card(item, gallery) {
  const shown = shownCaption(item, gallery.placeholders);
  const field = captionField(item, gallery, () => {
    field.blur();
    shown.focus({ preventScroll: true });
  });
  const tokens = make("small", {}, say("{tokens} tokens", item));
  const enabled = make("input", { type: "checkbox", checked: item.enabled, title: say("Use this image"),
    on: { change: () => gallery.edit(item, { enabled: enabled.checked }) } });
  const flags = item.flags.map((flag) => make("span.pivotal-flag", {}, flag.replace(/_/g, " ")));
  const image = make("img", { src: gallery.thumb(item), loading: "lazy", alt: item.name,
    draggable: false });
  const root = make("div.pivotal-card", { data: { item: item.item, tag: item.tag, shown: item.shown } },
    make("div.pivotal-card-picture", {}, image, make("div.pivotal-card-flags", {}, ...flags)),
    make("div.pivotal-card-line", {}, enabled, make("span", { title: item.name }, item.name),
      tokens),
    ...conflict(item, gallery, field), shown, field);
  root.classList.toggle("off", !item.enabled);
  root.classList.toggle("edited", item.edited);
  const hasDraft = () => gallery.drafts.has(item.item);
  root.classList.toggle("writing", hasDraft());
  joinCaption(root, shown, field, hasDraft);
  return root;
}

/** The card's item and the part of it that has the focus, null where no card has it. */
export function heldFocus(cards) {
  for (const part of PARTS) {
    const held = cards.querySelector(`${part}:focus`);
    if (held) return { item: held.closest(".pivotal-card").dataset.item, part };
  }
  return null;
}

/** Focus a part of a card; its field where that stands in the part's place. */
export function giveFocus(element, part) {
  const field = part === MARKED && element.classList.contains("writing");
  element.querySelector(field ? "textarea" : part).focus({ preventScroll: true });
}
