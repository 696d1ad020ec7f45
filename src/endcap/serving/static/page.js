// The page itself: what a person chooses, the requests that come of it, and what is shown.

const names = new Names();
const page = { models: [], asksForToken: false, base: "", catalog: null, turn: 0, hasAsked: false, command: "" };
const field = Object.fromEntries(
  ["model", "version", "customer", "search", "category", "lowest", "highest", "stock", "more", "k"].map((id) => [id, byId(id)]),
);

const history = new Chips(byId("history"), names, { removal: (title) => `Remove ${title}`, changed: () => chipsChanged() });
const excluded = new Chips(byId("excluded"), names, { removal: (title) => `Show ${title} again`, changed: () => chipsChanged() });
new Search(field.search, byId("found"), {
  path: () => page.base,
  picked: (product) => {
    names.note([product]);
    history.add(product.id);
  },
});

// What is asked.

class Slip extends Error {
  constructor(input, message) {
    super(message);
    this.input = input;
  }
}

function customerOf({ customer }) {
  const typed = field.customer.value.trim();
  if (customer.dtype === "STRING") return typed;
  // Nobody's number, for a visitor without one.
  if (!typed) return -1;
  if (!/^-?\d{1,19}$/.test(typed)) throw new Slip(field.customer, "Customer id: this release's are whole numbers.");
  return fromJson(String(BigInt(typed)));
}

function moreOf() {
  const typed = field.more.value.trim();
  if (!typed) return {};
  try {
    const more = fromJson(typed);
    if (more !== null && typeof more === "object" && !Array.isArray(more)) return more;
  } catch {
    // Said below.
  }
  throw new Slip(field.more, 'More about the customer: expected a JSON object, such as {"country": "France"}.');
}

function numberOf(input, name) {
  const typed = input.value.trim().replace(",", ".");
  if (!typed) return undefined;
  if (!Number.isFinite(Number(typed))) throw new Slip(input, `${name}: expected a number.`);
  return Number(typed);
}

function filterOf() {
  const filter = {};
  if (field.category.value.trim()) filter.category = field.category.value.trim();
  const [min, max] = [numberOf(field.lowest, "Price from"), numberOf(field.highest, "Price to")];
  if (min !== undefined || max !== undefined) filter.price = { min, max };
  if (field.stock.value) filter.in_stock = field.stock.value === "true";
  return Object.keys(filter).length ? filter : undefined;
}

function requestOf(catalog) {
  const customer = { ...moreOf(), [catalog.customer.name]: customerOf(catalog) };
  if (!catalog.recommends) {
    if (!history.ids.length) throw new Slip(field.search, "Products to score: add at least one.");
    const pairs = { ...customer, [catalog.ranking.item]: history.ids };
    return { customer, body: { signature_name: "serve_ranking", instances: [pairs] } };
  }
  if (history.ids.length) customer.user_history = history.ids;
  const k = numberOf(field.k, "How many");
  if (!Number.isInteger(k) || k < 1 || k > 200) throw new Slip(field.k, "How many: expected a whole number from 1 to 200.");
  const limits = { k: Math.min(k, catalog.num_products), filter: filterOf() };
  if (excluded.ids.length) limits.exclude = excluded.ids;
  return { customer, body: { instances: [customer], ...limits } };
}

async function predict() {
  const catalog = page.catalog;
  if (!catalog) return;
  const turn = ++page.turn;
  clearTimeout(page.waiting);
  showError(null);
  const path = `${page.base}:predict`;
  try {
    const { customer, body } = requestOf(catalog);
    byId("result").className = "busy";
    page.command = commandOf(path, body, page.asksForToken);
    showCommand();
    const answered = await ask(path, body);
    const { product_ids: ids, scores } = answered.content.predictions[0];
    let failure = null;
    const [predicted] = await Promise.all([
      // Without values, products are shown, and why.
      catalog.recommends && catalog.ranking && ids.length
        ? valuesOf(path, customer, ids, catalog).catch((error) => void (failure = error))
        : null,
      // Without names, ids are shown.
      names.learn([...ids, ...history.ids, ...excluded.ids]).catch(() => null),
    ]);
    const best = catalog.recommends ? { ids, scores } : sorted(ids, scores);
    if (turn !== page.turn) return;
    if (failure) showRefusal(failure);
    showAnswer(answered, { ...best, predicted });
  } catch (error) {
    if (turn === page.turn) showError(error);
  } finally {
    if (turn === page.turn) byId("result").className = "";
  }
}

// Scores of given products come in the order in which these were given.
function sorted(ids, scores) {
  const places = ids.map((_, place) => place).sort((one, other) => scores[other] - scores[one]);
  return { ids: places.map((place) => ids[place]), scores: places.map((place) => scores[place]) };
}

