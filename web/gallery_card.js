/** One picture of the gallery with its caption. */
import { make } from "./dom.js";
import { say } from "./words.js";

/** The caption's text with each placeholder marked, as whole words. */
function marked(text, placeholders) {
  const words = placeholders.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!words.length) return [text];
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])(${words.join("|")})(?![\\p{L}\\p{N}_])`, "gu");
  return text.split(pattern).map((part, index) => (index % 2 ? make("mark", {}, part) : part));
}

/**
 * @param {object} item as the route gives it
 * @param {object} gallery that takes `edit(item, values)` and knows `thumb`, `drafts`
 */
export function card(item, gallery) {
  const draft = gallery.drafts.get(item.item);
  const shown = make("div.pivotal-card-marked", {}, ...marked(item.caption, gallery.placeholders));
  const caption = make("textarea", { value: draft ?? item.caption, spellcheck: false });
  const tokens = make("small", {}, say("{tokens} tokens", item));
  const save = () => {
    if (caption.value !== item.caption) gallery.edit(item, { caption: caption.value });
  };
  caption.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      caption.blur();
    } else if (event.key === "Escape") {
      caption.value = item.caption;
      caption.blur();
    }
  });
  caption.addEventListener("change", save);
  const enabled = make("input", { type: "checkbox", checked: item.enabled, title: say("Use it"),
    on: { change: () => gallery.edit(item, { enabled: enabled.checked }) } });
  const flags = item.flags.map((flag) => make("span.pivotal-flag", {}, flag.replace(/_/g, " ")));
  const keep = (label, text) => make("button", { type: "button",
    on: { click: () => gallery.edit(item, { caption: text() }) } }, say(label));
  const notes = item.file === null ? [] : [
    make("div.pivotal-card-conflict", { title: item.file }, say("File changed: {file}", item)),
    make("div.pivotal-card-line", {}, keep("Keep mine", () => caption.value),
      keep("Take file", () => item.file))];
  const image = make("img", { src: gallery.thumb(item), loading: "lazy", alt: item.name,
    draggable: false });
  const root = make("div.pivotal-card", { data: { item: item.item, tag: item.tag, shown: item.shown } },
    make("div.pivotal-card-picture", {}, image, make("div.pivotal-card-flags", {}, ...flags)),
    make("div.pivotal-card-line", {}, enabled, make("span", { title: item.name }, item.name),
      tokens),
    ...notes, shown, caption);
  root.classList.toggle("off", !item.enabled);
  root.classList.toggle("edited", item.edited);
  // A hidden field takes no focus, so it is shown first.
  const write = () => {
    root.classList.add("writing");
    caption.focus();
  };
  shown.addEventListener("click", write);
  caption.addEventListener("blur", () => root.classList.remove("writing"));
  if (draft !== undefined) root.classList.add("writing");
  return root;
}
