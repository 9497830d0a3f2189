/* The page of a review in JupyterLab: a list of scans, one of them in three linked planes with its mask as a contour, and
   another of the patient beside it. All keys are ours while the page has the focus. */
const { Niivue, NVImage, SHOW_RENDER, MULTIPLANAR_TYPE } = globalThis.niivue;
const SIGNS = { pass: "✓ pass", fail: "✗ fail", edit: "✎ to be edited", "": "" };
const KEYS = { p: "pass", f: "fail", e: "edit" };
const OPACITY = 0.01; // of what lies inside a contour
const HELP =
  "P pass · F fail · E to be edited · N or → next · B or ← back · W note, then Enter · O other scan of the patient · " +
  "↑ ↓ slices · M contour and mark. Blue: right lung; orange: left lung; yellow: the flagged place.";
const STYLE = `
.sr { display: grid; grid-template-columns: 13em 1fr; gap: 0 1em; font: 14px sans-serif; color: #111; background: #fff;
  padding: .6em; outline: none; }
.sr:focus-within { box-shadow: inset 0 0 0 2px #0072b2; }
.sr-list { grid-row: 1 / 9; height: 50em; overflow-y: auto; border-right: 1px solid #bbb; }
.sr-list div { padding: 2px 6px; cursor: pointer; white-space: nowrap; content-visibility: auto; contain-intrinsic-size: 1.3em; }
.sr-list div[aria-current="true"] { background: #0072b2; color: #fff; }
.sr-head { font-weight: bold; } .sr-words { min-height: 2.6em; margin: .2em 0; }
.sr-pane { position: relative; height: 24em; overflow: hidden; background: #000; } .sr-pane canvas { position: absolute; }
.sr-pane + .sr-beside { margin: .3em 0; } .sr-beside + .sr-pane { height: 14em; }
.sr-bar { display: flex; gap: .6em; align-items: center; flex-wrap: wrap; margin: .4em 0; }
.sr-bar [name="who"] { width: 4em; } .sr-bar [name="why"] { flex: 1; min-width: 12em; }
.sr-told { min-height: 1.4em; } .sr-told[data-wrong="true"] { color: #b00020; font-weight: bold; } .sr-help { color: #444; }`;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function pane(canvas) {
  const nv = new Niivue({
    backColor: [0, 0, 0, 1], crosshairColor: [0.94, 0.89, 0.26, 0.5], crosshairWidth: 0.5, dragAndDropEnabled: false,
    isRadiologicalConvention: true, loadingText: "", multiplanarShowRender: SHOW_RENDER.NEVER, show3Dcrosshair: false,
    multiplanarLayout: MULTIPLANAR_TYPE.ROW, logLevel: "error",
  });
  const ready = nv.attachToCanvas(canvas);
  const labels = { right: [0, 150, 255], left: [255, 150, 0], ring: [255, 235, 40] };
  const table = (...names) => ({
    R: [0, ...names.map((name) => labels[name][0])], G: [0, ...names.map((name) => labels[name][1])],
    B: [0, ...names.map((name) => labels[name][2])], A: [0, ...names.map(() => 255)], I: [0, ...names.map((_, at) => at + 1)],
    labels: ["", ...names],
  });
  return {
    nv,
    async show(one, contour) {
      await ready;
      for (const volume of [...nv.volumes]) nv.removeVolume(volume);
      if (!one.image) return nv.drawScene();
      const add = async (base64, name, look) =>
        nv.addVolume(await NVImage.loadFromBase64({ base64, name: `${name}.nii.gz`, ...look }));
      await add(one.image, one.scan_id, { colormap: "gray", cal_min: -1350, cal_max: 150 });
      await add(one.mask, "mask", { opacity: OPACITY });
      if (one.ring) await add(one.ring, "ring", { opacity: OPACITY });
      nv.volumes.slice(1).forEach((volume, index) => {
        volume.hdr.intent_code = 1002; // labels, of which alone NiiVue draws outlines
        volume.setColormapLabel(index ? table("ring") : table("right", "left"));
      });
      nv.opts.atlasOutline = contour ? 1 : 0;
      nv.setSliceType(nv.sliceTypeMultiplanar);
      const [x, y, z] = one.place;
      nv.scene.crosshairPos = nv.mm2frac([-x, -y, z]);
      nv.updateGLVolume();
      nv.resizeListener();
    },
  };
}