async function valuesOf(path, customer, ids, { ranking }) {
  const body = { signature_name: "serve_ranking", instances: [{ ...customer, [ranking.item]: ids }] };
  const { content } = await ask(path, body);
  const { product_ids: scored, scores } = content.predictions[0];
  return new Map(scored.map((id, place) => [id, scores[place]]));
}

// What is shown.

function showError(error) {
  for (const input of Object.values(field)) input.removeAttribute("aria-invalid");
  if (error === null) return fill(byId("alert"));
  if (error instanceof Slip) {
    error.input.setAttribute("aria-invalid", "true");
    error.input.closest("details")?.setAttribute("open", "");
    byId("request").hidden = true;
  } else if (!(error instanceof Refusal)) console.error(error);
  showRefusal(error);
  fill(byId("status"));
  fill(byId("timings"));
  fill(byId("result"));
}

function showRefusal(error) {
  const head = error.status ? `The server refused (${error.status})` : "That didn't work";
  fill(byId("alert"), element("strong", {}, head), error.message);
}

function describeCustomer(known) {
  const typed = field.customer.value.trim();
  const isOwn = history.ids.length > 0 && page.catalog.recommends;
  const who = typed ? [element("strong", {}, typed)] : ["somebody without an id"];
  if (isOwn) who.push(", with the history clicked here");
  const about =
    !typed || known === null
      ? ""
      : known === "known"
        ? " This release knows the customer."
        : " This release doesn't know the customer: the answer is for somebody new.";
  return [...who, ".", element("span", {}, about)];
}

function showAnswer({ headers, milliseconds }, answer) {
  const { catalog } = page;
  const ranking = catalog.ranking;
  const num = answer.ids.length;
  page.hasAsked = true;
  const label = ranking ? `Predicted ${ranking.target}` : "";
  fill(
    byId("status"),
    num === 0 ? "No product fits, for " : `${num === 1 ? "1 product" : `${num} products`} for `,
    ...describeCustomer(headers.get("x-endcap-customer")),
  );
  showTimings(byId("timings"), headers.get("server-timing"), milliseconds);
  const shown = catalog.recommends ? { ...answer, scoreLabel: "Score", predictedLabel: label } : { ...answer, scoreLabel: label };
  const table = num ? resultTable(shown, names, catalog.columns, catalog.recommends ? history.ids : [], actionsOf) : null;
  const place = placeOfFocus();
  fill(byId("result"), table ?? element("div", { className: "empty" }, element("p", {}, "Widen the filters, or show again what is left out.")));
  if (place !== null) {
    const rows = byId("result").querySelectorAll("tbody tr");
    (rows[Math.min(place.row, rows.length - 1)]?.querySelectorAll("button")[place.button] ?? byId("answer")).focus();
  }
  history.show();
  excluded.show();
}

// The button of a row that goes with the answer: the focus is to stay where it was.
function placeOfFocus() {
  const row = document.activeElement?.closest("#result tbody tr");
  if (!row) return null;
  return { row: [...row.parentElement.children].indexOf(row), button: [...row.querySelectorAll("button")].indexOf(document.activeElement) };
}

function actionsOf(id) {
  const { recommends, history: takesHistory } = page.catalog;
  const button = (label, sign, onclick) => element("button", { type: "button", ariaLabel: `${label}: ${names.title(id)}`, title: label, onclick }, sign);
  return [
    recommends && takesHistory ? button("Add to the history", "+", () => history.add(id)) : null,
    recommends ? button("Leave out", "✕", () => excluded.add(id)) : null,
  ];
}

function showCommand() {
  byId("request").hidden = false;
  fill(byId("command"), page.command);
}

function showChips() {
  byId("clear-history").hidden = !history.ids.length;
  byId("excluded-field").hidden = !excluded.ids.length;
}

function chipsChanged() {
  showChips();
  if (page.catalog.recommends ? page.hasAsked || history.ids.length : history.ids.length) {
    clearTimeout(page.waiting);
    page.waiting = setTimeout(predict, 100);
  } else showEmpty();
}

async function showEmpty() {
  ++page.turn;
  clearTimeout(page.waiting);
  page.hasAsked = false;
  for (const id of ["alert", "status", "timings"]) fill(byId(id));
  byId("request").hidden = true;
  const { recommends, history: takesHistory } = page.catalog;
  const texts = recommends
    ? [
        "Type a customer's id and press Enter to see what this customer would be shown.",
        takesHistory ? "Or click a history together, as if somebody had just looked at these products: the answer follows each click." : "",
      ]
    : ["This release scores given products. Add some, and name the customer if you like: each gets what it is predicted to come to."];
  const starters = element("ul", { className: "starters" });
  const box = element("div", { className: "empty" }, element("h2", {}, "Nothing asked yet"), ...texts.map((text) => element("p", {}, text)), starters);
  fill(byId("result"), box);
  if (recommends && !takesHistory) return;
  try {
    const { content } = await ask(`${page.base}/products?limit=6`);
    names.note(content.products);
    const start = ({ id }) => element("li", {}, element("button", { type: "button", onclick: () => history.add(id) }, `+ ${names.title(id)}`));
    fill(starters, ...content.products.map(start));
  } catch {
    starters.remove();
  }
}

