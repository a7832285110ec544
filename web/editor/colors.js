/** A color for each of the pack's socket types, in both renderers and after a change of theme. */
import { app } from "../../../scripts/app.js";

// Nodes 2.0 reads these names from the style sheet; a palette of the person comes before it.
const TYPES = ["DATASET", "CAPTIONER", "CONCEPTS", "ADAPTER", "OPTIMIZER", "OBJECTIVE", "BUNDLE", "PREVIEWS", "VALIDATION",
  "RUN"].map((name) => `PIVOTAL_${name}`);

export function setup() {
  const style = getComputedStyle(document.documentElement);
  const { default_connection_color_byType: slots, constructor: { link_type_colors: links } } = app.canvas;
  for (const type of TYPES) {
    const own = style.getPropertyValue(`--color-datatype-${type}`).trim();
    for (const colors of [slots, links]) keep(colors, type, own);
  }
}

/** Let a table of colors have one that the editor, which empties it with each theme, only covers. */
function keep(colors, type, own) {
  let chosen = colors[type];
  Object.defineProperty(colors, type, {
    get: () => chosen || own,
    set: (color) => (chosen = color),
    enumerable: true,
    configurable: true,
  });
}
