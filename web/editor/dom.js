/** Building of elements, with text that is never read as HTML. */

/**
 * @param {string} tag such as "div" or "div.class"
 * @param {object} properties of the element; `on` holds listeners, `data` the dataset
 * @param {...(Node|string)} children
 */
export function make(tag, { on = {}, data = {}, ...properties } = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = Object.assign(document.createElement(name), properties);
  element.classList.add(...classes);
  Object.assign(element.dataset, data);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children);
  return element;
}

/** Set text only where it differs, so that screen readers do not announce it again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
