// What products are called, the lists that a person makes of them, and the search that adds to one.

class Names {
  #byId = new Map();
  #base = "";

  use(base) {
    this.#base = base;
    this.#byId.clear();
  }

  note(products) {
    for (const product of products) this.#byId.set(product.id, product);
  }

  async learn(ids) {
    const base = this.#base;
    const missing = [...new Set(ids)].filter((id) => !this.#byId.has(id)).slice(0, 1000);
    if (!missing.length) return;
    const { content } = await ask(`${base}/products`, { ids: missing });
    if (base === this.#base) this.note(content.products);
  }

  of(id) {
    return this.#byId.get(id);
  }

  // A product without a title is called by its id.
  title(id) {
    return this.of(id)?.title || String(id);
  }
}

class Chips {
  constructor(list, names, { removal, changed }) {
    this.ids = [];
    Object.assign(this, { list, names, removal, changed });
  }

  add(id) {
    this.ids = [...this.ids.filter((other) => other !== id), id];
    this.show();
    this.changed();
  }

  clear() {
    this.ids = [];
    this.show();
  }

  show() {
    fill(this.list, ...this.ids.map((id, place) => this.#chip(id, place)));
  }

  #chip(id, place) {
    const isStrange = !this.names.of(id);
    const title = this.names.title(id);
    const remove = () => {
      this.ids = this.ids.filter((other) => other !== id);
      this.show();
      this.list.querySelectorAll("button")[Math.min(place, this.ids.length - 1)]?.focus();
      this.changed();
    };
    return element(
      "li",
      { className: isStrange ? "strange" : "", title: isStrange ? "This version doesn't have it" : String(id) },
      element("span", {}, title),
      element("button", { type: "button", ariaLabel: this.removal(title), onclick: remove }, "✕"),
    );
  }
}

// A combobox as the ARIA practices have it: focus stays in the input, the arrows move through what was found.
class Search {
  #found = [];
  #active = -1;
  #waiting = 0;
  #request = new AbortController();

  constructor(input, list, { path, picked }) {
    Object.assign(this, { input, list, path, picked });
    input.addEventListener("input", () => this.#later());
    input.addEventListener("keydown", (event) => this.#press(event));
    input.addEventListener("blur", () => this.close());
    // The list must not take the focus, which would close it before the click.
    list.addEventListener("mousedown", (event) => event.preventDefault());
  }

  close() {
    clearTimeout(this.#waiting);
    this.#request.abort();
    this.#active = -1;
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }

  #later() {
    clearTimeout(this.#waiting);
    if (this.input.value.trim()) this.#waiting = setTimeout(() => this.#search(), 120);
    else this.close();
  }

  async #search() {
    this.#request.abort();
    this.#request = new AbortController();
    const asked = new URLSearchParams({ q: this.input.value.trim().slice(0, 200), limit: "12" });
    try {
      const { content } = await ask(`${this.path()}/products?${asked}`, undefined, this.#request.signal);
      if (document.activeElement === this.input) this.#show(content);
    } catch (error) {
      if (error.name !== "AbortError") this.#show({ products: [], note: error.message });
    }
  }

  #show({ products, num_found: numFound, note }) {
    this.#found = products;
    const more = numFound - products.length;
    const said = note ?? (!products.length ? "No product has these words." : more > 0 ? `and ${count.format(more)} more` : "");
    fill(
      this.list,
      ...products.map((product, place) => this.#option(product, place)),
      said ? element("li", { className: "note", role: "presentation" }, said) : null,
    );
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.#move(products.length ? 0 : -1);
  }

  #option(product, place) {
    const price = typeof product.price === "number" ? money.format(product.price) : null;
    const rest = [product.title ? product.id : null, product.category, price].filter((part) => part !== null && part !== undefined);
    return element(
      "li",
      { id: `found-${place}`, role: "option", ariaSelected: "false", onclick: () => this.#pick(place) },
      product.title || String(product.id),
      element("small", {}, rest.join(" · ")),
    );
  }

  #press(event) {
    const isOpen = !this.list.hidden;
    if (event.key === "Enter") {
      // Of the form, Enter would be the button.
      event.preventDefault();
      if (isOpen && this.#active >= 0) this.#pick(this.#active);
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      this.close();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      if (!isOpen) this.#search();
      else if (this.#found.length) this.#move((this.#active + step + this.#found.length) % this.#found.length);
    }
  }

  #move(place) {
    this.#active = place;
    for (const option of this.list.querySelectorAll("[role=option]")) option.ariaSelected = String(option.id === `found-${place}`);
    if (place < 0) return this.input.removeAttribute("aria-activedescendant");
    this.input.setAttribute("aria-activedescendant", `found-${place}`);
    byId(`found-${place}`).scrollIntoView({ block: "nearest" });
  }

  #pick(place) {
    const product = this.#found[place];
    this.input.value = "";
    this.close();
    this.picked(product);
  }
}
