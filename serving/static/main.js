/** The page: which CT is in view, what is asked about it, and which part is told of what. */

import { append, clear, follow, Turn } from "./chat.js";
import { listServed, watchFiles } from "./choosing.js";
import { byId, element, tell } from "./dom.js";
import { MaskList } from "./masks.js";
import * as server from "./server.js";
import { Viewer, VIEWS } from "/static/viewer/viewer.js";

const PRESETS = { lung: "Lung", abdomen: "Soft tissue", bone: "Bone", brain: "Brain", mediastinum: "Mediastinum" };
const PHONE = "(max-width: 820px)";

const volumes = new Map(); // id -> what the server told of it
let offered = null; // what the server offers
let current = null; // the id of the CT in view
let asking = null; // the controller that stops the question under way

const viewer = new Viewer(byId("canvas"), showPlace);
const masks = new MaskList(viewer);

function showPlace({ mm, value, masks: ids }) {
  const unit = volumes.get(current)?.in_hu ? " HU" : "";
  const [x, y, z] = mm.map((side) => side.toFixed(1));
  const names = ids.map((id) => masks.named(id)).filter((held) => held?.shown).map((held) => held.mask.name);
  const number = value === undefined ? "" : `${Math.round(value * 100) / 100}${unit}  ·  `;
  byId("place").textContent = `${number}R ${x}  A ${y}  S ${z} mm${names.length ? `  ·  ${names.join(", ")}` : ""}`;
}

function busy(words, share = null) {
  byId("loading").hidden = !words;
  byId("loading").querySelector("span").textContent = words;
  const progress = byId("loading").querySelector("progress");
  if (share === null) progress.removeAttribute("value");
  else progress.value = share;
}

