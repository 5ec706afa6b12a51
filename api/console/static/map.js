// Draws the map of /play/map. What it may draw is said by the page: the layers in data-layer, the filters in the form.
// It keeps the address true to what is seen, says how much of the row ledger is in view, and what was picked.

const { Map: MapView, NavigationControl, ScaleControl, addProtocol, setWorkerUrl } = globalThis.maplibregl;
const { Protocol } = globalThis.pmtiles;

const form = document.getElementById("state");
const place = document.getElementById("map");
const counted = document.getElementById("counted");
const picked = document.querySelector("#picked .body");
const about = form.elements.about.value;
const COLOURS = ["a", "b", "c", "d", "e", "f", "g", "other"];
const NEAR = 6;
const NEAR_BY_KEY = 24;
const MOST_PICKED = 5;
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const words = new Intl.NumberFormat("en");

// Colours are tokens of the style sheet, in whichever theme it is.
function token(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

const colourOf = (number) => token(`series-${COLOURS[number]}`);

function readLayers() {
  const items = [...document.querySelectorAll("#layers [data-layer]")];
  return items.map((item) => JSON.parse(item.dataset.layer)).filter((layer) => layer.archive);
}

// What the form says

const isOn = (layer) => form.querySelector(`[name=on][value="${layer.id}"]`)?.checked ?? false;

function categories() {
  return [...form.querySelectorAll("[name=only]")].map((box) => ({ value: box.value, on: box.checked, colour: Number(
    [...box.nextElementSibling.classList].find((name) => name.startsWith("colour-")).slice(7)) }));
}

function filters(layer) {
  const all = layer.id === about ? categories() : [];
  const on = all.filter((one) => one.on);
  const periods = [...(form.elements.from?.options ?? [])].map((one) => one.value).filter(Boolean);
  const [from, to] = [form.elements.from?.value, form.elements.to?.value];
  const some = layer.id === about && (from || to);
  return {
    only: on.length < all.length ? on.map((one) => one.value) : null,
    periods: some ? periods.filter((one) => (!from || one >= from) && (!to || one <= to)) : null,
  };
}

// How a layer is drawn

// Values as the page writes them.
const text = (attribute) => ["case", ["==", ["get", attribute], true], "True", ["==", ["get", attribute], false], "False",
  ["to-string", ["get", attribute]]];

function exactFilter(layer) {
  const { only, periods } = filters(layer);
  const all = ["all"];
  if (only) all.push(["in", text(layer.category), ["literal", only]]);
  if (periods) all.push(["in", text(layer.time), ["literal", periods]]);
  return all;
}

// A cell counts by category and by period, not by both: where both are chosen, the category decides.
function cellCount(layer) {
  const { only, periods } = filters(layer);
  const [attribute, values] = only ? [layer.category, only] : [layer.time, periods];
  if (!values) return ["get", "count"];
  return ["+", 0, ...values.map((one) => ["coalesce", ["get", `${attribute}=${one}`], 0])];
}

function colour(layer, attribute) {
  if (layer.id !== about || !layer.category) return colourOf(layer.colour);
  const known = categories().filter((one) => one.colour < COLOURS.length - 1);
  if (!known.length) return colourOf(layer.colour);
  const { only } = filters(layer);
  if (attribute === "top" && only) return only.length === 1 ? colourOf(categories().find((one) => one.on).colour)
    : colourOf(COLOURS.length - 1);
  return ["match", text(attribute), ...known.flatMap((one) => [one.value, colourOf(one.colour)]),
    colourOf(COLOURS.length - 1)];
}

function stylesOf(layer) {
  const made = { source: layer.id, layout: { visibility: isOn(layer) ? "visible" : "none" } };
  const land = token("map-land");
  const parts = [];
  if (layer.layers.includes(layer.id)) {
    const paint = colour(layer, layer.category);
    const exact = { ...made, "source-layer": layer.id, filter: exactFilter(layer) };
    if (layer.kind === "points") {
      parts.push({ ...exact, id: layer.id, type: "circle", paint: { "circle-color": paint, "circle-opacity": 0.85,
        "circle-radius": ["interpolate", ["linear"], ["zoom"], 4, 2.5, 10, 4, 16, 7],
        "circle-stroke-color": land, "circle-stroke-width": ["interpolate", ["linear"], ["zoom"], 6, 0.3, 14, 1] } });
    } else if (layer.kind === "lines") {
      parts.push({ ...exact, id: layer.id, type: "line", layout: { ...made.layout, "line-cap": "round" },
        paint: { "line-color": paint, "line-width": ["interpolate", ["linear"], ["zoom"], 8, 1, 16, 4] } });
    } else {
      parts.push({ ...exact, id: layer.id, type: "fill", paint: { "fill-color": paint, "fill-opacity": 0.35 } });
      parts.push({ ...exact, id: `${layer.id}-edge`, type: "line", paint: { "line-color": paint, "line-width": 1.2 } });
    }
  }
  const cells = layer.layers.find((name) => name !== layer.id);
  if (cells) {
    const count = cellCount(layer);
    parts.push({ ...made, id: `${layer.id}-cells`, "source-layer": cells, type: "circle", filter: [">", count, 0],
      layout: { ...made.layout, "circle-sort-key": ["-", 0, count] },
      paint: { "circle-color": colour(layer, "top"), "circle-opacity": 0.7, "circle-stroke-color": land,
        "circle-stroke-width": 1,
        "circle-radius": ["interpolate", ["linear"], ["sqrt", count], 1, 2.5, 10, 5, 30, 8, 100, 16, 300, 28] } });
  }
  return parts;
}

const basemapStyles = () => [
  { id: "water", type: "background", paint: { "background-color": token("map-water") } },
  { id: "land", type: "fill", source: "basemap", "source-layer": "land", paint: { "fill-color": token("map-land") } },
  { id: "coast", type: "line", source: "basemap", "source-layer": "land", paint: { "line-color": token("map-border"),
    "line-width": 0.6 } },
  { id: "borders", type: "line", source: "basemap", "source-layer": "borders", paint: {
    "line-color": token("map-border"), "line-width": ["interpolate", ["linear"], ["zoom"], 0, 0.5, 6, 1.4] } },
];

const names = () => ({ id: "names", type: "symbol", source: "basemap", "source-layer": "names",
  filter: ["<=", ["get", "rank"], ["+", 0, ["zoom"]]],
  layout: { "text-field": ["get", "name"], "text-font": [getComputedStyle(document.body).fontFamily],
    "text-size": 12, "text-max-width": 7, "symbol-sort-key": ["get", "rank"] },
  paint: { "text-color": token("map-name"), "text-halo-color": token("map-land"), "text-halo-width": 1.5 } });

const mark = () => [
  { id: "mark-line", type: "line", source: "mark", paint: { "line-color": token("text"), "line-width": 3 } },
  { id: "mark-point", type: "circle", source: "mark", filter: ["==", ["geometry-type"], "Point"], paint: {
    "circle-radius": 11, "circle-opacity": 0, "circle-stroke-color": token("text"), "circle-stroke-width": 2.5 } },
];

// Without bounds: the library asks for no tile beyond them, also where something lies right on the edge of one.
function sourceOf(path, [minzoom, maxzoom]) {
  return { type: "vector", tiles: [`pmtiles://${location.origin}${path}/{z}/{x}/{y}`], minzoom, maxzoom };
}

let layers = readLayers();
let marked = { type: "FeatureCollection", features: [] };

function style() {
  const sources = { basemap: sourceOf(place.dataset.basemap, [0, Number(place.dataset.basemapZoom)]),
    mark: { type: "geojson", data: marked } };
  // A new archive has another address, so that nothing of the one before is drawn.
  for (const layer of layers) {
    sources[layer.id] = sourceOf(`${layer.archive}?sha256=${layer.sha256.slice(0, 12)}`, layer.zooms);
  }
  // Areas lie under lines, and lines under points.
  const order = ["polygons", "lines", "points"];
  const drawn = [...layers].sort((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind));
  return { version: 8, sources, layers: [...basemapStyles(), names(), ...drawn.flatMap(stylesOf), ...mark()] };
}

// The address

function startingView() {
  const [zoom, latitude, longitude] = (new URLSearchParams(location.search).get("at") ?? "").split("/").map(Number);
  if ([zoom, latitude, longitude].every(Number.isFinite)) return { zoom, center: [longitude, latitude] };
  const layer = layers.find((one) => one.id === about) ?? layers[0];
  const [west, south, east, north] = layer.bounds;
  return { bounds: [[west, south], [east, north]], fitBoundsOptions: { padding: 40, maxZoom: 16 } };
}

function keepAddress() {
  const query = new URLSearchParams({ about });
  const on = layers.filter(isOn).map((layer) => layer.id);
  if (on.join() !== about) (on.length ? on : [""]).forEach((id) => query.append("on", id));
  const chosen = layers.find((layer) => layer.id === about);
  const only = chosen ? filters(chosen).only : null;
  if (only) (only.length ? only : [""]).forEach((value) => query.append("only", value));
  for (const name of ["from", "to"]) if (form.elements[name]?.value) query.set(name, form.elements[name].value);
  const center = map.getCenter();
  query.set("at", [map.getZoom().toFixed(2), center.lat.toFixed(5), center.lng.toFixed(5)].join("/"));
  history.replaceState(null, "", `?${query.toString().replaceAll("%2F", "/")}${location.hash}`);
}

// How much is seen

function stylesSeen(layer) {
  return stylesOf(layer).map((one) => one.id).filter((id) => !id.endsWith("-edge") && map.getLayer(id));
}

function seen(layer) {
  const features = map.queryRenderedFeatures({ layers: stylesSeen(layer) });
  const { only, periods } = filters(layer);
  const attribute = only ? layer.category : layer.time;
  const ids = new Set();
  let cells = 0;
  for (const feature of features) {
    if (feature.layer.id === `${layer.id}-cells`) {
      const values = only ?? periods;
      cells += values ? values.reduce((sum, one) => sum + (feature.properties[`${attribute}=${one}`] ?? 0), 0)
        : feature.properties.count;
    } else ids.add(feature.id);
  }
  return { total: cells + ids.size, cells, both: cells > 0 && only && periods };
}

function tellCount() {
  const layer = layers.find((one) => one.id === about);
  if (!layer || !isOn(layer)) {
    counted.textContent = "";
    delete counted.dataset.rendered;
    return;
  }
  const { total, cells, both } = seen(layer);
  counted.dataset.rendered = total;
  const how = cells ? `, ${words.format(cells)} of them counted in cells` : "";
  counted.textContent = total === layer.released ? `All ${words.format(total)} rows that the row ledger releases are in view${how}.`
    : `${words.format(total)} of ${words.format(layer.released)} are in view${how}.`;
  if (both) counted.textContent += " Cells count by one filter at a time: zoom in for both.";
}

// What was picked

function definitions(entries) {
  const list = document.createElement("dl");
  list.className = "definitions";
  for (const [name, value] of entries) {
    const [term, definition] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    definition.textContent = typeof value === "number" ? words.format(value) : String(value);
    list.append(term, definition);
  }
  return list;
}

// The counts of a cell by one attribute, which names them, such as `type=Burglary`.
function countsOf(feature, attribute) {
  const named = Object.entries(feature.properties).filter(([name]) => name.startsWith(`${attribute}=`));
  return named.map(([name, count]) => [name.slice(attribute.length + 1), count]);
}

function said(feature) {
  const layer = layers.find((one) => one.id === feature.source);
  const [one, title] = [document.createElement("section"), document.createElement("h3")];
  one.append(title);
  if (feature.layer.id !== `${layer.id}-cells`) {
    title.textContent = `${layer.title}, ${feature.id}`;
    one.append(definitions(Object.entries(feature.properties)));
    return one;
  }
  title.textContent = `${layer.title}: ${words.format(feature.properties.count)} counted here`;
  one.append(definitions(countsOf(feature, layer.category).sort((some, other) => other[1] - some[1])));
  const periods = countsOf(feature, layer.time).sort();
  if (periods.length) {
    const [more, summary] = [document.createElement("details"), document.createElement("summary")];
    summary.textContent = `By ${layer.time.replaceAll("_", " ")}`;
    more.append(summary, definitions(periods));
    one.append(more);
  }
  return one;
}

// In pixels; lines and areas come after every point that is near enough.
function distance(feature, point) {
  return feature.geometry.type === "Point" ? map.project(feature.geometry.coordinates).dist(point) : NEAR_BY_KEY * 2;
}

function pick(point, near) {
  const ids = layers.filter(isOn).flatMap(stylesSeen);
  const box = [[point.x - near, point.y - near], [point.x + near, point.y + near]];
  const found = new Map(map.queryRenderedFeatures(box, { layers: ids }).map((one) => [`${one.layer.id}/${one.id}`, one]));
  const nearest = [...found.values()].sort((one, other) => distance(one, point) - distance(other, point));
  const some = nearest.slice(0, MOST_PICKED);
  marked = { type: "FeatureCollection", features: some.slice(0, 1).map((one) => ({ type: "Feature", properties: {},
    geometry: one.geometry })) };
  map.getSource("mark").setData(marked);
  const nothing = document.createElement("p");
  nothing.className = "muted small";
  nothing.textContent = "There is nothing there.";
  picked.replaceChildren(...(some.length ? some.map(said) : [nothing]));
  if (found.size > MOST_PICKED) {
    nothing.textContent = `And ${words.format(found.size - MOST_PICKED)} more; zoom in to tell them apart.`;
    picked.append(nothing);
  }
}

// Putting it together

let map;

function restyle() {
  delete place.dataset.idle;
  map.setStyle(style(), { diff: true });
  map.triggerRepaint();
  for (const credit of document.querySelectorAll("[data-credit]")) {
    credit.hidden = !isOn({ id: credit.dataset.credit });
  }
}

function draw() {
  const protocol = new Protocol();
  setWorkerUrl(place.dataset.worker);
  addProtocol("pmtiles", protocol.tile);
  map = new MapView({ container: place, style: style(), attributionControl: false, dragRotate: false, pitchWithRotate: false,
    touchPitch: false, maxZoom: 19, renderWorldCopies: false, fadeDuration: still ? 0 : 200, ...startingView(),
    locale: { "Map.Title": "Map: arrows move it, plus and minus zoom, Enter picks what is in the middle" } });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new ScaleControl(), "bottom-left");
  map.on("idle", () => {
    tellCount();
    place.dataset.idle = "true";
  });
  map.on("movestart", () => { delete place.dataset.idle; });
  map.on("moveend", keepAddress);
  map.on("click", (event) => pick(event.point, NEAR));
  map.getCanvas().addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    pick(map.project(map.getCenter()), NEAR_BY_KEY);
  });
  form.addEventListener("change", () => {
    restyle();
    keepAddress();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  // A build has ended, and the page holds another archive.
  document.addEventListener("stemma:refreshed", () => {
    const fresh = readLayers();
    if (JSON.stringify(fresh) === JSON.stringify(layers)) return;
    layers = fresh;
    restyle();
  });
}

try {
  draw();
} catch {
  document.getElementById("no-map").hidden = false;
  document.getElementById("keys").hidden = true;
}
