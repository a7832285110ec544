/** The gallery of Review Dataset: captions edited in place, replaced in bulk, undone. */
import { app } from "../../../scripts/app.js";
import { get, on, onReconnected, pictureAddress, post, route } from "../editor/api.js";
import { card, giveFocus, heldFocus } from "./card.js";
import { make, setText } from "../editor/dom.js";
import { swallow } from "../editor/keys.js";
import { addView, chain, nodeAt } from "../editor/node_view.js";
import { say } from "../editor/words.js";

const NODE = "Pivotal_ReviewDataset";
const ROW = 236;
const CARD = 176;
const PAGE = 200;
const ID = /^[0-9a-f]{16}$/;
const COUNTED = "{count} captions would change";
const REPLACED = "{count} captions changed";
/** @type {Map<object, Gallery>} */
const galleries = new Map();

export function setup() {
  // Nodes inside and outside of a subgraph may have the same number.
  on("review", ({ node, dataset }) => galleries.get(nodeAt(node))?.show(dataset));
  onReconnected(() => galleries.forEach((gallery) => gallery.refresh()));
}

export function nodeCreated(node) {
  if (node.comfyClass !== NODE) return;
  const gallery = new Gallery(node);
  const removed = () => {
    galleries.delete(node);
    gallery.observer.disconnect();
  };
  const on = { filled: () => gallery.restore(), removed };
  addView(node, "gallery", { root: gallery.root, height: 420 }, on);
  hide(gallery.widget);
  galleries.set(node, gallery);
  node.setSize?.([Math.max(node.size[0], 620), Math.max(node.size[1], 560)]);
  chain(node, "onExecuted", (output) => {
    const found = output?.review?.[0];
    if (found) gallery.show(found.dataset);
  });
}

/** For editors that do not read it from the node's definition; other options would not be seen. */
function hide(widget) {
  if (!widget) return;
  widget.hidden = true;
  widget.options ??= {};
  widget.options.hidden = true;
}

export function graphLoaded() {
  for (const gallery of galleries.values()) gallery.restore();
}

