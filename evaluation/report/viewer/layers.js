/**
 * Masks as label maps over the CT.  A label map shows many masks for the memory of one, in a colour each and with one
 * opacity for all.  So masks of one opacity share a map; one that overlaps others, or has another opacity, goes into
 * the next.
 */

const MOST_LABELS = 255;

export class Layers {
  /** makeMap(): a new label map over the CT, whose img has a byte a voxel, all 0. */
  constructor(makeMap) {
    this.makeMap = makeMap;
    this.layers = []; // { map, opacity, labels: label -> id }
    this.masks = new Map(); // id -> { places, colour, opacity, shown, layer, label }
  }

  /** voxels: a byte each, 0 outside of the mask.  opacity: from 0 to 1. */
  add(id, voxels, colour, opacity) {
    const places = [];
    for (let index = 0; index < voxels.length; index += 1) if (voxels[index]) places.push(index);
    this.masks.set(id, { places: Uint32Array.from(places), colour, opacity, shown: true });
    this.put(id);
  }

  remove(id) {
    this.takeOut(id);
    this.masks.delete(id);
  }

  /** 0 hides a mask. */
  setOpacity(id, opacity) {
    const mask = this.masks.get(id);
    mask.shown = opacity > 0;
    if (mask.shown && opacity !== mask.opacity) {
      mask.opacity = opacity;
      if (mask.layer.labels.size === 1) mask.layer.opacity = mask.layer.map.opacity = opacity;
      else {
        this.takeOut(id);
        this.put(id);
      }
    }
    this.paint(mask.layer);
  }

  /** Ids of the masks that are drawn at a voxel, which counts along the stored array. */
  at(index) {
    return [...this.masks].filter(([, { layer, label, shown }]) => shown && layer.map.img[index] === label).map(([id]) => id);
  }

  put(id) {
    const mask = this.masks.get(id);
    const suits = ({ map, opacity, labels }) => labels.size === 0 || (opacity === mask.opacity
      && labels.size < MOST_LABELS && mask.places.every((place) => map.img[place] === 0));
    let layer = this.layers.find(suits);
    if (!layer) {
      layer = { map: this.makeMap(), labels: new Map() };
      this.layers.push(layer);
    }
    layer.opacity = layer.map.opacity = mask.opacity;
    let label = 1;
    while (layer.labels.has(label)) label += 1;
    for (const place of mask.places) layer.map.img[place] = label;
    layer.labels.set(label, id);
    Object.assign(mask, { layer, label });
    this.paint(layer);
  }

  takeOut(id) {
    const { places, layer, label } = this.masks.get(id);
    for (const place of places) layer.map.img[place] = 0;
    layer.labels.delete(label);
    this.paint(layer);
  }

  paint({ map, labels }) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0] };
    for (const [label, id] of [...labels].sort(([a], [b]) => a - b)) {
      const { colour, shown } = this.masks.get(id);
      [table.R, table.G, table.B].forEach((channel, number) => channel.push(colour[number]));
      table.A.push(shown ? 255 : 0);
      table.I.push(label);
    }
    map.setColormapLabel(table);
  }
}
