/** The pack's one extension: each feature is a module that says what it adds to the editor. */
import { app } from "../../scripts/app.js";
import * as about from "./editor/about.js";
import * as colors from "./editor/colors.js";
import * as bundleView from "./bundles/view.js";
import * as datasetGallery from "./dataset/gallery.js";
import * as embeddingNames from "./bundles/embedding_names.js";
import * as runMonitor from "./runs/monitor.js";
import * as runView from "./runs/view.js";
import { settings } from "./editor/settings.js";
import { loadWords } from "./editor/words.js";

/**
 * A feature exports any of: `bottomPanelTabs`, `aboutPageBadges`, `nodeCreated(node)`,
 * `graphLoaded()` after a workflow was opened, and `setup()`, once. Importing a feature changes
 * nothing by itself.
 */
const FEATURES = [about, colors, runMonitor, runView, datasetGallery, bundleView, embeddingNames];

function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./pivotal.css", import.meta.url).href;
  const loaded = new Promise((done) => (link.onload = link.onerror = done));
  document.head.append(link);
  return loaded;
}

app.registerExtension({
  name: "pivotal.editor",
  bottomPanelTabs: FEATURES.flatMap((feature) => feature.bottomPanelTabs ?? []),
  settings,
  aboutPageBadges: FEATURES.flatMap((feature) => feature.aboutPageBadges ?? []),
  init: loadWords,
  async setup() {
    await loadStyle();
    for (const feature of FEATURES) feature.setup?.();
  },
  nodeCreated(node) {
    for (const feature of FEATURES) feature.nodeCreated?.(node);
  },
  afterConfigureGraph() {
    for (const feature of FEATURES) feature.graphLoaded?.();
  },
});
