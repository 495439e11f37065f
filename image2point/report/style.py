"""How the page looks and the little that it does; both are set into the page, which loads nothing."""

STYLE = """
:root { color-scheme: light; --ink: #222; --soft: #666; --rule: #ddd;
        --sans: "Helvetica Neue", Helvetica, Arial, "Liberation Sans", sans-serif; }
html { overflow-y: scroll; }  /* figures are drawn to the width that is left beside the scroll bar */
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
       font: 16px/1.55 Charter, "Bitstream Charter", "Source Serif 4", Cambria, Georgia, "Liberation Serif", serif; }
main { max-width: 1080px; margin: 0 auto; padding: 56px 30px 80px; }
h1 { font-size: 29px; line-height: 1.25; font-weight: 600; margin: 0 0 14px; }
h2 { font-size: 20px; font-weight: 600; margin: 52px 0 10px; padding-top: 14px; border-top: 1px solid var(--rule); }
p { max-width: 84ch; margin: 0 0 12px; }
.lead { font-size: 17px; }
.caption { color: var(--soft); font-size: 14px; line-height: 1.5; margin: 4px 0 16px; max-width: 104ch; }
.caption.gap { margin-top: 34px; }
.sideways + .caption:not(.gap) { margin-top: 14px; }
.caption b { color: var(--ink); }
small { font-size: 12px; color: var(--soft); font-weight: 400; }
.warning { font-size: 14.5px; border-left: 3px solid #D55E00; padding: 2px 0 2px 12px; overflow-wrap: anywhere; }
.hint { font-size: 13.5px; color: var(--soft); }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: 12px; }

.wide { overflow-x: auto; }
.wide.more { mask-image: linear-gradient(to right, #000 calc(100% - 44px), transparent); }
.wide:focus-visible { outline: 2px solid #0072B2; outline-offset: 2px; }
.sideways { font: 12px/1.3 var(--sans); color: var(--soft); text-align: right; margin: 5px 0 0;
            max-width: none; }
.contents { display: flex; flex-wrap: wrap; gap: 4px 18px; font: 13.5px/1.5 var(--sans); margin: 0 0 14px; }
.contents a { color: #0072B2; text-decoration: none; }
.contents a:hover { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; font: 13px/1.35 var(--sans); font-variant-numeric: tabular-nums;
        border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { padding: 5px 7px; text-align: right; white-space: nowrap; vertical-align: baseline; font-weight: 400; }
thead th { vertical-align: bottom; color: #333; font-size: 12.5px; }
thead tr:last-child > th, thead th[rowspan] { border-bottom: 1px solid var(--ink); }
tbody tr:first-child > * { padding-top: 8px; }
tbody tr:last-child > * { padding-bottom: 8px; }
th:first-child { padding-left: 2px; }
sub { font-size: .75em; line-height: 0; }
.text { text-align: left; }
th.group { text-align: center; padding: 5px 7px 0; }
th.group > span { display: block; border-bottom: 1px solid #999; padding: 0 4px 4px; }
tbody th.text { min-width: 120px; max-width: 300px; white-space: normal; }
tbody td.text { white-space: normal; }
tr.first:not(:first-child) > * { border-top: 1px solid var(--rule); padding-top: 8px; }
tr.total > td { color: var(--ink); font-weight: 600; padding-bottom: 8px; }
.sd { color: #666; font-size: 11px; }
.stacked td .sd { display: block; line-height: 1.15; }
tbody th small { display: block; line-height: 1.3; }
.arm { display: inline-flex; gap: 7px; align-items: baseline; text-align: left; }
.arm i { flex: none; width: 9px; height: 9px; border-radius: 2px; print-color-adjust: exact; }

.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; margin: 10px 0 14px;
          font: 13px/1.3 var(--sans); }
.legend button { all: unset; cursor: pointer; }
.legend button:focus-visible { outline: 2px solid #0072B2; outline-offset: 3px; }
.legend button.off { opacity: .35; text-decoration: line-through; }
.legend .split { color: var(--soft); display: inline-flex; align-items: center; gap: 6px; }
.legend path { stroke: #555; stroke-width: 1.6; }
.legend .gap { flex: 1; }
.panels { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 22px 24px; }
.panels.two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
figure { margin: 0; break-inside: avoid; }
figcaption { font: 13px/1.35 var(--sans); }
figcaption b { font-weight: 600; }
.panels .meaning { display: block; color: var(--soft); font-size: 11.5px; min-height: 2.7em; }
.panels.two .meaning { min-height: 0; margin-bottom: 4px; }
.key { columns: 150px; column-gap: 16px; margin: 14px 0 0; font: 12px/1.5 var(--sans); }
.key span { display: block; break-inside: avoid; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.key[hidden] { display: none; }
.views button { border-bottom: 2px solid transparent; padding-bottom: 2px; color: var(--soft); }
.views button[aria-pressed="true"] { border-color: var(--ink); color: var(--ink); font-weight: 600; }
.scene b { white-space: nowrap; }
.views + .key, .views + .key + .key { margin: 0 0 14px; }
.key i { display: inline-block; width: 9px; height: 9px; border-radius: 5px; margin-right: 6px;
         print-color-adjust: exact; }
.clouds figure { border: 1px solid var(--rule); border-radius: 3px; padding-bottom: 10px; }
.clouds figcaption { padding: 8px 12px 0; border-top: 1px solid var(--rule); }
.still { display: none; }
.clouds ul { list-style: none; margin: 6px 0 0; padding: 0; font-size: 12.5px; }
.clouds li { display: flex; gap: 6px 12px; align-items: baseline; padding: 1px 0; }
.said { margin-left: auto; text-align: right; }
.said span { white-space: nowrap; margin-left: 8px; }
.wrong { color: #9a2f00; }

details { border-bottom: 1px solid var(--rule); padding: 8px 0; }
summary { cursor: pointer; font: 14px/1.4 var(--sans); }
dl { display: grid; grid-template-columns: minmax(160px, max-content) minmax(0, 1fr); gap: 3px 18px; margin: 12px 0;
     font: 13px/1.45 var(--sans); }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f7f7f5; border: 1px solid #eee; padding: 12px 14px; overflow-x: auto; line-height: 1.45; }

@media screen and (max-width: 860px) {
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .panels.two { grid-template-columns: minmax(0, 1fr); }
}
@media screen and (max-width: 560px) {
  .panels { grid-template-columns: minmax(0, 1fr); }
  main { padding: 28px 16px 48px; }
}
@page { margin: 15mm; }
@media print {
  main { width: 1080px; max-width: none; padding: 0 30px; margin: 0; zoom: .63; }
  h2, .caption, .legend { break-after: avoid; }
  .cloud .plot { display: none; }
  .cloud .still { display: block; width: 100%; }
  tr, details > summary { break-inside: avoid; }
  .wide, pre { overflow: visible; }
  .wide.more { mask-image: none; }
  .sideways, .contents { display: none; }
  pre { white-space: pre-wrap; }
  .hint, .legend button.off { display: none; }
}
"""

