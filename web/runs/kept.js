/** What the pack keeps in the user folder: shown by kind, and removed once it was shown. */
import { get, post } from "../editor/api.js";
import { make, setText } from "../editor/dom.js";
import { listOf } from "./sound.js";
import { day, fileSize, say, word } from "../editor/words.js";

const DAYS = "30";
const GIGABYTE = 1e9;

/** The view; `refresh` reads what is kept now. */
export function keptView() {
  const view = new KeptView();
  return { root: view.root, refresh: () => view.refresh() };
}

class KeptView {
  constructor() {
    const changed = { on: { input: () => this.forget() } };
    this.rows = make("tbody");
    this.days = number(DAYS, changed);
    this.most = number("", { ...changed, step: "any", placeholder: say("any size") });
    this.look = button(say("Show what would be removed"), () => this.ask(null));
    this.remove = button(say("Remove these files"), () => this.ask(this.shown));
    this.remove.classList.add("pivotal-danger");
    this.said = make("div.pivotal-kept-said", { role: "status" });
    this.form = make(
      "div.pivotal-kept-form",
      {},
      field(say("Older than, in days"), this.days),
      field(say("Leave at most, in GB"), this.most),
      this.look,
      this.remove,
    );
    const heads = [say("kept"), say("files"), say("size"), say("last written"), say("if removed")];
    const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
    const table = make("table.pivotal-kept-table", {}, make("thead", {}, head), this.rows);
    this.root = make("div.pivotal-kept", { hidden: true }, table, this.form, this.said);
    this.rows.addEventListener("change", () => this.forget());
    this.forget();
  }

  /** Read what is kept; what was chosen stays chosen. */
  async refresh(sentence = "") {
    try {
      const { kinds, closed } = await get("kept");
      const chosen = this.rows.children.length ? this.chosen() : null;
      this.rows.replaceChildren(...listOf(kinds).map((kind) => row(kind, chosen, Boolean(closed))));
      this.form.hidden = Boolean(closed);
      this.forget(closed ? word(closed) : sentence);
    } catch (error) {
      this.forget(error.message);
    }
  }

  chosen() {
    const boxes = [...this.rows.querySelectorAll("input:checked")];
    return boxes.map((box) => box.value);
  }

  /** After any change, what was shown before is not what would be removed. */
  forget(sentence = "") {
    this.shown = null;
    this.remove.hidden = true;
    setText(this.said, sentence);
  }

  /** @param {string|null} id of the answer whose files are to be removed; null to only see them */
  async ask(id) {
    const most = this.most.value === "" ? null : Math.round(this.most.valueAsNumber * GIGABYTE);
    const order = { kinds: this.chosen(), days: this.days.valueAsNumber, bytes: most };
    this.look.disabled = this.remove.disabled = true;
    try {
      const answer = await post("kept/prune", id === null ? order : { ...order, id });
      if (answer.is_done) await this.refresh(done(answer));
      else this.offer(answer);
    } catch (error) {
      this.forget(error.message);
    }
    this.look.disabled = this.remove.disabled = false;
    (this.remove.hidden ? this.look : this.remove).focus();
  }

  offer({ id, kinds }) {
    const { files, size } = total(kinds);
    const lost = listOf(kinds).map((kind) => `${word(kind.title)}: ${word(kind.lost)}`);
    this.forget();
    if (!files) return setText(this.said, say("Nothing would be removed."));
    const first = say("Files that would be removed: {files}, {size}.", { files, size });
    this.said.replaceChildren(...[first, ...lost].map((text) => make("div", {}, text)));
    this.shown = id;
    this.remove.hidden = false;
  }
}

function total(kinds) {
  const files = listOf(kinds).reduce((sum, kind) => sum + kind.files, 0);
  return { files, size: fileSize(listOf(kinds).reduce((sum, kind) => sum + kind.bytes, 0)) };
}

function done({ kinds, left }) {
  const text = say("Files removed: {files}, {size}.", total(kinds));
  return left ? `${text} ${say("Files in use or changed, and left: {left}.", { left })}` : text;
}

function row({ kind, title, lost, is_work, files, bytes, oldest, newest }, chosen, isClosed) {
  const checked = !isClosed && (chosen ? chosen.includes(kind) : !is_work);
  const box = make("input", { type: "checkbox", value: kind, checked, disabled: isClosed });
  const dates = files ? [...new Set([day(oldest), day(newest)])].join(" - ") : "";
  const label = make("label", {}, box, word(title));
  const cells = [String(files), fileSize(bytes), dates, word(lost)];
  const shown = make("tr", { data: { kind } }, make("td", {}, label), ...cells.map((text) => make("td", {}, text)));
  shown.classList.toggle("pivotal-kept-work", is_work);
  return shown;
}

function number(value, options) {
  return make("input", { type: "number", min: "0", value, ...options });
}

function field(text, input) {
  return make("label", {}, text, input);
}

function button(text, click) {
  return make("button.pivotal-button", { on: { click } }, text);
}
