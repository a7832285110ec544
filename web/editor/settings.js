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
    name: "Offer the names of bundles",
    tooltip: "Typing embedding: in a prompt lists the names of the graph's bundles, then files.",
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
    name: "Draw the loss on Train Concepts",
    tooltip: "The line of text stays.",
    type: "boolean",
    defaultValue: true,
  },
  {
    id: SMOOTHING,
    category: ["Pivotal", "Training", "Smoothing"],
    name: "Smoothing of the loss",
    tooltip: "Share of its past that the bold line keeps at each step; 0 draws the loss as it is.",
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