class Gallery {
  constructor(node) {
    this.node = node;
    this.dataset = null;
    this.pages = new Map();
    /** The pages that were asked for last: answers to older questions do not count. */
    this.asked = this.pages;
    this.total = 0;
    this.drafts = new Map();
    this.build();
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this.scroll);
  }

  get widget() {
    return this.node.widgets?.find((widget) => widget.name === "review");
  }

  build() {
    const typing = { keydown: (event) => event.stopPropagation() };
    const changed = { ...typing, input: () => this.refresh() };
    this.text = make("input", { type: "search", placeholder: say("caption contains"), on: changed });
    this.flag = make("select", { on: { change: () => this.refresh() } });
    this.status = make("span.pivotal-gallery-status", {}, say("Queue the graph to see its images."));
    this.find = make("input", { placeholder: say("find"), on: typing });
    this.new = make("input", { placeholder: say("replace with"), on: typing });
    const button = (label, title, click) =>
      make("button", { type: "button", title: say(title), on: { click } }, say(label));
    this.preview = make("div.pivotal-gallery-preview", { hidden: true });
    this.apply = button("Apply", "Replace in all captions", () => this.replace(false));
    this.apply.disabled = true;
    this.space = make("div.pivotal-gallery-space");
    this.scroll = make("div.pivotal-gallery-scroll", { on: {
      scroll: () => this.draw(),
      wheel: (event) => event.stopPropagation(),
    } }, this.space);
    this.root = make("div.pivotal-gallery", { on: { keydown: (event) => this.key(event) } },
      make("div.pivotal-gallery-bar", {}, this.text, this.flag,
        button("Undo", "Undo the latest change (Ctrl+Z)", () => this.undo()),
        button("Approve", "Let the run continue past this node", () => this.remember("+approved")),
        this.status),
      make("div.pivotal-gallery-bar", {}, this.find, this.new,
        button("Preview", "Count and show the captions that would change", () => this.replace(true)),
        this.apply),
      this.preview, this.scroll);
  }

  key(event) {
    const writing = event.target.tagName === "TEXTAREA" || event.target.tagName === "INPUT";
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && !writing) {
      swallow(event);
      this.undo();
    }
  }

  /** After a reload, and on a copy of the node, the widget says which dataset was shown. */
  restore() {
    const [dataset] = this.widget?.value?.split("@") ?? [];
    // A workflow can hold any text here.
    if (ID.test(dataset) && dataset !== this.dataset) this.show(dataset);
  }

  async show(dataset) {
    this.dataset = dataset;
    await this.refresh();
  }

  /** Ask for the first page again and forget all others with its answer; what is typed stays. */
  async refresh() {
    if (!this.dataset) return;
    const pages = (this.asked = new Map());
    const answer = await this.load(0, pages);
    if (this.asked !== pages) return;
    if (!answer) {
      this.asked = this.pages;
      return;
    }
    this.pages = pages;
    this.take(answer);
  }

  /** Ask for one more page, unless all are about to be asked for again. */
  async more(page) {
    const { pages } = this;
    if (pages.has(page) || this.asked !== pages) return;
    const answer = await this.load(page, pages);
    if (answer && this.pages === pages) this.take(answer);
  }

  /** The server's answer with the page's items, put among the pages; null where there is none. */
  async load(page, pages) {
    pages.set(page, []);
    const query = new URLSearchParams({ offset: String(page * PAGE), text: this.text.value });
    if (this.flag.value) query.set("flag", this.flag.value);
    try {
      const answer = await get(`${route`datasets/${this.dataset}/items`}?${query}`);
      pages.set(page, answer.items);
      return answer;
    } catch (error) {
      pages.delete(page);
      setText(this.status, error.message);
      return null;
    }
  }

  take(answer) {
    this.total = answer.total;
    this.placeholders = answer.placeholders;
    this.remember(`${answer.revision}`);
    const flags = ["", "off", "edited", ...answer.flags.filter((flag) => flag !== "edited")];
    if (flags.join() !== this.flags) {
      this.flags = flags.join();
      const chosen = this.flag.value;
      const named = { "": say("all images"), off: say("switched off"), edited: say("edited") };
      this.flag.replaceChildren(...flags.map((value) =>
        make("option", { value }, named[value] ?? value.replace(/_/g, " "))));
      this.flag.value = chosen;
    }
    setText(this.status, say("{total} of {all} images, revision {revision}", answer));
    this.draw();
  }

  /** The widget holds the dataset's id and its revision, so that a new one runs what follows. */
  remember(revision) {
    if (!this.widget || !this.dataset) return;
    const approved = revision === "+approved";
    const now = this.widget.value.split("@")[1]?.replace("+approved", "") ?? "0";
    // Nothing was edited yet: what follows need not run again for having been looked at.
    if (!approved && revision === "0" && !this.widget.value) return;
    const same = !approved && now === revision && this.widget.value.startsWith(this.dataset);
    if (same) return;
    this.widget.value = `${this.dataset}@${approved ? now + revision : revision}`;
    if (approved) setText(this.status, say("Approved: queue the graph again."));
    app.graph?.setDirtyCanvas?.(true, true);
  }

  item(index) {
    const page = Math.floor(index / PAGE);
    this.more(page);
    return this.pages.get(page)?.[index % PAGE];
  }

  /** Only the cards in sight are in the page, whatever the size of the dataset. */
  draw() {
    const across = Math.max(1, Math.floor(this.scroll.clientWidth / CARD));
    const rows = Math.ceil(this.total / across);
    this.space.style.height = `${rows * ROW}px`;
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 1);
    const bottom = this.scroll.scrollTop + this.scroll.clientHeight;
    const last = Math.min(rows, Math.ceil(bottom / ROW) + 1);
    const focused = this.space.querySelector("textarea:focus")?.closest("[data-item]");
    const held = heldFocus(this.space);
    const wanted = new Map();
    for (let index = first * across; index < Math.min(last * across, this.total); index++) {
      const item = this.item(index);
      if (item) wanted.set(item.item, { item, index });
    }
    for (const child of [...this.space.children]) {
      const known = wanted.get(child.dataset.item);
      const same = child.dataset.tag === known?.item.tag && child.dataset.shown === known?.item.shown;
      if (known && (child === focused || same)) {
        this.place(child, known.index, across);
        wanted.delete(child.dataset.item);
      } else if (child !== focused) child.remove();
    }
    for (const { item, index } of wanted.values()) {
      const element = card(item, this);
      this.place(element, index, across);
      this.space.insertBefore(element, this.cardBehind(index));
      if (held?.item === item.item) giveFocus(element, held.part);
    }
  }

  /** The Tab key goes through the cards as they stand in the page. */
  cardBehind(index) {
    const behind = (child) => Number(child.dataset.index) > index;
    return [...this.space.children].find(behind) ?? null;
  }

  place(element, index, across) {
    element.dataset.index = String(index);
    element.style.left = `${(index % across) * CARD}px`;
    element.style.top = `${Math.floor(index / across) * ROW}px`;
  }

  thumb(item) {
    // What is shown of a picture changes with its crop and mask.
    return pictureAddress(route`datasets/${this.dataset}/thumbs/${item.item}?shown=${item.shown}`);
  }

  /** Send one change; a conflict shows what the file says now and lets the user decide. */
  async edit(item, values) {
    try {
      await post(route`datasets/${this.dataset}/edit`, { item: item.item, tag: item.tag, ...values });
      this.drafts.delete(item.item);
    } catch (error) {
      if (values.caption !== undefined) this.drafts.set(item.item, values.caption);
      // What its card shows is not what was kept.
      const shown = this.space.querySelector(`[data-item="${CSS.escape(item.item)}"]`);
      if (shown) shown.dataset.tag = "";
      await this.refresh();
      this.draw();
      setText(this.status, error.message);
      return;
    }
    await this.refresh();
  }

  async undo() {
    if (!this.dataset) return;
    try {
      const { undone } = await post(route`datasets/${this.dataset}/undo`);
      this.preview.hidden = true;
      await this.refresh();
      if (!undone) setText(this.status, say("There is nothing to undo."));
    } catch (error) {
      setText(this.status, error.message);
    }
  }

  async replace(preview) {
    if (!this.dataset) return;
    const body = { find: this.find.value, replace: this.new.value, preview };
    try {
      const answer = await post(route`datasets/${this.dataset}/replace`, body);
      this.preview.hidden = !preview;
      this.apply.disabled = !preview || !answer.count;
      this.preview.replaceChildren(
        make("b", {}, say(preview ? COUNTED : REPLACED, answer)),
        ...answer.changes.map(({ name, before, after }) => make("div", {},
          make("small", {}, name), make("del", {}, before), make("ins", {}, after))));
      if (!preview) await this.refresh();
    } catch (error) {
      setText(this.status, error.message);
    }
  }
}
