/** The gallery of a report: a button under each case shows its CT in the viewer, one at a time. */

import { Viewer, VIEWS } from "./viewer.js";

const settings = JSON.parse(document.getElementById("viewer-settings").textContent);
const box = document.getElementById("viewer");
const place = box.querySelector("output");
let viewer = null;
let names = {};

/** The bytes of an embedded file. */
async function embedded(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}

function button(words, pressed) {
  const made = document.createElement("button");
  made.textContent = words;
  made.addEventListener("click", pressed);
  return made;
}

const rgb = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

function maskControl(mask, id) {
  const label = document.createElement("label");
  const shown = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  const opacity = Object.assign(document.createElement("input"), { type: "range", min: 5, max: 100, value: 50 });
  opacity.setAttribute("aria-label", `Opacity of ${mask.name}`);
  const set = () => viewer.setOpacity(id, shown.checked ? opacity.value / 100 : 0);
  shown.addEventListener("change", set);
  opacity.addEventListener("input", set);
  const swatch = document.createElement("i");
  swatch.style.background = mask.colour;
  label.append(shown, swatch, mask.name, opacity);
  return label;
}

async function look(figure) {
  const told = JSON.parse(figure.dataset.case);
  figure.append(box);
  box.hidden = false;
  viewer?.setView("All");
  if (!viewer) {
    viewer = new Viewer(box.querySelector("canvas"), ({ mm, value, masks }) => {
      const unit = settings.in_hu ? " HU" : "";
      const [x, y, z] = mm.map((side) => side.toFixed(1));
      place.textContent = `${Math.round(value)}${unit}  ·  R ${x}  A ${y}  S ${z} mm  ·  ${masks.map((id) => names[id]).join(", ")}`;
    });
    await viewer.start();
  }
  settings.in_hu = told.in_hu;
  const address = URL.createObjectURL(new Blob([await embedded(told.volume)]));
  await viewer.show(address, told.window);
  URL.revokeObjectURL(address);
  const controls = Object.keys(VIEWS).map((view) => button(view, () => viewer.setView(view)));
  if (told.in_hu) {
    for (const [name, range] of Object.entries(settings.windows)) controls.push(button(name, () => viewer.setWindow(range)));
  }
  names = {};
  for (const mask of told.masks) {
    names[mask.file] = mask.name;
    viewer.addMask(mask.file, new Uint8Array(await embedded(mask.file)), rgb(mask.colour), 0.5);
    controls.push(maskControl(mask, mask.file));
  }
  controls.push(button("Close", () => { box.hidden = true; }));
  box.querySelector(".controls").replaceChildren(...controls);
  viewer.goTo(told.centre);
}

for (const open of document.querySelectorAll("figure.case button.look")) {
  open.addEventListener("click", () => look(open.closest("figure")));
}
document.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: 1, ArrowDown: -1 };
  if (box.hidden || !(event.key in steps) || event.target.matches("input")) return;
  viewer.step(steps[event.key] * (event.shiftKey ? 10 : 1));
  event.preventDefault();
});
