// Asks an agent and shows the answer as it comes. A connection that breaks is taken up again where it was, and Stop
// cancels the call; a call that is not kept ends with its connection instead. Without it the form is sent as a page.

const chat = document.querySelector("[data-chat]");
const form = chat.querySelector("form");
const turns = chat.querySelector(".turns");
const stop = chat.querySelector("[data-stop]");
const ENDS = new Set(["done", "error", "cancelled"]);
const ATTEMPTS = 5;
let running = null;

const says = (name, text) => { chat.querySelector(`[data-says="${name}"]`).textContent = text; };

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function turn(kind, text) {
  const item = element("li", `turn ${kind}`);
  item.append(element("p", "", text));
  turns.append(item);
  item.scrollIntoView({ block: "nearest" });
  return item;
}

async function* events(response) {
  let rest = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    rest += chunk;
    const frames = rest.split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const event = {};
      for (const line of frame.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) event[line.slice(0, at)] = line.slice(at + 2);
      }
      if (event.event) yield { id: Number(event.id), kind: event.event, data: JSON.parse(event.data) };
    }
  }
}

function post(path, body, signal) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": chat.dataset.token };
  return fetch(path, { method: "POST", headers, body: body && JSON.stringify(body), signal });
}

async function refused(response) {
  const problem = await response.json();
  return `${problem.detail}${problem.hint ? ` ${problem.hint}` : ""}`;
}

function cite(call, citations) {
  if (!citations.length) return;
  const list = element("ol", "citations");
  for (const one of citations) {
    const item = element("li");
    const link = element("a", "", one.title || one.uri);
    link.href = `/search/documents/${one.document_id}?start=${one.start}&end=${one.end}`;
    item.append(link);
    if (one.page_first) item.append(` page ${one.page_first}`);
    list.append(item);
  }
  call.item.append(list);
}

function draw(call) {
  call.drawing = 0;
  call.text.textContent = call.tokens.map(([, text]) => text).join("");
  call.item.scrollIntoView({ block: "nearest" });
}

function take(call, { id, kind, data }) {
  call.seen = id;
  if (kind === "start") {
    call.job = data.job_id;
    says("job_id", data.job_id || "none: it is not kept");
    says("request_id", data.request_id);
    says("state", `${data.agent.title} answers`);
  } else if (kind === "token") {
    call.tokens.push([id, data.text]);
    call.drawing ||= requestAnimationFrame(() => draw(call));
  } else if (kind === "restarted") {
    call.tokens = call.tokens.filter(([token]) => token < data.void_from);
    call.item.append(element("span", "used", `${data.provider} failed; another one answers anew.`));
    draw(call);
  } else if (kind === "tool_called") {
    call.item.append(element("span", "used", `Uses ${data.tool} …`));
  } else if (kind === "tool_answered") {
    call.item.lastElementChild.textContent = `Used ${data.tool}${data.ok ? "" : `: ${data.code}`}`;
  } else if (ENDS.has(kind)) {
    call.ended = true;
    draw(call);
    if (kind === "done") {
      cite(call, data.citations);
      const cost = data.cost === null ? ", cost unknown" : `, US$ ${Number(data.cost).toFixed(6)}`;
      says("model", `${data.model} (${data.provider}), ${data.usage.tokens_in} + ${data.usage.tokens_out} tokens${cost}`);
      says("state", "answered");
    } else {
      call.item.classList.add("failed");
      says("state", kind === "cancelled" ? "cancelled" : data.message);
    }
  }
}

async function follow(call, response) {
  for (let attempt = 0; !call.ended; attempt += 1) {
    try {
      for await (const event of events(response)) {
        attempt = 0;
        take(call, event);
      }
    } catch (error) {
      if (call.abort.signal.aborted) throw error;
    }
    if (call.ended) return;
    if (!call.job || attempt >= ATTEMPTS) throw new Error("The connection broke off.");
    says("state", "connecting again");
    await new Promise((done) => { setTimeout(done, 200 * 2 ** attempt); });
    response = await fetch(`/api/v1/agents/${call.agent}/calls/${call.job}/events`, {
      headers: { "Last-Event-ID": String(call.seen) }, signal: call.abort.signal,
    });
  }
}

async function ask() {
  const fields = new FormData(form);
  const asked = String(fields.get("input"));
  turn("asked", asked);
  const item = turn("answered", "");
  const call = {
    agent: fields.get("agent") || chat.dataset.agent, item, text: item.firstElementChild,
    tokens: [], seen: 0, job: null, ended: false, drawing: 0, abort: new AbortController(),
  };
  running = call;
  stop.disabled = false;
  says("state", "asking");
  const body = { input: asked, stream: true };
  if (fields.get("role")) body.role = fields.get("role");
  if (!("unlogged" in chat.dataset) && !fields.get("memory")) body.memory_state = "off";
  try {
    const response = await post(`/api/v1/agents/${call.agent}`, body, call.abort.signal);
    says("request_id", response.headers.get("X-Request-ID"));
    if (response.ok) {
      form.elements.input.value = "";
      await follow(call, response);
    } else {
      throw new Error(await refused(response));
    }
  } catch (error) {
    item.classList.add("failed");
    says("state", call.abort.signal.aborted ? "stopped" : error.message);
  } finally {
    running = null;
    stop.disabled = true;
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) ask();
});

stop.addEventListener("click", async () => {
  const call = running;
  if (!call) return;
  if (call.job) await post(`/api/v1/agents/${call.agent}/calls/${call.job}/cancel`);
  else call.abort.abort();
});

stop.classList.add("ready");
form.elements.input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