/** Run what may fail, and tell why it did. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    tell(error.message);
  } finally {
    busy("");
  }
}

async function show(id) {
  current = id;
  const volume = volumes.get(id);
  byId("drop").hidden = Boolean(volume);
  byId("toolbar").hidden = byId("close-volume").hidden = !volume;
  byId("volumes").hidden = volumes.size < 1;
  byId("volumes").replaceChildren(...[...volumes.values()].map((each) => element("option", { value: each.id }, each.name)));
  masks.begin(null);
  clear();
  listExports(volume);
  enable();
  byId("place").textContent = "\u00a0";
  if (!volume) return viewer.clear();
  byId("volumes").value = id;
  busy(`Reading ${volume.name}`);
  await viewer.show(server.imageAddress(id), volume.window);
  if (current !== id) return; // another was chosen meanwhile
  masks.begin(id);
  markWindow();
  for (const note of volume.notes) tell(note, true);
  const byMask = new Map(volume.masks.map((mask) => [mask.id, mask]));
  for (const asked of volume.asked) {
    const turn = newTurn(asked.kind, asked.question);
    for (const mask of asked.masks) turn.addMask(byMask.get(mask));
    turn.finish(asked);
  }
  for (const mask of volume.masks) masks.add(id, mask);
}

function newTurn(kind, question) {
  const turn = new Turn(kind, question, (mask) => viewer.goTo(mask.centre));
  append(turn);
  return turn;
}

async function take(opened) {
  for (const volume of opened) volumes.set(volume.id, volume);
  await show(opened.at(-1).id);
}

const send = (files) => attempt(async () => {
  byId("open-menu").open = false;
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes > offered.most_bytes) {
    throw new Error(`${(bytes / 1e9).toFixed(1)} GB: this server takes ${offered.most_bytes / 1e9} GB at once`);
  }
  const name = files[0].path.split("/")[0];
  const told = await server.upload(files, (share) => busy(share < 1 ? `Sending ${name}` : `Opening ${name}`, share < 1 ? share : null));
  for (const line of told.refused) tell(line);
  await take(told.volumes);
});

const openServed = (name) => attempt(async () => {
  byId("open-menu").open = false;
  busy(`Opening ${name}`);
  await take([await server.openServed(name)]);
});

async function ask(question) {
  const id = current;
  const volume = volumes.get(id);
  const turn = newTurn(question.kind, question.question);
  asking = new AbortController();
  enable();
  const heard = (event) => {
    if (event.event === "queued") turn.tell(event.before ? `${event.before} before you in the queue` : "Waiting");
    else if (event.event === "started") turn.tell("Looking at the CT");
    else if (event.event === "text") { turn.tell(""); turn.write(event.text); }
    else if (event.event === "mask") {
      turn.tell("");
      turn.addMask(event);
      volume.masks = [...volume.masks.filter((mask) => mask.name !== event.name), event];
      masks.add(id, event);
    } else if (event.event === "answer") { turn.finish(event); volume.asked.push(event); }
    else if (event.event === "error") turn.fail(event.message);
    follow();
  };
  try {
    await server.ask(id, question, asking.signal, heard);
  } catch (error) {
    turn.fail(error.name === "AbortError" ? "Stopped" : error.message);
  } finally {
    asking = null;
    enable();
    listExports(volumes.get(current));
  }
}

function enable() {
  const idle = Boolean(current) && !asking;
  for (const button of byId("quick").querySelectorAll("button")) button.disabled = !idle;
  const [organs] = byId("quick").querySelectorAll("[data-kind=organs]");
  if (offered && !offered.labels.length) {
    organs.disabled = true;
    organs.title = "The checkpoint does not tell which structures it was trained on";
  }
  byId("send").disabled = !idle;
  byId("send").hidden = Boolean(asking);
  byId("stop").hidden = !asking;
}

function listExports(volume) {
  const link = (address, words) => {
    const made = element("a", { href: address, download: "" }, words);
    made.addEventListener("click", (event) => {
      event.preventDefault();
      attempt(async () => { busy(`Making: ${words}`); await server.download(address); });
    });
    return made;
  };
  const links = [];
  if (volume) {
    links.push(link(`/api/volumes/${volume.id}/report.html`, "Report of this CT (HTML)"));
    for (const [key, title] of volume.masks.length ? Object.entries(volume.formats) : []) {
      links.push(link(`/api/volumes/${volume.id}/masks?file_format=${encodeURIComponent(key)}`, `Masks (${title})`));
    }
    const found = volume.masks.length || volume.asked.some(({ confidences }) => Object.keys(confidences).length);
    for (const [key, title] of found ? Object.entries(volume.findings_formats) : []) {
      links.push(link(`/api/volumes/${volume.id}/findings?file_format=${encodeURIComponent(key)}`, title));
    }
  }
  links.push(link("/api/session.zip", "Session (all CTs, without their voxels)"));
  byId("exports").replaceChildren(...links);
}

function markWindow() {
  const now = String(viewer.window);
  for (const button of byId("windows").children) button.setAttribute("aria-pressed", button.dataset.range === now);
}

function setView(view) {
  viewer.setView(view);
  for (const button of byId("views").children) button.setAttribute("aria-pressed", button.textContent === view);
}

function makeButtons() {
  byId("views").replaceChildren(...Object.keys(VIEWS).map((view) => {
    const button = element("button", {}, view);
    button.addEventListener("click", () => setView(view));
    return button;
  }));
  byId("windows").replaceChildren(...Object.entries(PRESETS).map(([name, title]) => {
    const [centre, width] = offered.windows[name];
    const range = [centre - width / 2, centre + width / 2];
    const button = element("button", { title: `${range[0]} to ${range[1]} HU` }, title);
    button.dataset.range = String(range);
    button.addEventListener("click", () => { viewer.setWindow(range); markWindow(); });
    return button;
  }));
  byId("label-set").replaceChildren(...offered.label_sets.map((name) => element("option", {}, name)));
  byId("label-set").value = "CT-RATE";
}

function onKey(event) {
  if (event.target.closest?.("textarea, select, input:not([type=checkbox])") || event.ctrlKey || event.metaKey || event.altKey) return;
  const views = Object.keys(VIEWS);
  const steps = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
  if (event.key in steps && current) viewer.step(steps[event.key] * (event.shiftKey ? 10 : 1));
  else if (event.key >= "1" && event.key <= String(views.length) && current) setView(views[event.key - 1]);
  else if (event.key === "m") masks.switchAll();
  else if (event.key === "/") byId("question").focus();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function wire() {
  watchFiles(send);
  byId("volumes").addEventListener("change", (event) => attempt(() => show(event.target.value)));
  byId("close-volume").addEventListener("click", () => attempt(async () => {
    byId("close-menu").open = false;
    asking?.abort();
    await server.closeVolume(current);
    volumes.delete(current);
    await show([...volumes.keys()].at(-1) ?? null);
  }));
  byId("end-session").addEventListener("click", () => attempt(async () => {
    asking?.abort();
    await server.endSession();
    location.reload();
  }));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = byId("question").value.trim();
    if (!question || !current || asking) return;
    byId("question").value = "";
    ask({ kind: "question", question, remember: byId("remember").checked, label_set: byId("label-set").value });
  });
  byId("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("ask").requestSubmit();
    } else if (event.key === "Escape") byId("canvas").focus();
  });
  byId("stop").addEventListener("click", () => asking?.abort());
  for (const button of byId("quick").querySelectorAll("button")) {
    button.addEventListener("click", () => ask({ kind: button.dataset.kind, question: "", label_set: byId("label-set").value }));
  }
  document.addEventListener("keydown", onKey, true);
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });
}

await attempt(async () => {
  offered = await server.begin();
  byId("checkpoint").textContent = offered.checkpoint;
  byId("checkpoint").title = offered.checkpoint;
  makeButtons();
  listServed(offered.served, openServed);
  wire();
  await viewer.start();
  setView(matchMedia(PHONE).matches ? "Axial" : "All");
  for (const volume of offered.volumes) volumes.set(volume.id, volume);
  await show([...volumes.keys()].at(-1) ?? null);
});
