/** What is known of the bundle files that nodes of the graph have chosen. */
import { get, route } from "../editor/api.js";
import { app } from "../../../scripts/app.js";

export const NODES = ["Pivotal_LoadBundle", "Pivotal_OpenBundle", "Pivotal_ConvertBundle"];
const CONNECTED = "(connected bundle)";
/** @type {Map<string, Promise<object>>} */
const asked = new Map();

/** The widget with the file, undefined for other nodes. */
export function fileWidget(node) {
  if (!NODES.includes(node.comfyClass)) return undefined;
  return node.widgets?.find((widget) => widget.name === "file");
}

/** Names, triggers and thumbnails of a file; asks the server again when `fresh`. */
export function glance(file, fresh = false) {
  if (!file || file === CONNECTED) return Promise.resolve(null);
  if (fresh || !asked.has(file)) {
    const answer = get(route`bundle?file=${file}`);
    answer.catch(() => asked.delete(file));
    asked.set(file, answer);
  }
  return asked.get(file);
}

/** Every node of the graph and of its subgraphs. */
function* allNodes(graph = app.rootGraph ?? app.graph) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    if (node.subgraph) yield* allNodes(node.subgraph);
  }
}

/** New names by old ones, as the names widget of Load Bundle says them; null is off. */
export function renamed(text) {
  const found = new Map();
  for (const line of (text ?? "").split("\n").map((part) => part.trim())) {
    if (line.startsWith("-")) {
      found.set(line.slice(1).trim(), null);
      continue;
    }
    const cut = line.lastIndexOf(":");
    const [old, name] = (cut < 0 ? line : line.slice(0, cut)).split("=").map((part) => part.trim());
    if (old && name) found.set(old, name);
  }
  return found;
}

/** The names that the graph's Load Bundle nodes give to prompts. */
export async function loadedNames() {
  const names = new Set();
  for (const node of allNodes()) {
    if (node.comfyClass !== "Pivotal_LoadBundle") continue;
    const found = await glance(fileWidget(node)?.value).catch(() => null);
    const others = renamed(node.widgets.find((widget) => widget.name === "names")?.value);
    for (const { name } of found?.names ?? []) {
      const final = others.has(name) ? others.get(name) : name;
      if (final) names.add(final);
    }
  }
  return [...names];
}
