"use strict";

// Tables: a click on a column's head, or Enter and Space on it, sorts up, down, and back.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  if (original.length < 2) continue;
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const state = { none: "ascending", ascending: "descending", descending: "none" };
      const next = state[head.getAttribute("aria-sort") || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.setAttribute("aria-sort", next);
      const rows = next === "none" ? original : sortRows(original, column, next === "descending");
      body.append(...rows);
    });
  });
}

// What is missing comes last, whichever way a table is sorted.
function sortRows(rows, column, descending) {
  const keys = new Map(rows.map((row) => [row, readKey(row.cells[column])]));
  return [...rows].sort((one, two) => {
    const [a, b] = [keys.get(one), keys.get(two)];
    if (a === null || b === null) return (a === null) - (b === null);
    const order =
      typeof a === "number" && typeof b === "number"
        ? a - b
        : String(a).localeCompare(String(b), undefined, { numeric: true });
    return descending ? -order : order;
  });
}

function readKey(cell) {
  const value = "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
  if (value === "" || value === "-") return null;
  return Number.isNaN(Number(value)) ? value : Number(value);
}

// Tables that are wider than their box say so.
for (const box of document.querySelectorAll(".scroll")) {
  const update = () => {
    const rest = box.scrollWidth - box.clientWidth;
    box.classList.toggle("wide", rest > 1);
    box.classList.toggle("end", rest <= box.scrollLeft + 1);
    box.previousElementSibling.hidden = rest <= 1;
  };
  new ResizeObserver(update).observe(box);
  new ResizeObserver(update).observe(box.firstElementChild);
  box.addEventListener("scroll", update, { passive: true });
}

// The controls of a browser lie over the video and hide much of a flat one: these lie below it.
for (const video of document.querySelectorAll("video")) {
  const player = document.createElement("div");
  const [button, range, clock] = ["button", "input", "output"].map((n) => document.createElement(n));
  player.className = "player";
  button.type = "button";
  button.className = "zoom";
  range.type = "range";
  range.max = "1000";
  range.value = "0";
  range.setAttribute("aria-label", "Position in the video");
  const toggle = () => (video.paused ? video.play().catch(() => {}) : video.pause());
  const update = () => {
    const length = video.duration || 0;
    button.textContent = video.paused ? "Play" : "Pause";
    range.value = String(length ? Math.round((1000 * video.currentTime) / length) : 0);
    clock.textContent = `${video.currentTime.toFixed(1)} / ${length.toFixed(1)} s`;
  };
  button.addEventListener("click", toggle);
  video.addEventListener("click", toggle);
  range.addEventListener("input", () => {
    video.pause();
    video.currentTime = (Number(range.value) / 1000) * (video.duration || 0);
  });
  for (const event of ["play", "pause", "timeupdate", "seeked", "loadedmetadata"]) {
    video.addEventListener(event, update);
  }
  video.addEventListener("loadedmetadata", () => {
    video.parentElement.classList.toggle("wide", video.videoWidth > 900);
  });
  video.controls = false;
  player.append(button, range, clock);
  video.after(player);
  update();
}

// Videos play while they are seen, unless the reader wants no motion.
if (!matchMedia("(prefers-reduced-motion: reduce)").matches && "IntersectionObserver" in window) {
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) target.play().catch(() => {});
      else target.pause();
    }
  });
  document.querySelectorAll("video").forEach((video) => watch.observe(video));
}

// A link to a metric card unfolds what it is in.
function reveal() {
  const node = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = node; part; part = part.parentElement) {
    if (part.tagName === "DETAILS") part.open = true;
  }
  if (node) node.scrollIntoView();
}
addEventListener("hashchange", reveal);
if (location.hash) reveal();

// Pictures that are shown smaller than they are get a button for their full size.
for (const image of document.querySelectorAll(".frame img")) {
  const frame = image.parentElement;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "zoom";
  button.textContent = "Full size";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    const full = frame.classList.toggle("full");
    button.setAttribute("aria-pressed", String(full));
    if (full) frame.tabIndex = 0;
    else frame.removeAttribute("tabindex");
  });
  const update = () => {
    const shrunk = image.naturalWidth > image.clientWidth && image.clientWidth > 0;
    button.hidden = !shrunk && !frame.classList.contains("full");
  };
  frame.after(button);
  new ResizeObserver(update).observe(image);
}
