/**
 * Masks as label maps over the CT.  A label map shows any number of masks for the memory of one, with a colour and an
 * opacity each; a mask that overlaps others goes into the next map.
 */

const MOST_LABELS = 255;

export class Layers {
  /** makeMap(): a new label map over the CT, whose img has a byte a voxel, all 0. */
  constructor(makeMap) {
    this.makeMap = makeMap;
    this.maps = []; // { map, styles: label -> { colour, opacity } }
    this.places = new Map(); // id -> { layer, label }
  }

  /** Put a mask into the first map that has room for all of its voxels. */
  add(id, voxels, colour, opacity) {
    let layer = this.maps.find((each) => each.styles.size < MOST_LABELS && isFree(each.map.img, voxels));
    if (!layer) {
      layer = { map: this.makeMap(), styles: new Map() };
      this.maps.push(layer);
    }
    let label = 1;
    while (layer.styles.has(label)) label += 1;
    const target = layer.map.img;
    for (let index = 0; index < voxels.length; index += 1) if (voxels[index]) target[index] = label;
    this.places.set(id, { layer, label });
    layer.styles.set(label, { colour, opacity });
    this.paint(layer);
  }

  remove(id) {
    const { layer, label } = this.places.get(id);
    const target = layer.map.img;
    for (let index = 0; index < target.length; index += 1) if (target[index] === label) target[index] = 0;
    layer.styles.delete(label);
    this.places.delete(id);
    this.paint(layer);
  }

  /** Opacity from 0 to 1. */
  setOpacity(id, opacity) {
    const { layer, label } = this.places.get(id);
    layer.styles.get(label).opacity = opacity;
    this.paint(layer);
  }

  /** Ids of the masks at a voxel, which counts along the stored array. */
  at(index) {
    return [...this.places].filter(([, { layer, label }]) => layer.map.img[index] === label).map(([id]) => id);
  }

  paint({ map, styles }) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0] };
    for (const [label, { colour, opacity }] of [...styles].sort(([a], [b]) => a - b)) {
      table.R.push(colour[0]);
      table.G.push(colour[1]);
      table.B.push(colour[2]);
      table.A.push(Math.round(opacity * 255));
      table.I.push(label);
    }
    map.setColormapLabel(table);
  }
}

function isFree(labels, voxels) {
  for (let index = 0; index < voxels.length; index += 1) if (voxels[index] && labels[index]) return false;
  return true;
}
