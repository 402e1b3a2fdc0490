(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const slider = document.getElementById("step"), shown = document.getElementById("shown");
  const charts = [...document.querySelectorAll("svg.steps")];
  const stops = [...new Set(data.runs.flatMap((run) => run.steps))].sort((a, b) => a - b);

  const number = (v) => (v === null || v === undefined ? "none" : String(Number(v.toPrecision(4))));
  // The last entry that is not after step; entries are in order.
  const before = (steps, step) => {
    let low = 0, high = steps.length;
    while (low < high) { const mid = (low + high) >> 1; if (steps[mid] <= step) low = mid + 1; else high = mid; }
    return low - 1;
  };

  const show = (index) => {
    const step = stops[index], x = data.start + ((step - data.low) / (data.high - data.low)) * (data.end - data.start);
    slider.value = index;
    slider.setAttribute("aria-valuetext", `step ${step}`);
    shown.textContent = step;
    for (const svg of charts) {
      const cursor = svg.querySelector(".cursor");
      cursor.setAttribute("x1", x); cursor.setAttribute("x2", x);
      const cells = svg.closest("figure").querySelectorAll(".reading b");
      data.runs.forEach((run, i) => {
        const row = before(run.steps, step), late = step > run.steps[run.steps.length - 1];
        cells[i].textContent = row < 0 || late ? "none" : number(run.values[svg.dataset.key][row]);
      });
    }
  };

  slider.max = stops.length - 1;
  slider.addEventListener("input", () => show(Number(slider.value)));
  const at = (event) => {
    const svg = event.currentTarget, box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const step = data.low + ((x - data.start) / (data.end - data.start)) * (data.high - data.low);
    const left = Math.max(0, before(stops, step)), right = Math.min(stops.length - 1, left + 1);
    show(step - stops[left] < stops[right] - step ? left : right);
  };
  for (const svg of charts) {
    svg.addEventListener("pointermove", at);
    svg.addEventListener("pointerdown", at);
  }
  for (const button of document.querySelectorAll("button.t")) {
    button.addEventListener("click", () => {
      show(Math.max(0, before(stops, Number(button.dataset.step))));
      document.getElementById("curves").scrollIntoView({ block: "start" });
      slider.focus({ preventScroll: true });
    });
  }
  show(stops.length - 1);
})();