function render({ model, el }) {
  const list = make("div", { className: "sr-list" });
  const head = make("div", { className: "sr-head" });
  const words = make("div", { className: "sr-words" });
  const canvases = [make("canvas"), make("canvas")];
  const beside = make("div", { className: "sr-beside" });
  const frames = canvases.map((canvas) => make("div", { className: "sr-pane" }, canvas));
  const who = make("input", { name: "who", placeholder: "initials", maxLength: 5 });
  const why = make("input", { name: "why", placeholder: "note: why" });
  const told = make("div", { className: "sr-told" });
  told.setAttribute("role", "status");
  const buttons = Object.entries(KEYS).map(([key, verdict]) => {
    const button = make("button", { type: "button", textContent: `${SIGNS[verdict]} (${key.toUpperCase()})` });
    button.addEventListener("click", () => decide(verdict));
    return button;
  });
  const root = make(
    "div", { className: "sr", tabIndex: 0 }, make("style", { textContent: STYLE }), list, head, words,
    frames[0], make("div", { className: "sr-bar" }, make("label", {}, "Reader ", who), ...buttons, why), told,
    beside, frames[1],
    make("div", { className: "sr-help", textContent: HELP }),
  );
  root.setAttribute("aria-label", "Review of lung masks");
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  el.append(root);
  const panes = canvases.map(pane);
  let scans = [], at = 0, shown = null, others = [], other = -1, contour = true, waiting = true;

  const ask = (content) => {
    if (content.ask !== "beside") {
      waiting = true; // no key decides on a scan that is not shown yet
      root.dataset.shown = "";
    }
    model.send(content);
  };
  const tell = (text, wrong = false) => { told.textContent = text; told.dataset.wrong = wrong; };

  function row(index) {
    const { scan_id, n, own } = scans[index];
    const element = list.children[index];
    element.textContent = `${scan_id}  ${own ? SIGNS[own] : n ? `· ${n} finding${n > 1 ? "s" : ""}` : ""}`;
    element.setAttribute("aria-current", index === at);
  }

  function go(to) {
    if (!waiting && scans.length) ask({ ask: "show", at: (to + scans.length) % scans.length });
  }

  function decide(verdict) {
    if (waiting) return tell("One moment: the next scan is not shown yet, and nothing was decided.", true);
    if (!who.value.trim()) {
      tell("Your initials first: they stand beside each decision.", true);
      return who.focus();
    }
    ask({ ask: "decide", at, verdict, why: why.value });
  }

  function nextOther() {
    if (!others.length) return;
    other = (other + 1) % others.length;
    ask({ ask: "beside", scan_id: others[other] });
  }

  const on = {
    list(content) {
      scans = content.scans;
      who.value = content.who;
      list.replaceChildren(...scans.map((_, index) => {
        const element = make("div");
        element.addEventListener("click", () => go(index));
        return element;
      }));
      scans.forEach((_, index) => row(index));
      if (!content.who) who.focus();
      else root.focus({ preventScroll: true });
    },
    async case(content) {
      const before = at;
      [at, shown, others, other] = [content.at, content, content.others, -1];
      why.value = "";
      for (const index of [before, at]) if (list.children[index]) row(index);
      list.children[at].scrollIntoView({ block: "nearest" });
      const n = scans.filter((one) => one.n).length, done = scans.filter((one) => one.own).length;
      head.textContent = `${content.scan_id}: ${at + 1} of ${scans.length} scans, ${n} with findings; you decided on ${done}`;
      words.textContent = content.words;
      beside.textContent = others.length ? "" : "The patient has no other scan.";
      await panes[0].show(content, contour);
      frames[1].hidden = !others.length;
      await panes[1].show({}, contour);
      waiting = false;
      root.dataset.shown = content.scan_id;
      nextOther();
    },
    async beside(content) {
      if (content.scan_id !== others[other]) return;
      await panes[1].show(content, contour);
      beside.textContent = `${content.scan_id} (${other + 1} of ${others.length} others): ${content.words}`;
      root.dataset.beside = content.scan_id;
    },
    kept(content) {
      scans[content.at].own = content.own;
      row(content.at);
      tell(`${scans[content.at].scan_id}: ${SIGNS[content.own]}, kept.`);
    },
    told(content) {
      waiting = false;
      if (shown) root.dataset.shown = shown.scan_id;
      tell(content.text, content.wrong);
    },
  };
  model.on("msg:custom", (content) => on[content.kind](content));

  who.addEventListener("change", () => { tell(""); ask({ ask: "start", who: who.value }); });
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    event.stopPropagation();
    if (event.target === who || event.target === why) {
      if (event.key === "Enter" || event.key === "Escape") root.focus({ preventScroll: true });
      return;
    }
    const key = event.key.toLowerCase();
    if (KEYS[key]) { if (!event.repeat) decide(KEYS[key]); }
    else if (key === "n" || key === "arrowright") go(at + 1);
    else if (key === "b" || key === "arrowleft") go(at - 1);
    else if (key === "o") nextOther();
    else if (key === "w") why.focus();
    else if (key === "arrowup" || key === "arrowdown") panes[0].nv.moveCrosshairInVox(0, 0, key === "arrowup" ? 1 : -1);
    else if (key === "m") {
      contour = !contour;
      for (const { nv } of panes) if (nv.volumes.length) nv.setAtlasOutline(contour ? 1 : 0);
    } else return;
    event.preventDefault();
  }, true);
  ask({ ask: "start" });
  return () => model.off("msg:custom");
}
export default { render };
