/** Colours of masks, the same as in the project's pictures: eight that stay apart, then hues around the circle. */

const FIXED = ["#e69f00", "#56b4e9", "#2ecc9b", "#f0e442", "#ff6b6b", "#cc79a7", "#7aa2ff", "#b3de69"];

/** [red, green, blue], 0 to 255, of the mask with this number. */
export function colourOf(number) {
  if (number < FIXED.length) {
    return [1, 3, 5].map((start) => parseInt(FIXED[number].slice(start, start + 2), 16));
  }
  const hue = ((0.33 + (number - FIXED.length) * 0.618034) % 1) * 6;
  const [most, least] = [255, 255 * 0.35];
  return [5, 3, 1].map((shift) => {
    const place = (shift + hue) % 6;
    return Math.round(most - (most - least) * Math.max(0, Math.min(place, 4 - place, 1)));
  });
}

export const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;
