// Follows a run of a paper: adds what it prints to the log, and loads what is marked data-live anew when it gets further.
// Without it the page says the same as of when it was loaded.

const follow = document.querySelector("[data-stream]");
const status = follow.querySelector("[role=status]");
const lines = document.getElementById(follow.dataset.lines);
const LAST = new Set(["run_complete", "run_error", "run_cancelled"]);
const MOST_LINES = 2000;
let seen = Number(follow.dataset.seen);
let waiting = 0;

const SAID = {
  stage_update: (told) => ["stage", [told.stage, told.reason].filter(Boolean).join(" ")],
  progress: (told) => ["done", `${told.percent ?? "?"} % ${told.msg ?? ""}`.trim()],
  metric_update: (told) => ["metric", `${told.metric} (${told.split}) = ${told.value}`],
  sample_pred: (told) => ["sample", told.text ?? ""],
  token: (told) => ["token", told],
  log_line: (told) => ["line", told],
};

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
}

function add(type, told) {
  const [kind, said] = SAID[type](told);
  const item = document.createElement("li");
  for (const text of [new Date().toISOString().slice(11, 19), kind, said]) {
    const part = document.createElement("span");
    part.textContent = text;
    item.append(part);
  }
  const box = lines.parentElement;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  lines.append(item);
  if (lines.childElementCount > MOST_LINES) lines.firstElementChild.remove();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

const source = new EventSource(follow.dataset.stream);
lines.parentElement.scrollTop = lines.parentElement.scrollHeight;
status.classList.add("ready");
for (const type of Object.keys(SAID)) {
  source.addEventListener(type, (message) => {
    if (Number(message.lastEventId) <= seen) return;
    seen = Number(message.lastEventId);
    const told = parsed(message.data);
    add(type, told);
    if (LAST.has(told.stage)) {
      source.close();
      status.textContent = "It has ended";
      refresh();
    } else if (type !== "log_line" && type !== "token") {
      waiting ||= setTimeout(refresh, 1000);
    }
  });
}
source.onerror = () => {
  status.textContent = source.readyState === EventSource.CLOSED ? "Load the page again to go on" : "Connecting again";
};
source.onopen = () => { status.textContent = "Follows along"; };
