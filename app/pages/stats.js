// Draws /api/stats once a second; stops while the tab is hidden; says so when the worker doesn't answer.
"use strict";

const PERIOD_MS = 1000;
const TIMEOUT_MS = 5000;
const SPARK_POINTS = 60;
const OPEN_UP_TO = 24; // that many partition rows are shown without asking

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

const rates = new Map(); // sink id -> the last rates
const opened = new Map(); // group -> whether its partitions are shown, once somebody chose
let last = null; // the last answer
let received = 0; // when it came, by performance.now()
let failures = 0;
let timer = null;

// -- words for numbers

const dash = "–";
const count = (n) => (n === null ? dash : whole.format(n));
const brief = (n) => (n === null ? dash : n < 100000 ? whole.format(n) : short.format(n));
const rate = (n) => (n === null ? dash : n > 0 && n < 10 ? n.toFixed(1) : brief(n));
const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

function span(seconds) {
  if (seconds === null) return dash;
  if (seconds < 1) return seconds === 0 ? "0 s" : "< 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  if (seconds < 36 * 3600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

// Ages are counted by the worker's clock: the reader's may be wrong.
function ago(time) {
  if (!time) return dash;
  const seconds = (Date.parse(last.at) - Date.parse(time) + performance.now() - received) / 1000;
  return seconds < 1 ? "now" : `${span(seconds)} ago`;
}

function bytes(n) {
  if (n < 1024) return `${n} B`;
  const power = Math.min(3, Math.floor(Math.log2(n) / 10));
  const value = n / 1024 ** power;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${["B", "KiB", "MiB", "GiB"][power]}`;
}

const clock = (date) => date.toLocaleTimeString("en-GB");

// -- touching the document only where something changed: focus, selection and scrolling stay

function text(node, value, className) {
  if (node.textContent !== value) node.textContent = value;
  if (className !== undefined && node.className !== className) node.className = className;
}

function make(tag, className = "", content = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (content) node.textContent = content;
  return node;
}

function level(node, name, value) {
  text(node, value);
  if (node.dataset.level !== name) node.dataset.level = name;
}

// One child of `parent` per item, in the items' order, kept from one answer to the next by its key.
function each(parent, items, key, create, update) {
  const known = (parent.known ??= new Map());
  const wanted = new Map(items.map((item) => [key(item), item]));
  for (const [name, node] of known) {
    if (!wanted.has(name)) {
      node.remove();
      known.delete(name);
    }
  }
  let previous = null;
  for (const [name, item] of wanted) {
    let node = known.get(name);
    if (!node) {
      node = create(item);
      known.set(name, node);
    }
    const place = previous ? previous.nextElementSibling : [...parent.children].find((c) => [...known.values()].includes(c));
    if (node !== place || !node.parentNode) {
      if (previous) previous.after(node);
      else if (place) place.before(node);
      else parent.append(node);
    }
    update(node, item);
    previous = node;
  }
}

function lagClass(rows) {
  return rows ? "n behind" : "n";
}

// -- the parts of the page

function drawSummary(now) {
  text(byId("pipeline"), now.pipeline_id);
  text(byId("worker"), `${now.worker.id}, up for ${span(now.worker.uptime_seconds)}`);
  text(byId("app"), `consumer group ${now.app_id}`);
  level(byId("state"), now.state.level, now.state.name);
  text(byId("state-text"), now.log_ends_error ? `${now.state.text}: ${now.log_ends_error}` : now.state.text);
  byId("main").dataset.level = now.state.level;
  const spoken = `${now.pipeline_id} is ${now.state.name}`;
  text(byId("announce"), spoken); // a screen reader hears of changes only
  document.title = `${now.state.level === "ok" ? "" : "▲ "}${now.state.name} · ${now.pipeline_id} · Lakeward`;

  const totals = now.totals;
  const known = totals.partitions > totals.lag_unknown;
  text(byId("lag"), known ? plural(totals.lag_rows, "row") : dash);
  text(byId("lag-note"), lagNote(now, known));
  text(byId("rate"), rate(totals.rows_per_s));
  text(byId("rate-note"), `${plural(totals.rows, "row")} in ${plural(totals.commits, "commit")} here`);
  text(byId("last"), ago(totals.last_commit));
  text(byId("last-note"), totals.last_commit ? `at ${clock(new Date(totals.last_commit))}` : "none yet");
  text(byId("bytes"), bytes(now.worker.bytes_under_way));
  text(byId("bytes-note"), `of ${bytes(now.worker.bytes_budget)} at most`);
  const all = now.topics.reduce((sum, topic) => sum + topic.partitions, 0);
  text(byId("partitions"), `${now.worker.partitions} of ${all}`);
  text(byId("partitions-note"), `in ${plural(now.topics.length, "topic")}`);
}

function lagNote(now, known) {
  const { totals } = now;
  const parts = [];
  if (known) parts.push(totals.lag_seconds === null ? "age not known yet" : `at most ${span(totals.lag_seconds)} old`);
  if (totals.lag_rows === 0 && known) parts[0] = "everything is in the tables";
  if (totals.lag_rows && now.sinks.length > 1) parts.push(`sum over ${now.sinks.length} sinks`);
  if (totals.lag_unknown) parts.push(`not yet known for ${totals.lag_unknown}`);
  return parts.join("; ");
}

const STATUS_LEVEL = { running: "ok", idle: "busy", retrying: "error", failed: "error" };

function createSink() {
  const card = make("article", "card");
  card.innerHTML = `<div class="top"><h3></h3><span class="quiet type"></span><span class="pill"></span></div>
    <p class="quiet tables"></p>
    <dl class="figures"><div><dt>Lag</dt><dd></dd></div><div><dt>Lag, time</dt><dd></dd></div><div><dt>Rows/s</dt><dd></dd></div>
    <div><dt>Last commit</dt><dd></dd></div><div><dt>Rows, commits</dt><dd></dd></div>
    <div class="chart" aria-hidden="true"><svg class="spark" viewBox="0 0 59 30" preserveAspectRatio="none"><path/></svg></div></dl>
    <div class="problem" hidden><p><strong></strong> <span class="quiet when"></span></p>
    <p class="message"></p><p class="quiet cause"></p></div>`; // fixed markup; what the worker says goes in as text
  return card;
}

function drawSink(card, sink) {
  const find = (selector) => card.querySelector(selector);
  text(find("h3"), sink.sink_id);
  text(find(".type"), sink.sink_type);
  level(find(".pill"), STATUS_LEVEL[sink.status], sink.status);
  const more = sink.tables.length > 4 ? ` and ${sink.tables.length - 4} more` : "";
  text(find(".tables"), sink.tables.slice(0, 4).join(", ") + more);
  const totals = sink.totals;
  const known = totals.partitions > totals.lag_unknown;
  const figures = [
    known ? plural(totals.lag_rows, "row") : dash,
    span(totals.lag_seconds),
    rate(totals.rows_per_s),
    ago(totals.last_commit),
    `${brief(totals.rows)}, ${brief(totals.commits)}`,
  ];
  card.querySelectorAll("dd").forEach((node, i) => text(node, figures[i]));
  find(".spark path").setAttribute("d", sparkline(rates.get(sink.sink_id) ?? []));
  drawProblem(find(".problem"), sink.error);
}

function drawProblem(box, error) {
  box.hidden = !error;
  if (!error) return;
  box.classList.toggle("over", error.over);
  text(box.querySelector("strong"), error.over ? "Last error, over since:" : "Error:");
  text(box.querySelector(".when"), `${ago(error.at)}, ${plural(error.count, "failed attempt")} since the start`);
  text(box.querySelector(".message"), error.message);
  text(box.querySelector(".cause"), error.cause ? `caused by ${error.cause}` : "");
}

function sparkline(values) {
  if (values.length < 2) return "";
  const top = Math.max(...values, 1);
  const left = SPARK_POINTS - values.length;
  const points = values.map((value, i) => `${left + i},${(28 - (value / top) * 26).toFixed(1)}`);
  return `M${left},29L${points.join("L")}L${left + values.length - 1},29Z`;
}

function groups(now) {
  const found = new Map();
  for (const row of now.partitions) {
    const key = `${row.sink_id}\n${row.topic}`;
    if (!found.has(key)) found.set(key, { key, sink: row.sink_id, topic: row.topic, table: row.table, rows: [] });
    found.get(key).rows.push(row);
  }
  return [...found.values()];
}

function drawProgress(now) {
  const wanted = byId("find").value.trim().toLowerCase();
  const behind = byId("behind").checked;
  const shown = groups(now)
    .filter((group) => `${group.sink} ${group.topic} ${group.table}`.toLowerCase().includes(wanted))
    .map((group) => (behind ? { ...group, rows: group.rows.filter((row) => row.lag_rows !== 0) } : group))
    .filter((group) => group.rows.length);
  each(byId("progress"), shown, (group) => group.key, createGroup, drawGroup);
  const empty = byId("empty");
  empty.hidden = shown.length > 0;
  byId("progress").parentNode.hidden = !shown.length;
  text(empty, shown.length ? "" : emptyText(now, wanted, behind));
  const open = shown.every(isOpen);
  text(byId("all"), open && shown.length ? "Close all" : "Open all");
  byId("all").hidden = !shown.length;
}

function emptyText(now, wanted, behind) {
  if (now.partitions.length) return behind && !wanted ? "Nothing is behind." : "Nothing fits what you look for.";
  const missing = now.topics.filter((topic) => !topic.partitions).map((topic) => topic.topic);
  if (!missing.length) return "No partition is assigned yet.";
  const names = missing.slice(0, 5).join(", ") + (missing.length > 5 ? ` and ${missing.length - 5} more` : "");
  return `Waiting for topics: ${names}. “cdc deploy” creates them with the connector.`;
}

const isOpen = (group) => opened.get(group.key) ?? last.partitions.length <= OPEN_UP_TO;

function createGroup(group) {
  const body = make("tbody");
  const row = make("tr", "group");
  const name = make("th");
  name.scope = "rowgroup";
  const button = make("button");
  button.type = "button";
  button.append(make("span", "name"), make("span", "to"));
  button.addEventListener("click", () => {
    opened.set(group.key, button.getAttribute("aria-expanded") !== "true");
    drawProgress(last);
  });
  name.append(button);
  row.append(name);
  for (let i = 0; i < 9; i++) row.append(make("td", i < 8 ? "n" : ""));
  body.append(row);
  body.groupRow = row;
  return body;
}

const sum = (rows, field) => rows.reduce((total, row) => total + (row[field] ?? 0), 0);

function greatest(rows, field) {
  return rows.reduce((best, row) => (row[field] !== null && (best === null || row[field] > best) ? row[field] : best), null);
}

// A table's files are as its last commit found them, whichever partition that was for.
function newest(rows) {
  const known = rows.filter((row) => row.files);
  return known.reduce((best, row) => (!best || row.committed_at > best.committed_at ? row : best), null);
}

function files(row) {
  if (!row) return dash;
  const { data, deletes, bytes: size } = row.files;
  return `${count(data)}${deletes ? ` + ${count(deletes)}` : ""}, ${bytes(size)}`;
}

function drawGroup(body, group) {
  const { rows } = group;
  const mine = rows.filter((row) => row.mine);
  const known = rows.some((row) => row.lag_rows !== null);
  const button = body.querySelector("button");
  const open = isOpen(group);
  button.setAttribute("aria-expanded", String(open));
  text(button.querySelector(".name"), group.topic);
  text(button.querySelector(".to"), `→ ${group.sink}, ${plural(rows.length, "partition")}`);
  const cells = body.groupRow.querySelectorAll("td");
  const lag = known ? sum(rows, "lag_rows") : null;
  [
    ["", "n"],
    [count(lag), lagClass(lag)],
    [span(greatest(rows, "lag_seconds")), "n"],
    [mine.length ? rate(sum(mine, "rows_per_s")) : dash, "n"],
    [mine.length ? count(sum(mine, "rows")) : dash, "n"],
    [ago(greatest(rows, "committed_at")), "n"],
    [files(newest(rows)), "n"],
    ["", "n"],
    [mine.length === rows.length ? "here" : mine.length ? `${mine.length} here` : "elsewhere", ""],
  ].forEach(([value, style], i) => text(cells[i], value, style));
  each(body, open ? rows : [], (row) => row.partition, createPartition, drawPartition);
}

// Iceberg's snapshots have up to 19 digits: the whole of them is the cell's title, and in the JSON.
const abridged = (version) => (version.length > 12 ? `${version.slice(0, 4)}…${version.slice(-4)}` : version);

function createPartition(row) {
  const line = make("tr", "part");
  const name = make("th", "", `partition ${row.partition}`);
  name.scope = "row";
  line.append(name);
  for (let i = 0; i < 9; i++) line.append(make("td", i < 8 ? "n" : ""));
  return line;
}

function drawPartition(line, row) {
  line.classList.toggle("elsewhere", !row.mine);
  const cells = line.querySelectorAll("td");
  [
    [count(row.next_offset), "n"],
    [count(row.lag_rows), lagClass(row.lag_rows)],
    [span(row.lag_seconds), "n"],
    [rate(row.rows_per_s), "n"],
    [count(row.rows), "n"],
    [ago(row.committed_at), "n"],
    ["", "n"],
    [row.version ? abridged(row.version) : dash, "n"],
    [row.mine ? "here" : "elsewhere", ""],
  ].forEach(([value, style], i) => text(cells[i], value, style));
  cells[7].title = row.version ?? "";
}

function drawTopics(now) {
  const create = (topic) => {
    const line = make("tr");
    const name = make("th", "", topic.topic);
    name.scope = "row";
    line.append(name);
    for (let i = 0; i < 6; i++) line.append(make("td", i < 5 ? "n" : ""));
    return line;
  };
  each(byId("topics").tBodies[0], now.topics, (topic) => topic.topic, create, (line, topic) => {
    const skipped = Object.entries(topic.skipped).map(([kind, n]) => `${count(n)} ${kind}`);
    const cells = line.querySelectorAll("td");
    [
      [topic.partitions ? `${topic.mine} of ${topic.partitions}` : "not there yet", "n"],
      [count(topic.records), "n"],
      [count(topic.changes), "n"],
      [count(topic.rejected), topic.rejected ? "n bad" : "n"],
      [count(topic.fallback), topic.fallback ? "n behind" : "n"],
      [skipped.join(", ") || dash, ""],
    ].forEach(([value, style], i) => text(cells[i], value, style));
  });
}

const verdict = (version) => (version.compatible === null ? "there at first" : version.compatible ? "yes" : "no");

function drawSchemas(now) {
  const create = (subject) => {
    const line = make("tr");
    const name = make("th", "", subject.topic);
    name.scope = "row";
    line.append(name);
    for (let i = 0; i < 6; i++) line.append(make("td"));
    return line;
  };
  byId("schemas-section").hidden = !now.schemas.length;
  const key = (subject) => `${subject.topic}\n${subject.part}`;
  each(byId("schemas").tBodies[0], now.schemas, key, create, (line, subject) => {
    const [newest, ...older] = subject.versions;
    const before = older.map((v) => `${v.version}${v.compatible === false ? " (not compatible)" : ""}`);
    const cells = line.querySelectorAll("td");
    [
      [subject.part, ""],
      [count(newest.version), "n"],
      [String(newest.schema_id), "n"],
      [ago(newest.seen_at), "n"],
      [verdict(newest), newest.compatible === false ? "bad" : ""],
      [before.join(", ") || dash, ""],
    ].forEach(([value, style], i) => text(cells[i], value, style));
  });
}

function draw() {
  drawSummary(last);
  each(byId("sinks"), last.sinks, (sink) => sink.sink_id, createSink, drawSink);
  drawProgress(last);
  drawTopics(last);
  drawSchemas(last);
}

// -- asking the worker

async function ask() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const response = await fetch("../api/stats", { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    last = await response.json();
    received = performance.now();
    failures = 0;
    for (const sink of last.sinks) {
      const values = rates.get(sink.sink_id) ?? [];
      rates.set(sink.sink_id, [...values, sink.totals.rows_per_s].slice(-SPARK_POINTS));
    }
    draw();
    text(byId("live"), `live, ${clock(new Date())}`);
    silent(null);
  } catch (error) {
    failures += 1;
    silent(error);
  }
  if (!document.hidden) timer = setTimeout(ask, PERIOD_MS);
}

function silent(error) {
  document.body.classList.toggle("stale", error !== null);
  byId("silence").hidden = error === null;
  if (error === null) return;
  const why = error.name === "TimeoutError" ? `no answer within ${TIMEOUT_MS / 1000} s` : error.message;
  const since = last ? `The figures are ${span((performance.now() - received) / 1000)} old.` : "";
  text(byId("silence"), `The worker doesn't answer (${why}). ${since} Trying again every second.`.replace("  ", " "));
  text(byId("live"), "no answer");
  level(byId("state"), "error", "no answer");
  text(byId("state-text"), last ? `before that: ${last.state.name}` : "");
  text(byId("announce"), "The worker doesn't answer");
  document.title = `▲ no answer · ${last ? last.pipeline_id : "Lakeward"}`;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) text(byId("live"), "paused");
  else ask();
});
byId("find").addEventListener("input", () => last && drawProgress(last));
byId("behind").addEventListener("change", () => last && drawProgress(last));
byId("all").addEventListener("click", () => {
  const shown = groups(last);
  const open = !shown.every(isOpen);
  for (const group of shown) opened.set(group.key, open);
  drawProgress(last);
});
ask();
