// Sends the PDF of a form and shows how far it is; what is wrong with it is said in the form. Without it, and for an
// address, the form is sent as a page.

const form = document.querySelector("[data-upload]");
const progress = form.querySelector("progress");
const says = form.querySelector("[role=status]");
const wrong = form.querySelector("[role=alert]");
const button = form.querySelector("button[type=submit]");

function told(title, hint) {
  wrong.replaceChildren();
  for (const [name, text] of [["strong", title], ["span", hint]]) {
    if (!text) continue;
    const part = document.createElement(name);
    part.textContent = text;
    wrong.append(part);
  }
  wrong.hidden = !title;
}

function rest(title, hint) {
  told(title, hint);
  progress.hidden = true;
  says.textContent = "";
  button.disabled = false;
  form.classList.remove("sent");
}

function answered(request) {
  let answer = {};
  try {
    answer = JSON.parse(request.responseText);
  } catch { /* What is no JSON says nothing. */ }
  if (request.status < 300 && answer.id) location.assign(`/papers/${answer.id}`);
  else rest(answer.detail || `The studio answered with ${request.status}.`, answer.hint || "");
}

form.addEventListener("submit", (event) => {
  const file = form.elements.file.files[0];
  if (!file || form.elements.url.value.trim()) return;
  event.preventDefault();
  if (button.disabled) return;
  const most = Number(form.dataset.upload);
  if (file.size > most) {
    rest("The file is larger than what is taken in.", "Choose a smaller one, or raise STEMMA_MAX_DOCUMENT_BYTES.");
    return;
  }
  told("", "");
  button.disabled = true;
  progress.hidden = false;
  progress.value = 0;
  says.textContent = "Sending it";
  const body = new FormData();
  body.append("file", file);
  if (form.elements.licence.value.trim()) body.append("licence", form.elements.licence.value.trim());
  const request = new XMLHttpRequest();
  request.open("POST", "/api/v1/papers");
  request.setRequestHeader("Accept", "application/json");
  request.setRequestHeader("X-CSRF-Token", form.elements.csrf_token?.value ?? "");
  request.upload.onprogress = ({ loaded, total }) => {
    progress.value = total ? loaded / total : 0;
    says.textContent = loaded < total ? `Sending it: ${Math.round((100 * loaded) / total)} %` : "Sent; reading its pages";
  };
  request.onload = () => answered(request);
  request.onerror = () => rest("The studio could not be reached.", "Look whether it runs, then send it again.");
  request.send(body);
});
