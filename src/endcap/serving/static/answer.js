// An answer of the server, as a person reads it.

const STAGES = {
  decode: "reading",
  queue: "waiting",
  features: "features",
  tower: "tower",
  features_tower: "features and tower",
  search: "search",
  ranking: "scoring",
  serialize: "writing",
};

const stageClass = (name, place) => `stage-${name === "rest" ? "rest" : place % 6}`;

// `server-timing` in, [stage, milliseconds] out.
function stagesOf(header) {
  return (header ?? "").split(",").flatMap((part) => {
    const [, name, ms] = /^\s*([\w-]+);dur=([\d.]+)$/.exec(part) ?? [];
    return name ? [[name, Number(ms)]] : [];
  });
}

function showTimings(place, header, milliseconds) {
  const stages = stagesOf(header);
  const total = stages.find(([name]) => name === "total")?.[1];
  if (total === undefined) {
    return fill(place, element("p", { className: "timing" }, element("b", {}, duration(milliseconds)), " until it was here"));
  }
  const parts = stages.filter(([name]) => name !== "total").map(([name, ms]) => [STAGES[name] ?? name, ms]);
  const rest = total - parts.reduce((sum, [, ms]) => sum + ms, 0);
  if (rest > 0.0005) parts.push(["rest", rest]);
  fill(
    place,
    element(
      "div",
      { className: "timing" },
      element(
        "p",
        {},
        element("b", {}, duration(total)),
        " in the server, ",
        element("b", {}, duration(milliseconds)),
        " until it was here",
      ),
      element(
        "div",
        { className: "stages", ariaHidden: "true" },
        ...parts.map(([name, ms], place) => {
          const part = element("span", { className: stageClass(name, place) });
          part.style.setProperty("--share", String(ms));
          return part;
        }),
      ),
      element("ul", { className: "legend", ariaLabel: "Stages in the server" },
        ...parts.map(([name, ms], place) => element("li", { className: stageClass(name, place) }, `${name} ${duration(ms)}`)),
      ),
    ),
  );
}

// A bar's length: from zero, or from the lowest where some are below.
function shares(scores) {
  const low = Math.min(0, ...scores);
  const high = Math.max(0, ...scores);
  return scores.map((score) => (high > low ? (score - low) / (high - low) : 0));
}

const cell = (className, label, ...children) => element("td", { className, role: "cell", "data-label": label }, ...children);

function digitsOf(scores) {
  const largest = Math.max(1e-4, ...scores.map(Math.abs));
  return Math.min(8, Math.max(0, 4 - Math.floor(Math.log10(largest))));
}

function scoreCell(score, share, label) {
  const bar = element("span");
  bar.style.setProperty("--share", String(share));
  return cell("score number", label, score, element("span", { className: "bar", ariaHidden: "true" }, bar));
}

function nameCell(id, names, inHistory) {
  const title = names.of(id)?.title;
  return element(
    "th",
    { scope: "row", role: "rowheader" },
    title || element("span", { className: "id" }, String(id)),
    element(
      "small",
      {},
      ...(title ? [element("span", { className: "id" }, String(id)), " "] : []),
      inHistory ? element("span", { className: "tag" }, "in the history") : null,
    ),
  );
}

// `answer`: ids, scores, scoreLabel, predicted (a Map) and predictedLabel where there are such; `actions` makes buttons.
function resultTable(answer, names, columns, history, actions) {
  const has = (column) => columns.includes(column);
  const labels = [
    ["rank number", "Place"],
    ["", "Product"],
    has("category") ? ["category", "Category"] : null,
    has("price") ? ["price number", "Price"] : null,
    has("in_stock") ? ["stock", "Stock"] : null,
    ["score number", answer.scoreLabel],
    answer.predicted ? ["predicted number", answer.predictedLabel] : null,
    ["actions", ""],
  ].filter((label) => label !== null);
  const head = labels.map(([className, label]) =>
    element("th", { className, scope: "col", role: "columnheader" }, label || element("span", { className: "unseen" }, "Actions")),
  );
  const share = shares(answer.scores);
  const digits = digitsOf(answer.scores);
  const rows = answer.ids.map((id, place) => {
    const product = names.of(id) ?? {};
    const stock = product.in_stock === true ? "in stock" : product.in_stock === false ? "out of stock" : "";
    const predicted = answer.predicted?.get(id);
    return element(
      "tr",
      { role: "row" },
      element("td", { className: "rank number", role: "cell" }, String(place + 1)),
      nameCell(id, names, history.includes(id)),
      has("category") ? cell("category", "Category", product.category ?? "") : null,
      has("price") ? cell("price number", "Price", typeof product.price === "number" ? money.format(product.price) : "") : null,
      has("in_stock") ? cell("stock", "Stock", stock) : null,
      scoreCell(answer.scores[place].toFixed(digits), share[place], answer.scoreLabel),
      answer.predicted ? cell("predicted number", answer.predictedLabel, predicted === undefined ? "" : money.format(predicted)) : null,
      element("td", { className: "actions", role: "cell" }, ...actions(id)),
    );
  });
  return element(
    "table",
    { role: "table" },
    element("caption", { className: "unseen" }, "Products, best first"),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...head)),
    element("tbody", { role: "rowgroup" }, ...rows),
  );
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function commandOf(path, body, asksForToken) {
  const token = asksForToken ? `  -H "authorization: Bearer $ENDCAP_TOKEN" \\\n` : "";
  return `curl ${quoted(address(path).href)} \\\n${token}  -d ${quoted(toJson(body))}`;
}
