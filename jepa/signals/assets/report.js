(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const svg = $("timeline"), cursor = $("cursor"), frame = $("frame");
  let now = 0;

  const clock = (ms) => {
    const tenths = Math.round(ms / 100), h = Math.floor(tenths / 36000);
    const m = Math.floor(tenths / 600) % 60, s = ((tenths % 600) / 10).toFixed(1);
    return h ? `${h}:${String(m).padStart(2, "0")}:${s.padStart(4, "0")}` : `${m}:${s.padStart(4, "0")}`;
  };
  // The last entry whose time is not after t; entries are in order.
  const before = (times, t) => {
    let low = 0, high = times.length;
    while (low < high) { const mid = (low + high) >> 1; if (times[mid] <= t) low = mid + 1; else high = mid; }
    return low - 1;
  };
  const holding = (spans, t) => spans.find((span) => span[1] <= t && t < span[2]) || spans[spans.length - 1];
  const stripTimes = data.strip.map((item) => item[0]);

  const bars = (id, tracks, row) => {
    $(id).replaceChildren(...tracks.map((track) => {
      const p = row < 0 ? null : track.p[row];
      const line = document.createElement("div"), name = document.createElement("span");
      const rail = document.createElement("i"), fill = document.createElement("u"), value = document.createElement("span");
      line.className = "bar"; name.textContent = track.label; value.className = "num";
      value.textContent = p === null ? (row < 0 ? "not yet" : "not assessed") : `${Math.round(100 * p)} %`;
      fill.style.width = `${100 * (p || 0)}%`;
      fill.style.background = track.colour;
      rail.append(fill); line.append(name, rail, value);
      return line;
    }));
  };

  const show = (t) => {
    now = Math.max(0, Math.min(data.duration, Math.round(t)));
    const x = data.left + (now / data.duration) * data.width;
    cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
    const picture = data.strip[Math.max(0, before(stripTimes, now))];
    if (picture) frame.src = picture[1];
    const row = before(data.ends, now);
    bars("observed-now", data.observed, row); bars("forecast-now", data.anticipated, row);
    const shot = holding(data.shots, now), scene = holding(data.sceneTimes, now);
    const tags = (data.scenes.find((item) => item[0] === scene[0]) || [null, []])[1];
    $("clock").textContent = clock(now);
    $("where").textContent = `shot ${shot[0]}, scene ${scene[0]}` + (tags.length ? `: ${tags.join(", ")}` : "");
    svg.setAttribute("aria-valuenow", now);
    svg.setAttribute("aria-valuetext", `${clock(now)}, shot ${shot[0]}`);
  };

  const jump = (direction) => {
    const list = direction > 0 ? data.times.filter((t) => t > now + 1) : data.times.filter((t) => t < now - 1).reverse();
    if (list.length) show(list[0]);
  };
  const keys = {
    ArrowLeft: (e) => show(now - (e.shiftKey ? 10 : 1) * data.stride),
    ArrowRight: (e) => show(now + (e.shiftKey ? 10 : 1) * data.stride),
    Home: () => show(0), End: () => show(data.duration), n: () => jump(1), p: () => jump(-1),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const local = event.target === svg || event.target === document.body;
    const act = keys[event.key];
    if (!act || (!local && event.key.length > 1)) return;
    event.preventDefault(); act(event);
  });

  const at = (event) => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    return ((x - data.left) / data.width) * data.duration;
  };
  svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); show(at(event)); });
  svg.addEventListener("pointermove", (event) => { if (event.buttons) show(at(event)); });
  for (const button of document.querySelectorAll("button.t")) {
    button.addEventListener("click", () => {
      show(Number(button.dataset.ms));
      $("viewer").scrollIntoView({ block: "start", behavior: "smooth" });
      svg.focus({ preventScroll: true });
    });
  }

  const cells = [...document.querySelectorAll("#strip image")];
  cells.forEach((cell, i) => {
    const picture = data.strip[Math.max(0, before(stripTimes, ((i + 0.5) / cells.length) * data.duration))];
    if (picture) cell.setAttribute("href", picture[1]);
  });
  show(data.times.length ? data.times[0] : 0);
})();
