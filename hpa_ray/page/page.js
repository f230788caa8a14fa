"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numbers;
      const value = (row) => {
        const cell = row.cells[column];
        if (!numbers) return cell.textContent;
        return cell.dataset.sort ? Number(cell.dataset.sort) : null;
      };
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null);  // empty cells last, either way
        const order = numbers ? a - b : a.localeCompare(b, "en", { numeric: true });
        return down ? -order : order;
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const gallery of document.querySelectorAll(".gallery")) {
  const bar = gallery.querySelector(".filters");
  if (!bar) continue;
  const tiles = [...gallery.querySelectorAll("figure")];
  const selects = [...bar.querySelectorAll("select")];
  const show = () => {
    for (const tile of tiles)
      tile.hidden = selects.some((one) => one.value && tile.getAttribute(`data-value-${one.dataset.filter}`) !== one.value);
    const left = tiles.filter((tile) => !tile.hidden).length;
    bar.querySelector("[role=status]").textContent = `${left} of ${tiles.length} shown`;
  };
  selects.forEach((one) => one.addEventListener("change", show));
  bar.hidden = false;
  show();  // a browser that goes back keeps what was chosen
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
