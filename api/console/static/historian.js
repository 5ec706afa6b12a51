// Counts what the stream brings while the page is open, and offers to load it; nothing moves under the reader.

const news = document.getElementById("news");
const link = news.querySelector("a");
let count = 0;

document.addEventListener("htmx:sse:before:message", (event) => {
  if (event.target !== news) return;
  event.preventDefault();
  event.detail.cancelled = true;
  count += 1;
  link.textContent = count === 1 ? "1 new entry" : `${count.toLocaleString("en")} new entries`;
  link.hidden = false;
});
