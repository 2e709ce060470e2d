/** The list of masks: a switch, an opacity, a size and a file each. */

import { colourOf, css } from "./colours.js";
import { byId, element, tell } from "./dom.js";
import { maskAddress, maskVoxels } from "./server.js";

const OPACITY = 0.5;

export class MaskList {
  constructor(viewer) {
    this.viewer = viewer;
    this.held = new Map(); // id -> { mask, row, colour, shown, opacity }
    this.numbers = new Map(); // name -> number, so that a structure keeps its colour
    this.waiting = Promise.resolve();
    this.volume = null;
    byId("all-masks").addEventListener("click", () => this.switchAll());
  }

  /** Begin with the masks of another CT. */
  begin(volume) {
    this.volume = volume;
    this.held.clear();
    this.numbers.clear();
    this.waiting = Promise.resolve();
    byId("mask-list").replaceChildren();
    this.refresh();
  }

  /** Add a mask in place of an earlier one of its name, as soon as those before it are drawn. */
  add(volume, mask) {
    this.waiting = this.waiting.then(() => this.addNow(volume, mask)).catch((error) => tell(error.message));
    return this.waiting;
  }

  async addNow(volume, mask) {
    if (volume !== this.volume) return; // another CT is in view by now; the server keeps it
    const voxels = await maskVoxels(volume, mask.id);
    if (volume !== this.volume) return;
    const earlier = [...this.held.values()].find((held) => held.mask.name === mask.name);
    if (earlier) {
      this.viewer.removeMask(earlier.mask.id);
      earlier.row.remove();
      this.held.delete(earlier.mask.id);
    }
    if (!this.numbers.has(mask.name)) this.numbers.set(mask.name, this.numbers.size);
    const held = { mask, colour: colourOf(this.numbers.get(mask.name)), shown: true, opacity: OPACITY };
    held.row = this.row(held);
    this.held.set(mask.id, held);
    byId("mask-list").append(held.row);
    this.viewer.addMask(mask.id, voxels, held.colour, held.opacity);
    this.refresh();
  }

  row(held) {
    const { mask } = held;
    const shown = element("input", { type: "checkbox", checked: true, "aria-label": `Show ${mask.name}` });
    shown.addEventListener("change", () => this.show(held, shown.checked));
    held.box = shown;
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = css(held.colour);
    const name = element("button", { className: "name", title: `Go to ${mask.name}` }, mask.name);
    name.addEventListener("click", () => this.viewer.goTo(mask.centre));
    const size = element("span", { className: "size" }, mask.centre ? `${mask.millilitres.toFixed(1)} ml` : "empty");
    const opacity = element("input", {
      type: "range", min: 5, max: 100, value: 100 * held.opacity, "aria-label": `Opacity of ${mask.name}`,
    });
    opacity.addEventListener("input", () => {
      held.opacity = opacity.value / 100;
      if (held.shown) this.viewer.setOpacity(mask.id, held.opacity);
    });
    const file = element("a", { href: maskAddress(this.volume, mask.id), download: "", title: "Save as NIfTI" }, "save");
    return element("li", {}, shown, swatch, name, size, opacity, file);
  }

  show(held, shown) {
    held.shown = shown;
    held.box.checked = shown;
    this.viewer.setOpacity(held.mask.id, shown ? held.opacity : 0);
    this.refresh();
  }

  switchAll() {
    const show = ![...this.held.values()].some((held) => held.shown);
    for (const held of this.held.values()) this.show(held, show);
  }

  refresh() {
    const all = [...this.held.values()];
    byId("masks").hidden = all.length === 0;
    byId("all-masks").textContent = all.some((held) => held.shown) ? "Hide all" : "Show all";
  }

  named(id) {
    return this.held.get(id);
  }
}
