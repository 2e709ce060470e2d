/** Elements whose text is always text: what a user or the model wrote never becomes markup. */

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children); // strings become text nodes
  return made;
}

export const byId = (id) => document.getElementById(id);

/** A line at the foot of the page, which goes by itself or when it is clicked. */
export function tell(message, note = false) {
  const line = element("p", { className: note ? "note" : "", title: "Click to close" }, message);
  line.addEventListener("click", () => line.remove());
  byId("messages").append(line);
  setTimeout(() => line.remove(), note ? 8000 : 20000);
}
