"use strict";
{
  // Sorting: by the number that a cell states in data-sort, else by its text.
  const value = (cell) => {
    const text = cell.dataset.sort ?? cell.textContent.trim();
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  };
  const order = (a, b) =>
    a === "" ? 1 : b === "" ? -1
    : typeof a === "number" && typeof b === "number" ? a - b
    : String(a).localeCompare(String(b), "en", { numeric: true });
  const turn = (button) => {
    const heading = button.closest("th");
    const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", direction);
    return direction === "ascending" ? 1 : -1;
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const sign = turn(button), column = Number(button.dataset.key);
      const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
      rows.sort(([a], [b]) => (a === "" || b === "" ? order(a, b) : sign * order(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  }
  // Filtering.
  for (const input of document.querySelectorAll("input[data-filter]")) {
    const table = document.querySelector(`table[data-filtered="${input.dataset.filter}"]`);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/);
      for (const row of table.tBodies[0].rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
      }
    });
  }
  // A link to a comparison opens it.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  };
  addEventListener("hashchange", open);
  open();
  // Classes: the table of all, and the curves that belong to them.
  for (const section of document.querySelectorAll("details.comparison")) {
    const data = section.querySelector('script[type="application/json"]');
    const rows = data ? JSON.parse(data.textContent).map((row) => [...row, Math.round(10 * (row[3] - row[2])) / 10]) : [];
    const names = new Map(rows.map((row) => [String(row[0]), row[1]]));
    const point = (label) => {
      for (const curve of section.querySelectorAll("g.class")) curve.classList.toggle("lit", curve.dataset.class === label);
      for (const output of section.querySelectorAll("figure:has(g.class) .pointed"))
        output.textContent = label === null ? "" : `class ${names.get(label) ?? label}`;
    };
    for (const event of ["mouseover", "click"])
      section.addEventListener(event, (happened) => {
        const curve = happened.target.closest("g.class");
        if (curve) point(curve.dataset.class);
      });
    const table = section.querySelector("table[data-classes]");
    if (!table) continue;
    const [input, more, count] = ["[data-classes-filter]", "[data-more]", "[data-count]"].map((name) => section.querySelector(name));
    const page = 25;
    let most = page, sorted = rows;
    const show = () => {
      const word = input.value.toLowerCase();
      const kept = sorted.filter((row) => String(row[1]).toLowerCase().includes(word));
      const body = document.createElement("tbody");
      for (const row of kept.slice(0, most)) {
        const line = body.insertRow();
        line.tabIndex = 0;
        line.dataset.class = row[0];
        row.slice(1).forEach((text, number) => {
          const cell = line.insertCell();
          cell.textContent = text;
          if (number) cell.className = "number";
        });
      }
      table.tBodies[0].replaceWith(body);
      count.textContent = `${Math.min(most, kept.length)} of ${kept.length}`;
      more.hidden = kept.length <= most;
    };
    for (const event of ["mouseover", "focusin"])
      table.addEventListener(event, (happened) => {
        const line = happened.target.closest("tr[data-class]");
        if (line) point(line.dataset.class);
      });
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const sign = turn(button), key = Number(button.dataset.key);
      sorted = [...rows].sort((a, b) => sign * order(a[key], b[key]));
      show();
    });
    input.addEventListener("input", () => { most = page; show(); });
    more.addEventListener("click", () => { most += 4 * page; show(); });
    section.querySelector("details.classes").addEventListener("toggle", show, { once: true });
  }
}
