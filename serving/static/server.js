/** What the page asks of its server; every failure is an Error with one line to show. */

import { element } from "./dom.js";

async function reason(response) {
  try {
    const { detail } = await response.json();
    return typeof detail === "string" ? detail : JSON.stringify(detail);
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached; is it still running?");
  }
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

const asJson = (method, body) => ({
  method, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
});

export const begin = async () => (await request("/api/session", { method: "POST" })).json();
export const endSession = () => request("/api/session", { method: "DELETE" });
export const openServed = async (name) => (await request("/api/served", asJson("POST", { name }))).json();
export const closeVolume = (volume) => request(`/api/volumes/${volume}`, { method: "DELETE" });
export const imageAddress = (volume) => `/api/volumes/${volume}/image.nii`;
export const maskAddress = (volume, mask) => `/api/volumes/${volume}/masks/${mask}.nii.gz`;

/** The voxels of a mask, a byte each, in the order of the CT that is shown. */
export async function maskVoxels(volume, mask) {
  const response = await request(`/api/volumes/${volume}/masks/${mask}/shown.nii.gz`);
  const unpacked = response.body.pipeThrough(new DecompressionStream("gzip"));
  const nifti = await new Response(unpacked).arrayBuffer();
  return new Uint8Array(nifti, new DataView(nifti).getFloat32(108, true)); // vox_offset
}

/** Fetch what is taken home and hand it to the browser's downloads; a refusal is an Error, which a plain link would hide. */
export async function download(address) {
  const response = await request(address);
  const [, name] = /filename="([^"]+)"/.exec(response.headers.get("content-disposition") ?? "") ?? [null, "ct"];
  const link = element("a", { href: URL.createObjectURL(await response.blob()), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Send files, each under its path; progress(share) is called on the way.  fetch tells nothing of uploads. */
export function upload(files, progress) {
  const form = new FormData();
  for (const { file, path } of files) form.append("files", file, path);
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open("POST", "/api/volumes");
    sending.responseType = "json";
    sending.upload.addEventListener("progress", (event) => progress(event.loaded / event.total));
    sending.addEventListener("error", () => reject(new Error("the upload was broken off; try again")));
    sending.addEventListener("load", () => {
      if (sending.status === 200) resolve(sending.response);
      else reject(new Error(sending.response?.detail ?? `the server answered ${sending.status}`));
    });
    sending.send(form);
  });
}

/** Ask; heard(event) is called with each event of the stream until its end.  Aborting the signal stops the answer. */
export async function ask(volume, question, signal, heard) {
  const response = await request(`/api/volumes/${volume}/questions`, { ...asJson("POST", question), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the connection broke before the answer was whole");
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const event = JSON.parse(part.slice(6));
      if (event.event === "end") {
        await reader.cancel();
        return;
      }
      heard(event);
    }
  }
}
