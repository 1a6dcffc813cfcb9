// What the console does beyond plain pages and htmx: answers streamed into the playground, a button that copies, and clicks
// on what is drawn anew every second.
"use strict";

function panelOf(answers, place) {
  return answers.querySelector(`[data-panel="${Number(place)}"]`);
}

// The server draws every panel, escaped; a piece of text is only ever set as text.
function take(answers, told) {
  const panel = panelOf(answers, told.panel);
  if (told.html !== undefined) {
    const holder = document.createElement("template");
    holder.innerHTML = told.html;
    if (panel) panel.replaceWith(holder.content);
    else answers.append(holder.content);
  } else if (panel) {
    const text = panel.querySelector("[data-text]");
    if (text) text.textContent += told.text;
  }
}

function refuse(answers, message) {
  const note = document.createElement("p");
  note.className = "note bad";
  note.setAttribute("role", "alert");
  note.textContent = message;
  answers.replaceChildren(note);
}

async function stream(form, answers) {
  const sent = new FormData(form);
  sent.delete("file");
  const answer = await fetch(form.dataset.stream, { method: "POST", body: sent, headers: { "hx-request": "true" } });
  const elsewhere = answer.headers.get("hx-redirect");
  if (elsewhere) {
    location.assign(elsewhere);
    return;
  }
  answers.replaceChildren();
  if (!(answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
    answers.innerHTML = await answer.text();
    return;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const events = held.split("\n\n");
    held = events.pop();
    for (const event of events) {
      const told = JSON.parse(event.slice("data: ".length));
      if (told.error) refuse(answers, told.error.message);
      else take(answers, told);
    }
  }
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.stream || (form.elements.file && form.elements.file.files.length)) return;
  event.preventDefault();
  const answers = document.getElementById(form.dataset.answers);
  const button = form.querySelector("button");
  button.disabled = true;
  answers.setAttribute("aria-busy", "true");
  try {
    await stream(form, answers);
  } catch (error) {
    refuse(answers, "The server cannot be reached; try again.");
  } finally {
    button.disabled = false;
    answers.removeAttribute("aria-busy");
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch (error) {
    const range = document.createRange();
    range.selectNodeContents(document.getElementById(button.dataset.copy));
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
});

// A part that looks for news by itself is not replaced while something in it is pressed: the click would be lost. It looks
// again soon. Not every press is told to end (one on a scroll bar is not), so none counts for longer than a few seconds.
let pressed = null;
document.addEventListener("pointerdown", (event) => {
  pressed = { target: event.target, until: performance.now() + 3000 };
});
for (const end of ["pointerup", "pointercancel"]) {
  document.addEventListener(end, () => setTimeout(() => (pressed = null)));
}
document.addEventListener("htmx:beforeSwap", (event) => {
  const target = event.detail.target;
  const polls = (target.getAttribute("hx-trigger") || "").startsWith("every");
  if (polls && pressed && performance.now() < pressed.until && target.contains(pressed.target)) event.detail.shouldSwap = false;
});
