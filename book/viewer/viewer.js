/* The scan viewer of the page of scans: loads a case when it is opened, draws it with NiiVue. Without WebGL or script the
   page keeps its pictures. Works from a disk and from a server. */
(() => {
  "use strict";

  const root = new URL("..", document.currentScript.src);
  const WINDOWS = { Lung: [-1350, 150], Mediastinum: [-160, 240], Wide: [-1024, 600] };
  const MASK_OPACITY = 0.3;
  const PLANES = ["Sagittal", "Coronal", "Axial"]; // the axes of NiiVue's crosshair: x, y, z
  const HELP =
    "Click or drag in a plane to move the cross, or use the sliders. With the picture in focus: arrow up and down, " +
    "axial slices; left and right, sagittal; page up and down, coronal; 1, 2, 3, window; M, mask; R, next map of the " +
    "risk; mouse wheel, slices of the plane under the pointer.";

  const cases = new Map();
  const scripts = new Map();
  window.sscctScan = (id, content) => cases.set(id, content);

  function script(address) {
    if (!scripts.has(address)) {
      const loaded = new Promise((resolve, reject) => {
        const element = document.createElement("script");
        element.src = new URL(address, root).href;
        element.onload = resolve;
        element.onerror = () => {
          scripts.delete(address);
          reject(new Error(`${address} cannot be loaded`));
        };
        document.head.append(element);
      });
      scripts.set(address, loaded);
    }
    return scripts.get(address);
  }

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  class Pane {
    constructor(box) {
      this.caption = make("p", { className: "scan-caption" });
      this.canvas = make("canvas", { tabIndex: 0 });
      this.canvas.setAttribute("role", "application");
      this.frame = make("div", { className: "scan-canvas" }, this.canvas);
      this.element = make("div", { className: "scan-pane" }, this.caption, this.frame);
      box.append(this.element);
    }

    async start() {
      if (this.nv) return;
      this.nv = new niivue.Niivue({
        backColor: [0, 0, 0, 1],
        crosshairColor: [0.94, 0.89, 0.26, 0.8],
        crosshairWidth: 1,
        dragAndDropEnabled: false,
        isRadiologicalConvention: true,
        loadingText: "",
        multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
        scrollRequiresFocus: true,
        show3Dcrosshair: false,
        logLevel: "error",
      });
      this.nv.addColormap("lungs", { R: [0, 86, 0], G: [0, 180, 114], B: [0, 233, 178], A: [0, 255, 255], I: [0, 127, 255] });
      this.nv.addColormap("raises", { R: [253, 230, 255], G: [174, 97, 140], B: [97, 1, 0], A: [0, 200, 255], I: [0, 128, 255] });
      this.nv.addColormap("lowers", { R: [178, 94, 190], G: [171, 60, 120], B: [210, 153, 255], A: [0, 200, 255], I: [0, 128, 255] });
      await this.nv.attachToCanvas(this.canvas);
    }

    async show(id, words, layout) {
      await this.start();
      const content = cases.get(id);
      this.caption.textContent = words;
      this.canvas.setAttribute("aria-label", `Scan ${id} in three planes; arrow keys move through it`);
      this.canvas.dataset.scan = id;
      for (const volume of [...this.nv.volumes]) this.nv.removeVolume(volume);
      const add = async (base64, name, look) =>
        this.nv.addVolume(await niivue.NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, ...look }));
      await add(content.image, id, { colormap: "gray", cal_min: -1350, cal_max: 150 });
      await add(content.mask, "mask", { colormap: "lungs", opacity: 0, cal_min: 0, cal_max: 2 });
      this.maps = Object.keys(content.attributions);
      for (const name of this.maps) {
        await add(content.attributions[name].file, "map", {
          colormap: "raises",
          colormapNegative: "lowers",
          opacity: 0,
          cal_min: 20,
          cal_max: 100,
          cal_minNeg: -20,
          cal_maxNeg: -100,
        });
      }
      this.nv.opts.multiplanarLayout = layout;
      this.nv.setSliceType(this.nv.sliceTypeMultiplanar);
      this.nv.scene.crosshairPos = [0.3, 0.5, 0.5];
      this.element.hidden = false;
      this.nv.resizeListener();
    }

    look({ range, mask, map }) {
      const [image, lungs, ...maps] = this.nv.volumes;
      [image.cal_min, image.cal_max] = range;
      lungs.opacity = mask ? MASK_OPACITY : 0;
      maps.forEach((volume, at) => (volume.opacity = this.maps[at] === map ? 0.9 : 0));
      this.nv.updateGLVolume();
    }

    moveTo(place) {
      this.nv.scene.crosshairPos = [...place];
      this.nv.drawScene();
    }
  }

  class Viewer {
    constructor() {
      this.panes = [];
      this.place = [0.3, 0.5, 0.5];
      this.box = make("div", { className: "scan-panes" });
      this.status = make("p", { className: "scan-status" });
      this.status.setAttribute("role", "status");
      this.sliders = PLANES.map((name, axis) => {
        const input = make("input", { type: "range", min: 0, max: 1, step: 0.005, value: this.place[axis] });
        input.addEventListener("input", () => this.step(axis, Number(input.value) - this.place[axis]));
        return { input, label: make("label", {}, `${name} slice`, input) };
      });
      this.windows = Object.keys(WINDOWS).map((name, at) => {
        const input = make("input", { type: "radio", name: "scan-window", value: name, checked: at === 0 });
        input.addEventListener("change", () => this.look());
        return { input, label: make("label", {}, input, name) };
      });
      this.mask = make("input", { type: "checkbox" });
      this.map = make("select");
      for (const control of [this.mask, this.map]) control.addEventListener("change", () => this.look());
      this.mapLabel = make("label", {}, "What the risk rests on", this.map);
      this.legend = make("span", { className: "scan-legend" });
      const close = make("button", { type: "button", className: "scan-button", textContent: "Close" });
      close.addEventListener("click", () => this.close());
      const ranges = make("fieldset", {}, make("legend", { textContent: "Window" }), ...this.windows.map((one) => one.label));
      this.element = make(
        "section",
        { className: "scan-viewer" },
        make("div", { className: "scan-bar" }, ranges, make("label", {}, this.mask, "Lung mask"), this.mapLabel, this.legend, close),
        this.status,
        this.box,
        make("div", { className: "scan-sliders" }, ...[...this.sliders].reverse().map((one) => one.label)),
        make("p", { className: "scan-help", textContent: HELP }),
      );
      this.element.setAttribute("aria-label", "Scan viewer");
      this.box.addEventListener("keydown", (event) => this.key(event), true);
    }

    async open(cards, after) {
      const request = (this.request = Symbol());
      this.opener = document.activeElement;
      after.after(this.element);
      this.element.hidden = false;
      this.element.dataset.ready = "";
      this.status.textContent = "Loading …";
      try {
        await script("vendor/niivue.js");
        await Promise.all(cards.map((card) => script(card.dataset.file)));
        const narrow = this.element.clientWidth < 560;
        const { COLUMN, GRID, ROW } = niivue.MULTIPLANAR_TYPE;
        const layout = cards.length > 1 ? COLUMN : narrow ? GRID : ROW;
        this.box.dataset.layout = cards.length > 1 ? "column" : narrow ? "grid" : "row";
        while (this.panes.length < cards.length) this.panes.push(new Pane(this.box));
        this.panes.forEach((pane, at) => (pane.element.hidden = at >= cards.length));
        for (const [at, card] of cards.entries()) {
          await this.panes[at].show(card.dataset.scan, card.dataset.words, layout);
          this.panes[at].nv.onLocationChange = () => this.follow(this.panes[at]);
          if (request !== this.request) return;
        }
      } catch (error) {
        this.status.textContent = `The viewer cannot show this scan (${error.message}); the picture above is what there is.`;
        return;
      }
      this.shown = this.panes.slice(0, cards.length);
      this.offerMaps();
      this.look();
      this.move([0.3, 0.5, 0.5]);
      this.status.textContent = "";
      this.element.dataset.ready = cards.map((card) => card.dataset.scan).join(" ");
      this.element.scrollIntoView({ block: "nearest" });
      this.panes[0].canvas.focus({ preventScroll: true });
    }

    offerMaps() {
      const names = [...new Set(this.shown.flatMap((pane) => pane.maps))];
      this.map.replaceChildren(make("option", { value: "", textContent: names.length ? "Show none" : "None for this scan" }));
      this.map.append(...names.map((name) => make("option", { value: name, textContent: name })));
      this.map.disabled = !names.length;
    }

    look() {
      const name = this.windows.find((one) => one.input.checked).input.value;
      const map = this.map.value;
      this.legend.textContent = map ? "orange raises the risk, purple lowers it" : "";
      for (const pane of this.shown) pane.look({ range: WINDOWS[name], mask: this.mask.checked, map });
    }

    follow(source) {
      if (this.moving || !this.shown) return;
      this.move(source.nv.scene.crosshairPos, source);
    }

    step(axis, by) {
      const place = [...this.place];
      place[axis] = Math.min(1, Math.max(0, place[axis] + by));
      this.move(place);
    }

    move(place, source) {
      this.moving = true;
      this.place = [...place];
      for (const pane of this.shown) if (pane !== source) pane.moveTo(this.place);
      this.sliders.forEach(({ input }, axis) => (input.value = this.place[axis]));
      this.moving = false;
    }

    key(event) {
      const steps = {
        ArrowUp: [2, 1], ArrowDown: [2, -1], ArrowRight: [0, 1], ArrowLeft: [0, -1], PageUp: [1, 1], PageDown: [1, -1],
      };
      if (event.key === "Tab" || event.ctrlKey || event.metaKey || event.altKey) return;
      if (steps[event.key]) {
        const [axis, sign] = steps[event.key];
        this.step(axis, sign / this.panes[0].nv.volumes[0].dims[axis + 1]);
      } else if (this.windows[Number(event.key) - 1]) {
        this.windows[Number(event.key) - 1].input.checked = true;
        this.look();
      } else if (event.key.toLowerCase() === "m") {
        this.mask.checked = !this.mask.checked;
        this.look();
      } else if (event.key.toLowerCase() === "r" && this.map.options.length > 1) {
        this.map.selectedIndex = (this.map.selectedIndex + 1) % this.map.options.length;
        this.look();
      } else {
        return;
      }
      event.preventDefault();
      event.stopPropagation();
    }

    close() {
      this.request = null;
      this.element.hidden = true;
      if (this.opener) this.opener.focus();
    }
  }

  function start() {
    if (!document.createElement("canvas").getContext("webgl2")) return;
    const viewer = new Viewer();
    for (const button of document.querySelectorAll("button.scan-open")) {
      const within = button.closest(".scan-card, .scan-row");
      const cards = within.matches(".scan-card") ? [within] : [...within.querySelectorAll(".scan-card")];
      button.hidden = false;
      button.addEventListener("click", () => viewer.open(cards, within));
    }
    const openNamed = () => {
      const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (named && named.matches(".scan-card")) viewer.open([named], named);
    };
    window.addEventListener("hashchange", openNamed);
    openNamed();
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
