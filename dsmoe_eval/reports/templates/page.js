// The page's own behaviour: theme, traces, sorting, filters, items. What models wrote and what
// cards are called reaches the page by textContent only.
"use strict";
(() => {
const find = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const make = (tag, text = "", kind = "") => {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

// Theme: the system's, unless the reader chose; a file opened from disk may refuse to remember.
const theme = find("theme"), THEME = "dsmoe-eval-theme";
function remembered() { try { return localStorage.getItem(THEME); } catch { return null; } }
function remember(name) { try { localStorage.setItem(THEME, name); } catch { /* for this visit only */ } }
function showTheme(name) {
  if (name === "dark" || name === "light") document.documentElement.dataset.theme = name;
  const dark = (document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  theme.setAttribute("aria-pressed", String(dark));
  return dark;
}
if (theme) {
  showTheme(remembered());
  theme.addEventListener("click", () => {
    const name = theme.getAttribute("aria-pressed") === "true" ? "light" : "dark";
    showTheme(name);
    remember(name);
  });
}

// Traces: where a number comes from, by hover, by click, and by Enter on a number that has focus.
const shownTrace = find("trace");
function showTrace(cell) {
  if (!shownTrace.matches(":popover-open")) shownTrace.showPopover();
  shownTrace.textContent = `${cell.textContent.trim() && cell.tagName !== "g" ? `${cell.textContent.trim()}: ` : ""}${cell.dataset.t}`;
}
document.addEventListener("pointerover", (event) => {
  const cell = event.target.closest?.("td[data-t], th[data-t], span[data-t]");
  if (cell && !cell.title) cell.title = cell.dataset.t;
});
document.addEventListener("click", (event) => {
  const cell = event.target.closest?.("[data-t]");
  if (cell) showTrace(cell);
});

// Numbers of one table or plot are one stop of the Tab key; arrows move among them.
const visible = (cell) => !cell.closest("[hidden]");
function settle(box) {
  const current = box.querySelector('[data-t][tabindex="0"]');
  if (current && visible(current)) return;
  const next = all("[data-t]", box).find(visible);
  if (current) current.tabIndex = -1;
  if (next) next.tabIndex = 0;
}
function neighbour(box, cell, key) {
  const row = cell.closest("tr");
  if (row && (key === "ArrowUp" || key === "ArrowDown")) {
    const rows = all("tr:not([hidden])", box);
    const column = [...row.children].indexOf(cell), step = key === "ArrowUp" ? -1 : 1;
    for (let at = rows.indexOf(row) + step; rows[at]; at += step) {
      if (rows[at].children[column]?.dataset.t !== undefined) return rows[at].children[column];
    }
    return null;
  }
  const cells = all("[data-t]", row ?? box).filter(visible);
  return cells[cells.indexOf(cell) + (key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1)];
}
for (const box of all("[data-roving]")) {
  settle(box);
  box.addEventListener("keydown", (event) => {
    const cell = event.target.closest("[data-t]");
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      showTrace(cell);
    } else if (event.key.startsWith("Arrow")) {
      const next = neighbour(box, cell, event.key);
      event.preventDefault();
      if (!next) return;
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    }
  });
}

// Sorting: a column up, down, and back to the order of the page; what has no number comes last.
const words = new Intl.Collator("en", { numeric: true });
function valueOf(row, column, numeric) {
  const cell = row.children[column], given = cell.dataset.s;
  if (numeric) return given === undefined || given === "" ? NaN : Number(given);
  return given ?? cell.textContent;
}
function compare(a, b, numeric, sign) {
  if (!numeric) return sign * words.compare(a, b);
  if (Number.isNaN(a) || Number.isNaN(b)) return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
  return sign * (a - b);
}
for (const table of all("table.data")) {
  const body = table.tBodies[0], order = [...body.rows], heads = all("thead th", table);
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const numeric = head.classList.contains("num");
    const turns = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
    const turn = turns[turns.indexOf(head.getAttribute("aria-sort")) + 1];
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    let rows = order;
    if (turn) {
      head.setAttribute("aria-sort", turn);
      const sign = turn === "ascending" ? 1 : -1;
      rows = order.map((row) => [valueOf(row, column, numeric), row])
        .sort((a, b) => compare(a[0], b[0], numeric, sign)).map(([, row]) => row);
    }
    body.append(...rows);
  }));
}

