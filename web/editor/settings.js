/** The pack's page in the editor's settings, and what the features ask of it. */
import { app } from "../../../scripts/app.js";

const SMOOTHING = "Pivotal.Training.Smoothing";
const NODE_VIEW = "Pivotal.Training.NodeView";
const OPEN_PANEL = "Pivotal.Training.OpenPanel";
const OFFER_NAMES = "Pivotal.Prompts.OfferNames";

// The editor shows a group's settings from the last to the first.
export const settings = [
  {
    id: OFFER_NAMES,
    category: ["Pivotal", "Prompts", "Offer names"],
    name: "Suggest names from bundles",
    tooltip: "Typing embedding: in a prompt lists the names in the graph's bundles, then embedding files.",
    type: "boolean",
    defaultValue: true,
  },
  {
    id: OPEN_PANEL,
    category: ["Pivotal", "Training", "Open panel"],
    name: "Open the Training panel when a run starts",
    type: "boolean",
    defaultValue: false,
  },
  {
    id: NODE_VIEW,
    category: ["Pivotal", "Training", "Node view"],
    name: "Show the loss curve on Train Concepts",
    tooltip: "The status line is always shown.",
    type: "boolean",
    defaultValue: true,
  },
  {
    id: SMOOTHING,
    category: ["Pivotal", "Training", "Smoothing"],
    name: "Loss smoothing",
    tooltip: "Share of its past that the bold line keeps at each step; 0 shows the raw loss.",
    type: "slider",
    defaultValue: 0.95,
    attrs: { min: 0, max: 0.99, step: 0.01 },
  },
];

function value(id) {
  const initial = settings.find((one) => one.id === id).defaultValue;
  return app.extensionManager?.setting?.get(id) ?? initial;
}

export const smoothing = () => value(SMOOTHING);
export const drawsOnNode = () => value(NODE_VIEW);
export const opensPanel = () => value(OPEN_PANEL);
export const offersNames = () => value(OFFER_NAMES);