SCRIPT = """
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
for (const [id, figure] of Object.entries(figures))
  Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displayModeBar: false});

// What is wider than the page says that it scrolls, as long as there is more to its right.
for (const wide of document.querySelectorAll(".wide")) {
  const look = () => {
    const over = wide.scrollWidth > wide.clientWidth + 1;
    wide.classList.toggle("more", over && wide.scrollLeft + wide.clientWidth < wide.scrollWidth - 1);
    wide.nextElementSibling.hidden = !over;
    if (over) wide.tabIndex = 0; else wide.removeAttribute("tabindex");
  };
  wide.addEventListener("scroll", look);
  new ResizeObserver(look).observe(wide);
}

// Browsers print a WebGL canvas blank: keep a still of each cloud, as it was last turned, for paper.
function still(plot) {
  Plotly.toImage(plot, {format: "png", scale: 2}).then(url => { plot.nextElementSibling.src = url; });
}
for (const plot of document.querySelectorAll(".cloud .plot")) {
  still(plot);
  plot.on("plotly_relayout", () => still(plot));
}

// A click on an arm in any legend hides or shows it in every figure.
function toggle(arm, hidden) {
  for (const button of document.querySelectorAll(`.legend button[data-arm="${arm}"]`)) {
    button.classList.toggle("off", hidden);
    button.setAttribute("aria-pressed", String(!hidden));
  }
  for (const [id, figure] of Object.entries(figures)) {
    const traces = figure.data.flatMap((trace, index) => trace.meta && trace.meta.arm === arm ? [index] : []);
    if (traces.length) Plotly.restyle(id, {visible: !hidden}, traces);
  }
}
for (const button of document.querySelectorAll(".legend button[data-arm]"))
  button.addEventListener("click", () => toggle(Number(button.dataset.arm), !button.classList.contains("off")));

// Scenes show their true classes, the predicted ones, or the errors; those of one scene turn together.
function show(view) {
  for (const button of document.querySelectorAll("[data-view]"))
    button.setAttribute("aria-pressed", String(button.dataset.view === view));
  for (const key of document.querySelectorAll("[data-of]")) key.hidden = !key.dataset.of.split(" ").includes(view);
  for (const [id, figure] of Object.entries(figures)) {
    if (!figure.views) continue;
    const markers = Object.entries(figure.views[view]).map(([name, value]) => ["marker." + name, [value]]);
    Plotly.restyle(id, Object.fromEntries(markers)).then(still);
  }
}
for (const button of document.querySelectorAll("[data-view]"))
  button.addEventListener("click", () => show(button.dataset.view));
let turning = false;
for (const plot of document.querySelectorAll(".scene .plot"))
  plot.on("plotly_relayout", change => {
    if (turning || !change["scene.camera"]) return;
    turning = true;
    const row = plot.parentElement.dataset.scene;
    const others = [...document.querySelectorAll(`.scene[data-scene="${row}"] .plot`)].filter(other => other !== plot);
    Promise.all(others.map(other => Plotly.relayout(other, {"scene.camera": change["scene.camera"]})))
      .then(() => { turning = false; });
  });
"""