// Which model, and what it takes.

async function choose() {
  const which = field.version.value;
  page.base = `v1/models/${encodeURIComponent(field.model.value)}${which}`;
  page.catalog = null;
  names.use(page.base);
  try {
    const base = page.base;
    const { content } = await ask(`${base}/catalog`);
    if (base !== page.base) return;
    page.catalog = content;
    await names.learn([...history.ids, ...excluded.ids]).catch(() => null);
  } catch (error) {
    fill(byId("facts"), field.model.value);
    return showError(error);
  }
  showTaken(page.catalog);
  history.show();
  excluded.show();
  if (page.hasAsked && (page.catalog.recommends || history.ids.length)) await predict();
  else await showEmpty();
}

function showTaken(catalog) {
  const { columns, recommends } = catalog;
  fill(byId("facts"), `${field.model.value}, version ${catalog.version} · ${count.format(catalog.num_products)} products · data up to ${day.format(new Date(catalog.as_of))}`);
  byId("history-field").hidden = recommends && !catalog.history;
  fill(byId("history-label"), recommends ? "History" : "Products to score");
  fill(
    byId("history-hint"),
    recommends
      ? `Products as if just looked at, oldest first; the last ${catalog.history?.max_length ?? ""} count. They stand in for what the release knows of the customer.`
      : "Each is scored for the customer.",
  );
  fill(byId("send"), recommends ? "Recommend" : "Score");
  byId("k-field").hidden = !recommends;
  for (const [id, column] of [["category-field", "category"], ["price-field", "price"], ["stock-field", "in_stock"]]) {
    byId(id).hidden = !columns.includes(column);
  }
  byId("filters").hidden = !recommends || !["category", "price", "in_stock"].some((column) => columns.includes(column));
  fill(byId("categories"), ...(catalog.categories ?? []).map(({ name, num_products: num }) => element("option", { value: name, label: `${name} (${count.format(num)})` })));
  for (const [input, bound] of [[field.lowest, catalog.price?.min], [field.highest, catalog.price?.max]]) {
    input.placeholder = typeof bound === "number" ? money.format(bound) : "any";
  }
  byId("more-field").hidden = !catalog.features.length;
  const features = catalog.features.map(({ name, dtype, is_list: isList, required }) => `${name} (${dtype}${isList ? " list" : ""}${required ? ", required" : ""})`);
  fill(byId("more-hint"), `A JSON object; what is left out comes from the release. It takes: ${features.join(", ")}.`);
  field.more.placeholder = "{}";
}

function showVersions() {
  const model = page.models.find(({ name }) => name === field.model.value);
  const option = (value, label) => element("option", { value }, label);
  fill(
    field.version,
    option("", `Newest (${model.version ?? "none"})`),
    ...model.versions.map((version) => option(`/versions/${version}`, version)),
    ...Object.entries(model.labels).map(([label, version]) => option(`/labels/${encodeURIComponent(label)}`, `${label} (${version})`)),
  );
  byId("version-field").hidden = model.versions.length < 2 && !Object.keys(model.labels).length;
}

async function start() {
  try {
    const { content } = await ask("v1/models");
    page.models = content.models;
    page.asksForToken = content.asks_for_token;
    if (!page.models.length) throw new Refusal(0, "This server has no model that you may ask.");
  } catch (error) {
    fill(byId("facts"), "");
    return showError(error);
  }
  fill(field.model, ...page.models.map(({ name }) => element("option", { value: name }, name)));
  byId("model-field").hidden = page.models.length < 2;
  showVersions();
  await choose();
}

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  await predict();
  // On a narrow screen the answer is below the form.
  if (byId("answer").getBoundingClientRect().top > innerHeight * 0.6) byId("answer").scrollIntoView();
});
for (const id of ["category", "lowest", "highest", "stock", "k"]) field[id].addEventListener("change", () => page.hasAsked && predict());
field.model.addEventListener("change", () => {
  showVersions();
  choose();
});
field.version.addEventListener("change", choose);
byId("clear-history").addEventListener("click", () => {
  history.clear();
  field.search.focus();
  chipsChanged();
});
byId("clear-excluded").addEventListener("click", () => {
  excluded.clear();
  chipsChanged();
});
byId("start-over").addEventListener("click", () => {
  byId("ask").reset();
  history.clear();
  excluded.clear();
  showChips();
  showError(null);
  field.customer.focus();
  if (page.catalog) showEmpty();
});
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(page.command);
    fill(byId("copy"), "Copied");
  } catch {
    // Without TLS there is no clipboard: what is selected can be copied by hand.
    getSelection().selectAllChildren(byId("command"));
    fill(byId("copy"), "Selected: copy it");
  }
  setTimeout(() => fill(byId("copy"), "Copy"), 2000);
});
start();
