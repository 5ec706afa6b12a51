// Follows a stream of the API: what is marked data-live is loaded anew, and lines of a log are added as they come.
// Without it the page says the same as of when it was loaded.

const follow = document.querySelector("[data-stream]");
const status = follow.querySelector("[role=status]");
const lines = document.getElementById(follow.dataset.lines);
const FINAL = new Set(["done", "error", "cancelled"]);
const MOST_LINES = 2000;
let waiting = 0;

async function refresh() {
  waiting = 0;
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const place of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(place.id);
    // Nothing is taken away from under somebody who is reading or pressing it.
    if (!other || place.innerHTML === other.innerHTML || place.contains(document.activeElement)) continue;
    const open = [...place.querySelectorAll("details")].map((one) => one.open);
    place.innerHTML = other.innerHTML;
    place.querySelectorAll("details").forEach((one, number) => { one.open = open[number] ?? one.open; });
  }
  document.dispatchEvent(new Event("stemma:refreshed"));
}

function refreshSoon(milliseconds = 250) {
  waiting ||= setTimeout(refresh, milliseconds);
}

function add(line) {
  const item = document.createElement("li");
  item.className = line.level.toLowerCase();
  const time = document.createElement("time");
  time.dateTime = line.at;
  time.textContent = new Date(line.at).toISOString().slice(11, 19);
  const level = document.createElement("span");
  level.textContent = line.level;
  const said = document.createElement("span");
  if (line.step) {
    const step = document.createElement("b");
    step.textContent = line.step;
    said.append(step, " ");
  }
  said.append(line.message);
  item.append(time, level, said);
  const box = lines.parentElement;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  lines.append(item);
  if (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function end(said) {
  source.close();
  status.textContent = said;
  // What could not be drawn before there was something needs the whole page.
  if (document.querySelector("[data-reload]")) location.reload();
  else refreshSoon();
}

const source = new EventSource(follow.dataset.stream);
const seen = Number(follow.dataset.seen);
if (lines) lines.parentElement.scrollTop = lines.parentElement.scrollHeight;
status.classList.add("ready");
source.onmessage = (message) => {
  if (Number(message.lastEventId) <= seen) return;
  const event = JSON.parse(message.data);
  if (lines) add(event);
  if (FINAL.has(event.kind)) end("It has ended");
  else refreshSoon(lines ? 1500 : 250);
};
source.addEventListener("end", () => end("It has ended"));
source.onerror = () => {
  status.textContent = source.readyState === EventSource.CLOSED ? "Load the page again to go on" : "Connecting again";
};
source.onopen = () => { status.textContent = "Follows along"; };
