/** One CT and its masks on a canvas: planes, 3D, window, crosshair.  NiiVue draws. */

import { Layers } from "./layers.js";

const { Niivue, NVImage, SLICE_TYPE, SHOW_RENDER, MULTIPLANAR_TYPE, DRAG_MODE } = globalThis.niivue;

export const VIEWS = {
  All: SLICE_TYPE.MULTIPLANAR,
  Axial: SLICE_TYPE.AXIAL,
  Coronal: SLICE_TYPE.CORONAL,
  Sagittal: SLICE_TYPE.SAGITTAL,
  "3D": SLICE_TYPE.RENDER,
};
const ACROSS = { All: 2, Axial: 2, Coronal: 1, Sagittal: 0, "3D": 2 }; // the axis of RAS that the arrow keys move along

/** The voxel of the stored array at a place, by Cramer's rule; affine: rows, from voxels to millimetres. */
function voxelAt(affine, mm) {
  const columns = [0, 1, 2].map((column) => [0, 1, 2].map((row) => affine[row][column]));
  const offset = mm.map((side, row) => side - affine[row][3]);
  const determinant = (a, b, c) => a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0])
    + a[2] * (b[0] * c[1] - b[1] * c[0]);
  const whole = determinant(...columns);
  return [0, 1, 2].map((axis) => Math.round(determinant(...columns.map((each, k) => (k === axis ? offset : each))) / whole));
}

export class Viewer {
  /** onPlace({ mm, value, masks }) is called when the crosshair moves. */
  constructor(canvas, onPlace) {
    this.canvas = canvas;
    this.onPlace = onPlace;
    this.view = "All";
    this.layers = null;
    this.drawing = false;
    this.niivue = new Niivue({
      dragAndDropEnabled: false, // files go to the server
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      multiplanarShowRender: SHOW_RENDER.ALWAYS,
      multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      dragMode: DRAG_MODE.contrast,
      crosshairColor: [0.38, 0.72, 0.85, 0.6],
      crosshairWidth: 0.3,
      crosshairWidthUnit: "percent",
      fontMinPx: 17,
      show3Dcrosshair: true,
      backColor: [0, 0, 0, 1],
      loadingText: "",
      viewModeHotKey: "",
      clipPlaneHotKey: "",
      logLevel: "error",
    });
    this.niivue.onLocationChange = (place) => this.tellPlace(place);
  }

  async start() {
    await this.niivue.attachToCanvas(this.canvas);
  }

  /** Show a CT from an address, with a window [lowest, highest]. */
  async show(address, window) {
    this.clear();
    await this.niivue.loadVolumes([{ url: address, name: "image.nii", colormap: "gray" }]);
    this.layers = new Layers(() => this.newMap());
    this.setWindow(window);
    this.setView(this.view);
    this.niivue.createOnLocationChange();
  }

  clear() {
    for (const volume of [...this.niivue.volumes]) this.niivue.removeVolume(volume);
    this.layers = null;
  }

  setView(view) {
    this.view = view;
    this.niivue.setSliceType(VIEWS[view]);
  }

  setWindow([lowest, highest]) {
    const [image] = this.niivue.volumes;
    if (!image) return;
    image.cal_min = lowest;
    image.cal_max = highest;
    this.niivue.updateGLVolume();
  }

  get window() {
    const [image] = this.niivue.volumes;
    return image ? [image.cal_min, image.cal_max] : null;
  }

  addMask(id, voxels, colour, opacity) {
    this.layers.add(id, voxels, colour, opacity);
    this.redrawSoon();
  }

  removeMask(id) {
    this.layers.remove(id);
    this.redrawSoon();
  }

  setOpacity(id, opacity) {
    this.layers.setOpacity(id, opacity);
    this.redrawSoon();
  }

  /** Move the crosshair by slices of the plane in view: up is towards head, front or the patient's right. */
  step(count) {
    if (!this.layers) return;
    const move = [0, 0, 0];
    move[ACROSS[this.view]] = count;
    this.niivue.moveCrosshairInVox(...move);
  }

  /** Put the crosshair on a voxel of the stored array. */
  goTo(voxel) {
    const [image] = this.niivue.volumes;
    if (!image || !voxel) return;
    const rows = image.hdr.affine;
    const mm = rows.slice(0, 3).map((row) => row[0] * voxel[0] + row[1] * voxel[1] + row[2] * voxel[2] + row[3]);
    this.niivue.scene.crosshairPos = this.niivue.mm2frac(mm);
    this.niivue.createOnLocationChange();
    this.niivue.drawScene();
  }

  newMap() {
    const map = NVImage.zerosLike(this.niivue.volumes[0], "uint8");
    map.name = "masks";
    map.opacity = 1;
    map.setColormapLabel({ R: [0], G: [0], B: [0], A: [0], I: [0] });
    this.niivue.addVolume(map);
    return map;
  }

  /** Several changes of masks are drawn at once. */
  redrawSoon() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.niivue.updateGLVolume();
      this.niivue.createOnLocationChange(); // which masks are under the crosshair may have changed
    });
  }

  tellPlace(place) {
    const [image] = this.niivue.volumes;
    if (!image || !this.layers) return;
    const mm = Array.from(place.mm).slice(0, 3);
    const [x, y, z] = voxelAt(image.hdr.affine, mm);
    const [, width, height] = image.hdr.dims;
    this.onPlace({ mm, value: place.values[0]?.value, masks: this.layers.at(x + width * (y + height * z)) });
  }
}
