/** Questions and answers beside the CT: words as they come, masks to click on, confidences as bars. */

import { byId, element } from "./dom.js";

const TOKEN = /<(?:SEG|disease_confidence|binary_answer|multiple_choice|report_generation|segmentation|diagnosis)>/g;
const TITLES = { report: "Report", diagnosis: "Diagnosis", organs: "All organs" };

/** Words without the model's special tokens. */
export const readable = (text) => text.replaceAll(TOKEN, "").replace(/ +([.,])/g, "$1").replace(/ {2,}/g, " ");

export class Turn {
  /** onMask(id) is called when the chip of a mask is clicked. */
  constructor(kind, question, onMask) {
    this.onMask = onMask;
    this.text = "";
    this.masks = [];
    this.state = element("p", { className: "state" }, "…");
    this.words = element("p");
    this.chips = element("div");
    this.bars = element("div", { className: "bars", hidden: true });
    this.notes = element("div");
    const answer = element("div", { className: "answered" }, this.state, this.words, this.chips, this.bars, this.notes);
    const asked = element("div", { className: "asked" }, TITLES[kind] ?? question);
    this.element = element("div", { className: "turn" }, asked, answer);
  }

  tell(state) {
    this.state.textContent = state;
    this.state.hidden = !state;
  }

  write(text) {
    this.text += text;
    this.words.textContent = readable(this.text);
  }

  /** A mask to click on; undefined stands for one that a newer of its name has replaced. */
  addMask(mask) {
    this.masks.push(mask);
    this.chips.append(this.chip(mask));
  }

  chip(mask) {
    if (!mask) return element("span", { className: "muted" }, "(a mask, drawn anew since)");
    const chip = element("button", { className: "chip", title: `Go to ${mask.name}` }, mask.name);
    chip.addEventListener("click", () => this.onMask(mask));
    return chip;
  }

  /** The whole answer, which stands in place of its pieces. */
  finish(answer) {
    this.tell("");
    const pieces = answer.answer.split("<SEG>");
    this.words.replaceChildren(readable(pieces[0]));
    if (pieces.length - 1 === this.masks.length) { // each stands where the model put it
      pieces.slice(1).forEach((piece, number) => this.words.append(this.chip(this.masks[number]), readable(piece)));
      this.chips.replaceChildren();
    } else this.words.textContent = readable(answer.answer);
    if (!answer.answer && !answer.masks.length) this.tell("(no words)");
    const rows = Object.entries(answer.confidences).sort(([, a], [, b]) => b - a);
    this.bars.hidden = rows.length === 0;
    this.bars.replaceChildren(...rows.map(([disease, share]) => element("div", {},
      element("span", {}, disease),
      element("meter", { min: 0, max: 1, value: share, "aria-label": disease }),
      element("span", {}, `${(100 * share).toFixed(1)} %`))));
    this.notes.replaceChildren(...answer.notes.map((note) => element("p", { className: "state" }, note)));
    this.element.title = `${answer.seconds} s`;
  }

  fail(message) {
    this.tell(message);
    this.state.classList.add("bad");
  }
}

/** Put a turn at the end, and look at it unless the reader has scrolled up. */
export function append(turn) {
  byId("turns").querySelector(".hint")?.remove();
  byId("turns").append(turn.element);
  follow(true);
}

export function follow(always = false) {
  const turns = byId("turns");
  const near = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 120;
  if (always || near) turns.scrollTop = turns.scrollHeight;
}

export function clear() {
  byId("turns").replaceChildren(element("p", { className: "hint" },
    "Open a CT, then ask: Where is the liver? Is there a pleural effusion? Or press a button below."));
}
