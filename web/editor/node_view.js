/** A view of the pack on a node, and when what it shows has changed. */
import { app } from "../../../scripts/app.js";

/** Call `also` behind what `owner[name]` does already, whose result stays. */
export function chain(owner, name, also) {
  const before = owner[name];
  owner[name] = function () {
    const result = before?.apply(this, arguments);
    also.apply(this, arguments);
    return result;
  };
}

/**
 * @param {object} node
 * @param {string} name of the widget
 * @param {{root: HTMLElement, height: number}} view and the least height that it needs
 * @param {{filled: () => void, removed: () => void}} on
 */
export function addView(node, name, { root, height }, { filled, removed }) {
  const options = { serialize: false, hideOnZoom: true, getMinHeight: () => height };
  const widget = node.addDOMWidget(name, `pivotal_${name}`, root, options);
  // The option keeps it out of the prompt, and this out of the saved widget values.
  widget.serialize = false;
  // A pasted node gets its values after it was made, and no widget callback reports them.
  chain(node, "onConfigure", filled);
  chain(node, "onRemoved", removed);
}

/** The node at an execution path such as "3:7", which leads through subgraphs. */
export function nodeAt(path) {
  // Reading the graph before the first one is loaded logs an error.
  const graph = app.isGraphReady === false ? null : (app.rootGraph ?? app.graph);
  return String(path)
    .split(":")
    .reduce((at, id) => (at?.subgraph ?? at)?.getNodeById?.(id), graph);
}
