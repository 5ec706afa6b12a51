// Numbers the lines of the editor, marks those that are wrong, and leads from what is wrong to its place. Without it
// the list of what is wrong quotes each line.

const areas = document.querySelectorAll(".source textarea");

function draw(area) {
  const gutter = area.previousElementSibling;
  const wrong = new Set();
  for (const link of document.querySelectorAll(`#checked a[data-line][data-text="${area.name}"]`)) {
    wrong.add(Number(link.dataset.line));
  }
  const lines = area.value.split("\n").length;
  gutter.replaceChildren(...Array.from({ length: lines }, (_, at) => {
    const number = document.createElement("span");
    number.textContent = at + 1;
    if (wrong.has(at + 1)) number.className = "wrong";
    return number;
  }));
  area.toggleAttribute("aria-invalid", wrong.size > 0);
  if (wrong.size > 0) area.setAttribute("aria-invalid", "true");
  gutter.scrollTop = area.scrollTop;
}

function lead(area, line, column) {
  const lines = area.value.split("\n");
  const at = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0) + column - 1;
  area.focus();
  area.setSelectionRange(at, at);
  area.scrollTop = Math.max(0, (line - 6) * parseFloat(getComputedStyle(area).lineHeight));
}

for (const area of areas) {
  const gutter = document.createElement("div");
  gutter.className = "gutter";
  gutter.setAttribute("aria-hidden", "true");
  area.before(gutter);
  area.addEventListener("input", () => draw(area));
  area.addEventListener("scroll", () => { gutter.scrollTop = area.scrollTop; });
  draw(area);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-line]");
  if (!link) return;
  event.preventDefault();
  lead(document.getElementById(`text-${link.dataset.text}`), Number(link.dataset.line), Number(link.dataset.column));
});

document.addEventListener("htmx:after:swap", () => areas.forEach(draw));
