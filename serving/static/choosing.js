/** Files of a CT: dropped, or picked; folders keep their paths. */

import { byId, element, tell } from "./dom.js";

/** chosen(files): [{ file, path }].  served: names of the CTs that the server offers; openServed(name). */
export function watchFiles(chosen) {
  for (const [button, input] of [["pick-file", "files"], ["drop-file", "files"], ["pick-folder", "folder"], ["drop-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
  }
  for (const id of ["files", "folder"]) {
    byId(id).addEventListener("change", (event) => {
      const files = [...event.target.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
      event.target.value = ""; // so that the same file can be chosen again
      if (files.length) chosen(files);
    });
  }
  const stopped = (event) => event.preventDefault();
  document.addEventListener("dragover", (event) => {
    stopped(event);
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", async (event) => {
    stopped(event);
    document.body.classList.remove("dragging");
    const dropped = [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    try {
      const files = entries.length ? (await Promise.all(entries.map((entry) => below(entry, "")))).flat() : dropped;
      if (files.length) chosen(files);
      else if (entries.length) tell("the folder holds no files");
    } catch (error) {
      tell(`what was dropped cannot be read (${error.message}); choose it by the button instead`);
    }
  });
}

export function listServed(names, open) {
  for (const id of ["served", "drop-served"]) {
    byId(id).replaceChildren(...names.map((name) => {
      const button = element("button", { title: name }, name);
      button.addEventListener("click", () => open(name));
      return button;
    }));
  }
}

async function below(entry, folder) {
  const path = folder + entry.name;
  if (entry.isFile) {
    return [{ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map((each) => below(each, `${path}/`)))).flat();
}
