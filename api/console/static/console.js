// What plain HTML cannot do: copying to the clipboard, and taking two clicks for one. Every page works without this
// module.

function equip(root) {
  for (const button of root.querySelectorAll("button[data-copy]:not(.ready)")) {
    button.classList.add("ready");
    button.addEventListener("click", async () => {
      const label = button.textContent;
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post") return;
  if (form.classList.contains("sent")) event.preventDefault();
  form.classList.add("sent");
  setTimeout(() => form.classList.remove("sent"), 3000);
});

equip(document);
document.addEventListener("htmx:after:swap", () => equip(document));
