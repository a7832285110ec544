/** Where to find the pack's documentation and its issue tracker, on the About page. */
import { say } from "./words.js";

const HOME = "https://github.com/pivotal-training/pivotal-training";

export const aboutPageBadges = [
  { label: "Pivotal", url: HOME, icon: "pi pi-github" },
  {
    get label() {
      return say("Pivotal: report a problem");
    },
    url: `${HOME}/issues`,
    icon: "pi pi-comment",
  },
];
