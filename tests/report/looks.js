// What is wrong with the page as it is shown now: a list of sentences, empty if nothing is.
const wrong = [];
const root = document.documentElement;
const say = (element, what) => {
  const text = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60);
  wrong.push(`${element.tagName.toLowerCase()}.${element.getAttribute("class") || ""} "${text}": ${what}`);
};
const style = (element) => getComputedStyle(element);
const scrolls = (element) => ["auto", "scroll"].includes(style(element).overflowX);
const inScrollBox = (element) => {
  for (let at = element; at && at !== root; at = at.parentElement) if (scrolls(at)) return true;
  return false;
};
const isShown = (element) => element.checkVisibility() && element.getBoundingClientRect().height > 0;
const ownTexts = (element) => [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
const within = (inner, outer, room) =>
  inner.left >= outer.left - room && inner.right <= outer.right + room &&
  inner.top >= outer.top - room && inner.bottom <= outer.bottom + room;

// Widths: the page does not scroll sideways, nothing is cut off, and every text stays in its box.
if (root.scrollWidth > root.clientWidth) wrong.push(`the page is ${root.scrollWidth} wide in ${root.clientWidth}`);
for (const element of document.body.querySelectorAll("*:not(svg *)")) {
  if (!isShown(element) || scrolls(element)) continue;
  if (element.clientWidth && element.scrollWidth > element.clientWidth + 1) say(element, "wider than its box");
  const box = element.getBoundingClientRect();
  if (!inScrollBox(element) && (box.left < -1 || box.right > root.clientWidth + 1)) say(element, "off the page");
  if (style(element).display === "inline") continue;
  for (const node of ownTexts(element)) {
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const of of range.getClientRects()) if (!within(of, box, 2)) say(element, "its text is outside of it");
  }
}

// A table says that it scrolls if, and only if, it does.
for (const box of document.querySelectorAll(".wide")) {
  const says = parseFloat(getComputedStyle(box, "::before").height) > 0;
  const does = scrolls(box) && box.scrollWidth > box.clientWidth;
  if (says !== does) say(box, says ? "says that it scrolls" : "does not say that it scrolls");
}

// Charts: marks of some size inside the viewBox, no two texts over each other, none outside.
for (const svg of document.querySelectorAll("svg")) {
  if (!isShown(svg)) continue;
  const view = svg.viewBox.baseVal;
  const frame = { left: view.x, top: view.y, right: view.x + view.width, bottom: view.y + view.height };
  const marks = [...svg.querySelectorAll("rect, polyline, path")].filter((mark) => mark.getAttribute("d") !== "");
  if (!marks.length) say(svg, "draws nothing");
  let extent = 0;
  for (const mark of marks) {
    const { x, y, width, height } = mark.getBBox();
    extent = Math.max(extent, width + height);
    if (![x, y, width, height].every(Number.isFinite)) say(mark, "is nowhere");
    if (!within({ left: x, top: y, right: x + width, bottom: y + height }, frame, 0.5)) say(mark, "outside the chart");
  }
  if (!(extent > 0)) say(svg, "draws points only in one place");
  const texts = [...svg.querySelectorAll("text")].map((text) => [text, text.getBoundingClientRect()]);
  const box = svg.getBoundingClientRect();
  texts.forEach(([text, rect], position) => {
    if (!within(rect, box, 12)) say(text, "outside its chart");
    for (const [other, at] of texts.slice(position + 1)) {
      const across = Math.min(rect.right, at.right) - Math.max(rect.left, at.left);
      const down = Math.min(rect.bottom, at.bottom) - Math.max(rect.top, at.top);
      if (across > 1 && down > 3) say(text, `over "${other.textContent}"`);
    }
  });
}

// Sections: a heading, and something below it.
for (const section of document.querySelectorAll("section")) {
  const heading = section.querySelector("h2");
  const below = [...section.children].filter((child) => child !== heading && isShown(child));
  if (!heading || !below.length || !below.some((child) => child.textContent.trim())) say(section, "an empty section");
  for (const box of section.querySelectorAll(".pair > *, .bars, .lists > *, ol, dl, tbody"))
    if (isShown(section) && !box.textContent.trim() && !box.querySelector("svg")) say(box, "an empty part");
}
for (const link of document.querySelectorAll("a[href^='#']"))
  if (!document.querySelector(link.getAttribute("href"))) say(link, "leads nowhere");

// Contrast (WCAG 2.2): 4.5 for text, 3 for large text and for what charts are made of.
const channels = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = (color) => {
  const [red, green, blue] = channels(color).slice(0, 3).map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = style(at).backgroundColor;
    if ((channels(color)[3] ?? 1) === 1) return color;
  }
  return "rgb(255, 255, 255)";
};
const check = (element, color, least, ground = element) => {
  const [one, other] = [luminance(color), luminance(behind(ground))];
  const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (ratio < least) say(element, `contrast ${ratio.toFixed(2)} of ${color}, not ${least}`);
};
for (const element of document.body.querySelectorAll("*")) {
  if (!isShown(element)) continue;
  const size = parseFloat(style(element).fontSize);
  const isLarge = size >= 24 || (size >= 18.66 && Number(style(element).fontWeight) >= 700);
  if (ownTexts(element).length) check(element, element.closest("svg") ? style(element).fill : style(element).color, isLarge ? 3 : 4.5);
  if (element.matches("svg rect"))
    check(element, style(element).stroke === "none" ? style(element).fill : style(element).stroke, 3);
  if (element.matches("svg polyline, svg .points, svg .dots")) check(element, style(element).stroke, 3);
  if (element.matches(".legend i, .edge")) {
    const { borderTopWidth, borderTopColor, backgroundColor } = style(element);
    check(element, parseFloat(borderTopWidth) ? borderTopColor : backgroundColor, 3, element.parentElement);
  }
}
return wrong;
