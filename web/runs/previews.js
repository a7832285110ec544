/** A run's previews: one row for each prompt and seed, one column for each step. */
import { pictureAddress, route } from "../editor/api.js";
import { make } from "../editor/dom.js";
import { say } from "../editor/words.js";

const COLUMNS = 12;

/** Show rows in `place`; they are made again only when one has changed, so nothing flickers. */
export function showPreviews(place, run, rows) {
  const steps = [...new Set(rows.flatMap((row) => [...row.pictures.keys()]))].sort((a, b) => a - b);
  const shown = evenly(steps, COLUMNS);
  const signature = JSON.stringify([run, rows.length, shown]);
  if (place.dataset.signature === signature) return;
  place.dataset.signature = signature;
  place.replaceChildren(...rows.map((row) => line(run, row, shown)));
}

/** At most `limit` of the steps, the first and the last among them. */
function evenly(steps, limit) {
  if (steps.length <= limit) return steps;
  const place = (index) => Math.round((index * (steps.length - 1)) / (limit - 1));
  return Array.from({ length: limit }, (_, index) => steps[place(index)]);
}

function line(run, { prompt, seed, without, pictures }, steps) {
  const parts = [prompt, say("seed {seed}", { seed })];
  if (without) parts.push(say("without {word}", { word: without }));
  const label = parts.join(", ");
  const cells = steps.filter((step) => pictures.has(step)).map((step) => {
    const file = pictures.get(step);
    const path = route`runs/${run}/previews/${file}`;
    const title = `${label}, ${say("step {step}", { step })}`;
    const image = make("img", { src: pictureAddress(path), alt: title, title, loading: "lazy" });
    return make("figure", {}, image, make("figcaption", {}, String(step)));
  });
  return make("div.pivotal-row", {}, make("div.pivotal-label", { title: label }, label), ...cells);
}