// Filters: within a facet any of the ticked values, and every facet that has some ticked.
const filters = find("filters");
if (filters) {
  const marked = all("[data-f]").map((part) => [part, JSON.parse(part.dataset.f), part.tagName === "TR"]);
  const rows = marked.filter(([, , row]) => row).length;
  const apply = () => {
    const wanted = all("[data-facet]", filters).map((set) =>
      [set.dataset.facet, new Set(all("input:checked", set).map((box) => box.value))])
      .filter(([, values]) => values.size);
    let shown = 0;
    for (const [part, facets, row] of marked) {
      const fits = wanted.every(([name, values]) =>
        !(name in facets) || facets[name].some((value) => values.has(value)));
      if (row) part.hidden = !fits; else part.classList.toggle("off", !fits);
      shown += Number(row && fits);
    }
    all("[data-roving]").forEach(settle);
    find("filtered").textContent = wanted.length ? `${shown} of ${rows} rows shown` : "";
  };
  filters.addEventListener("change", apply);
  filters.addEventListener("reset", () => setTimeout(apply));
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

// Items: each task's lie in a script beside the page, which calls dsmoeItems.
if (!find("explorer")) return;
const files = JSON.parse(find("explorer-files").textContent);
const AT_ONCE = 100;
const ui = Object.fromEntries(["form", "set", "task", "arm", "show", "search", "status", "list", "more"]
  .map((name) => [name, find(`explorer-${name}`)]));
const dialog = find("item"), loads = new Map(), arrived = new Map();
let opened = null, inDialog = null, matches = [], listed = 0, asked = 0;

window.dsmoeItems = (key, data, sha) => arrived.set(key, { data, sha });

function load(path, sha) {
  if (loads.has(path)) return loads.get(path);
  const key = path.split("/").pop().replace(/\.js$/, "");
  const promise = new Promise((done, fail) => {
    const script = document.createElement("script");
    const fault = (why) => fail(new Error(`${path} ${why}; "${find("explorer").dataset.command}" writes it beside this page`));
    script.onerror = () => fault("is missing");
    script.onload = () => {
      const got = arrived.get(key);
      if (!got) fault("is damaged");
      else if (got.sha !== sha) fault("belongs to another report");
      else done(got.data);
    };
    script.src = path.split("/").map(encodeURIComponent).join("/");
    document.head.append(script);
  });
  promise.catch(() => loads.delete(path)); // it may be there when it is asked for again
  loads.set(path, promise);
  return promise;
}
const partOf = (file, data, index) => {
  const number = data.starts.findLastIndex((start) => start <= index);
  return load(file.path.replace(/\.js$/, `-${number}.js`), data.parts[number]);
};

function fill(select, names, shown = names) {
  const before = select.value;
  select.replaceChildren(...names.map((name, at) => {
    const option = make("option", shown[at]);
    option.value = name;
    return option;
  }));
  if (names.includes(before)) select.value = before;
}
const current = () => files.find((file) => file.set === ui.set.value && file.task === ui.task.value);
function fillTasks() {
  const own = files.filter((file) => file.set === ui.set.value);
  fill(ui.task, own.map((file) => file.task), own.map((file) => `${file.task} (${file.domain}, ${file.n})`));
  fillArms();
}
function fillArms() {
  fill(ui.arm, current()?.arms.slice(1) ?? []);
}

const TESTS = {
  all: () => true,
  gained: (base, own) => own > base,
  lost: (base, own) => own < base,
  changed: (base, own, a, b) => a !== b,
  wrong: (base, own) => base === 0 && own === 0,
  right: (base, own) => base === 1 && own === 1,
};
const scoreWord = (score) => score === 1 ? "right" : score === 0 ? "wrong" : `${(100 * score).toFixed(0)} % right`;
const hash = (file, id) => `#item=${[file.set, file.task, id].map(encodeURIComponent).join("/")}`;
const haystack = (data) => data.haystack ??= data.question.map((question, at) =>
  `${data.ids[at]}\n${question}\n${data.options[at].join("\n")}`.toLowerCase());

async function open(file) {
  const turn = ++asked;
  ui.status.textContent = `Loading ${file.path}`;
  try {
    const data = await load(file.path, file.sha256);
    if (turn === asked) opened = { file, data };
  } catch (error) {
    if (turn !== asked) return null;
    opened = null;
    ui.list.replaceChildren();
    ui.more.hidden = true;
    ui.status.textContent = `${error.message}.`;
  }
  return turn === asked ? opened : null;
}
async function refresh() {
  const file = current();
  if (file && await open(file)) list();
}
function list() {
  const { data } = opened, arm = Math.max(1, data.arms.indexOf(ui.arm.value));
  const test = TESTS[ui.show.value], wanted = ui.search.value.trim().toLowerCase();
  const [base, own] = [data.scores[0], data.scores[arm]], [a, b] = [data.answers[0], data.answers[arm]];
  const texts = wanted ? haystack(data) : null;
  matches = [];
  for (let at = 0; at < data.ids.length; at += 1) {
    const judged = own ? test(base[at], own[at], a[at], b[at]) : ui.show.value === "all";
    if (judged && (!texts || texts[at].includes(wanted))) matches.push(at);
  }
  listed = 0;
  ui.list.replaceChildren();
  more();
}
function more() {
  const { file, data } = opened, arm = Math.max(1, data.arms.indexOf(ui.arm.value));
  const next = matches.slice(listed, listed + AT_ONCE);
  ui.list.append(...next.map((at) => {
    const row = make("li"), link = make("a");
    link.href = hash(file, data.ids[at]);
    const scores = [data.scores[0][at], data.scores[arm]?.[at]].filter((score) => score !== undefined);
    link.append(make("span", summary(data.question[at]), "q"), make("span", scores.map(scoreWord).join(" → "), "s"));
    row.append(link);
    return row;
  }));
  listed += next.length;
  ui.more.hidden = listed >= matches.length;
  ui.status.textContent = `${matches.length} of ${data.ids.length} items` +
    (listed < matches.length ? `, the first ${listed} listed` : "") + `, from ${file.path}`;
}
const summary = (text) => text.slice(0, 400).replace(/\s+/g, " ").trim().slice(0, 200) || "(empty)";

// One item, whole.
const block = (text) => {
  const made = make("pre", text, "text");
  made.tabIndex = 0; // what scrolls can be scrolled by keyboard
  return made;
};
const goldOf = (data, at) => typeof data.gold[at] === "number" ? data.options[at][data.gold[at]] : data.gold[at];
function optionList(data, at) {
  const made = make("ol", "", "options");
  made.append(...data.options[at].map((option, index) => {
    const line = make("li", option);
    if (index === data.gold[at]) line.append(make("strong", " ✓ gold", "good"));
    return line;
  }));
  return made;
}
function answerBlock(data, at, arm, part, offset) {
  const chosen = data.arms[arm] === ui.arm.value || arm === 0, box = make("div", "", `answer${chosen ? " chosen" : ""}`);
  const score = data.scores[arm][at], base = data.scores[0][at], head = make("p");
  const change = score > base ? ", gained" : score < base ? ", lost" : "";
  head.append(make("strong", data.arms[arm]), ": ", make("span", scoreWord(score) + change, `tag ${score > base ? "good" : score < base ? "bad" : ""}`));
  const code = data.answers[arm][at];
  if (!part) head.append("; answer: ", make("span", code < 0 ? "none of the options" : data.options[at][code]));
  box.append(head);
  if (part) box.append(...generated(part, offset, arm, chosen));
  box.append(make("p", `cells/${data.cells[arm]}/samples.parquet, item ${data.ids[at]}`, "source"));
  return box;
}
function generated(part, offset, arm, chosen) {
  const extracted = make("p", "extracted: ");
  extracted.append(make("code", part.answer[arm][offset].slice(0, 500) || "(empty)"));
  return [extracted, ...part.texts[arm][offset].map((text, sample) => {
    const shown = make("details"), about = [
      `answer ${sample + 1}`, scoreWord(part.scores[arm][offset][sample]), `${part.tokens[arm][offset][sample]} tokens`,
      part.truncated[arm][offset][sample] ? "truncated" : "", part.invalid[arm][offset][sample] ? "invalid" : ""];
    shown.open = chosen;
    shown.append(make("summary", about.filter(Boolean).join(", ")), block(text));
    return shown;
  })];
}
// `dsmoe-eval view` knows the samples of Inspect logs that it found.
function logLinks(logs) {
  const made = make("p", "In Inspect's viewer: ");
  made.append(...logs.flatMap((log) => {
    const link = make("a", log.label);
    link.href = log.url;
    return [link, " "];
  }));
  return made;
}
async function show(file, data, at) {
  const shown = inDialog = { at };
  find("item-title").textContent = `${file.task}, item ${data.ids[at]}`;
  const body = find("item-body");
  const place = matches.indexOf(at);
  find("item-before").disabled = place <= 0;
  find("item-after").disabled = place < 0 || place >= matches.length - 1;
  body.replaceChildren(make("h4", "Question"), block(data.question[at]));
  if (data.options[at].length) body.append(make("h4", "Options"), optionList(data, at));
  if (typeof data.gold[at] !== "number") body.append(make("h4", "Gold"), block(goldOf(data, at)));
  const logs = window.dsmoeLinks?.[file.task]?.[data.ids[at]] ?? [];
  if (logs.length) body.append(logLinks(logs));
  body.append(make("h4", "Answers"));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  let part = null;
  try {
    part = data.parts.length ? await partOf(file, data, at) : null;
  } catch (error) {
    if (shown === inDialog) body.append(make("p", `The answers' texts: ${error.message}.`, "bad"));
    return;
  }
  if (shown !== inDialog) return; // another was opened meanwhile
  const offset = part ? at - part.start : 0;
  body.append(...data.arms.map((name, arm) => answerBlock(data, at, arm, part, offset)));
}
async function follow() {
  const match = /^#item=([^/]+)\/([^/]+)\/([^/]+)$/.exec(location.hash);
  if (!match) { if (dialog.open) dialog.close(); return; }
  let set, task, id;
  try { [set, task, id] = match.slice(1).map(decodeURIComponent); } catch { return; }
  const file = files.find((one) => one.set === set && one.task === task);
  if (file && (opened?.file !== file)) {
    ui.set.value = set;
    fillTasks();
    ui.task.value = task;
    fillArms();
    if (!await open(file)) { find("explorer").scrollIntoView(); return; }
    list();
  }
  const at = file ? opened.data.ids.indexOf(id) : -1;
  if (at < 0) ui.status.textContent = `There is no item ${id} of task ${task} in ${set} on this page.`;
  else await show(file, opened.data, at);
}
function step(by) {
  const next = matches[matches.indexOf(inDialog.at) + by];
  if (next !== undefined) location.hash = hash(opened.file, opened.data.ids[next]);
}

fill(ui.set, [...new Set(files.map((file) => file.set))]);
find("explorer-sets").hidden = ui.set.options.length < 2;
fillTasks();
ui.set.addEventListener("change", () => { fillTasks(); refresh(); });
ui.task.addEventListener("change", () => { fillArms(); refresh(); });
ui.arm.addEventListener("change", refresh);
ui.show.addEventListener("change", refresh);
ui.search.addEventListener("input", () => opened ? list() : refresh());
ui.form.addEventListener("submit", (event) => event.preventDefault());
ui.more.addEventListener("click", more);
find("item-before").addEventListener("click", () => step(-1));
find("item-after").addEventListener("click", () => step(1));
find("item-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  // Not location.hash, which would move the page to its top.
  try { history.replaceState(null, "", location.href.split("#")[0]); } catch { location.hash = "#explorer"; }
});
window.addEventListener("hashchange", follow);
// The first task is loaded when the reader comes to it, and not before.
new IntersectionObserver((seen, observer) => {
  if (!seen.some((entry) => entry.isIntersecting)) return;
  observer.disconnect();
  if (!opened && asked === 0) refresh();
}).observe(find("explorer"));
follow();
})();
