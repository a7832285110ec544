/** What a pressed key is meant for. */

/** Whether the key belongs to a word that an input method is still writing. */
export function isComposing(event) {
  // Safari ends the composition before the key that confirms it, and says so by 229 alone.
  return event.isComposing || event.keyCode === 229;
}

/** Whether the key is part of a shortcut, which is the host's. */
export function isShortcut(event) {
  return event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
}

/** Keep a key that was used from the browser and from the host. */
export function swallow(event) {
  event.preventDefault();
  event.stopPropagation();
}
