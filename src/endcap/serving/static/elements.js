// Elements and requests. What the server says goes into the page as text, never as markup.

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function fill(parent, ...children) {
  parent.replaceChildren(...children.filter((child) => child !== null));
}

// Ids of 64 bits don't fit JavaScript's numbers.
const reads = (key, value, context) =>
  typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER && /^-?\d+$/.test(context?.source)
    ? BigInt(context.source)
    : value;
const writes = (key, value) => (typeof value === "bigint" ? JSON.rawJSON(String(value)) : value);
const toJson = (value) => JSON.stringify(value, writes);
const fromJson = (text) => JSON.parse(text, reads);

// Relative to the page: a proxy may have put it below a path of its own.
const address = (path) => new URL(path, document.baseURI);

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body, signal) {
  // Logs tell by the surface what somebody tried from what customers were shown.
  const headers = { "x-endcap-page": "1", "x-endcap-surface": "page", "x-endcap-timing": "1" };
  const started = performance.now();
  let response, text;
  try {
    response = await fetch(address(path), {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : toJson(body),
      headers: body === undefined ? headers : { ...headers, "content-type": "application/json" },
      cache: "no-store",
      signal,
    });
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server can't be reached. Is it still running?");
  }
  const milliseconds = performance.now() - started;
  let content;
  try {
    content = fromJson(text);
  } catch {
    content = { error: text.slice(0, 500) };
  }
  if (!response.ok) throw new Refusal(response.status, content.error ?? response.statusText);
  return { content, headers: response.headers, milliseconds };
}

const count = new Intl.NumberFormat("en");
const money = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const day = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeZone: "UTC" });
const duration = (ms) => `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : count.format(Math.round(ms))} ms`;
