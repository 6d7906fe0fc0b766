// Inputs that are numbers: a slider for each.

function sliders(state) {
  const { network } = state, first = network.layers[0], many = network.inputs;
  if (network.conv) {
    $("inputs").append(el("p", {}, `The network takes images of ${many} channels. Put their numbers in below.`));
    $("row-part").open = true;
    return (row) => run(state, row);
  }
  const known = !first.form.before.length, [low, high] = known ? first.basis.span : [-3, 3];
  const row = new Array(many).fill(Math.min(Math.max(0, low), high)), pairs = [];
  const name = (at) => `x${at + 1}`;
  const make = (at) => {
    const change = (event) => {
      const value = Number(event.target.value);
      if (!Number.isFinite(value) || event.target.value === "") return;
      row[at] = value;
      for (const other of pairs[at]) if (other !== event.target) other.value = real(value);
      run(state, [...row]);
    };
    const both = { min: low, max: high, step: "any", oninput: change };
    const range = el("input", { ...both, type: "range", id: `x${at}`, step: (high - low) / 200 });
    const number = el("input", { type: "number", step: "any", oninput: change, "aria-label": `${name(at)} as a number` });
    range.value = number.value = row[at];
    pairs[at] = [range, number];
    return el("div", { class: "slider" }, el("label", { for: `x${at}` }, name(at)), range, number);
  };
  const list = el("div", { class: "sliders" }), first_ = Math.min(many, 40);
  list.append(...Array.from({ length: first_ }, (_, at) => make(at)));
  const set = (given) => {
    need(given.length === many, `${plural(given.length, "number")} ${given.length === 1 ? "is" : "are"} given; the network takes ${count(many)}.`);
    given.forEach((value, at) => {
      row[at] = value;
      for (const one of pairs[at] ?? []) one.value = real(value);
    });
    run(state, [...row]);
  };
  const draw = () => set(row.map(() => Number((low + (high - low) * Math.random()).toPrecision(3))));
  const tools = el("div", { class: "tools" },
    el("button", { type: "button", onclick: () => set(row.map(() => Math.min(Math.max(0, low), high))) }, "Reset"),
    el("button", { type: "button", onclick: draw }, "Random numbers"));
  if (many > first_) {
    const rest = () => {
      list.append(...Array.from({ length: many - first_ }, (_, at) => make(first_ + at)));
      more.remove();
    };
    const more = el("button", { type: "button", onclick: rest }, `Show all ${count(many)}`);
    tools.append(more);
  }
  $("inputs").append(el("h3", {}, "Inputs"), list, tools);
  set(row);
  return set;
}
