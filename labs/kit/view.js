"use strict";
// The time line of hvlab view. It draws what is in the block "trace" as SVG, and puts texts of the trace into the page as
// text only. Its state (scale, range, selection, hidden kinds) stands in the address after #, so a view can be kept as a
// bookmark. Two scales: true time, and even steps, where each event takes the same room.
(function () {
	const data = JSON.parse(document.getElementById("trace").textContent);
	const exits = data.exits, ioctls = data.ioctls, marks = data.marks, kinds = data.kinds;
	const chart = document.getElementById("chart"), details = document.getElementById("details");
	const tip = document.getElementById("tip"), rangeText = document.getElementById("range");
	const SVG = "http://www.w3.org/2000/svg";
	const GUTTER = 92, RIGHT = 14, OVERVIEW = 34, AXIS = 24, HOST = 34, LANE = 78, BADGE = 17, CLUSTER = 36;
	const LIGHT_KINDS = ["io-in", "mmio-read", "ioapic-eoi", "hypercall"];

	// --- small helpers ---------------------------------------------------------------------------------------------
	function node(name, attributes, parent, text) {
		const n = document.createElementNS(SVG, name);
		for (const key in attributes) n.setAttribute(key, attributes[key]);
		if (text !== undefined) n.textContent = text;
		if (parent) parent.appendChild(n);
		return n;
	}
	function element(name, parent, text, cls) {
		const n = document.createElement(name);
		if (text !== undefined && text !== null) n.textContent = text;
		if (cls) n.className = cls;
		if (parent) parent.appendChild(n);
		return n;
	}
	function duration(ns) {
		if (ns === null || ns === undefined) return "not known";
		for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["\u00b5s", 1e3]])
			if (ns >= size) return (ns / size).toFixed(ns < 10 * size ? 2 : ns < 100 * size ? 1 : 0) + " " + unit;
		return Math.round(ns) + " ns";
	}
	function clamp(x, low, high) { return Math.min(high, Math.max(low, x)); }
	function guestTime(e) { return e.t0 === null || e.t0 === undefined ? null : e.t1 - e.t0; }
	function laneName(v) { return data.lanes.find(l => l.vcpu === v).name; }
	function kindLabel(key) { return kinds[key].letter + " " + kinds[key].name; }

	// --- the two scales --------------------------------------------------------------------------------------------
	const steps = Array.from(new Set([0, data.end].concat(
		exits.map(e => e.t1), exits.map(e => e.t0).filter(t => typeof t === "number"),
		ioctls.map(i => i.t), marks.map(m => m.t)))).sort((a, b) => a - b);
	function below(t) { // index of the last step that is not after t
		let low = 0, high = steps.length - 1;
		while (low < high) {
			const mid = (low + high + 1) >> 1;
			if (steps[mid] <= t) low = mid; else high = mid - 1;
		}
		return low;
	}
	const scales = {
		time: { at: t => t, back: u => u, end: data.end, least: 200 },
		even: {
			at: t => {
				const i = below(t), next = steps[i + 1];
				return next === undefined ? i : i + (t - steps[i]) / (next - steps[i]);
			},
			back: u => {
				const i = clamp(Math.floor(u), 0, steps.length - 1), next = steps[i + 1];
				return next === undefined ? steps[i] : steps[i] + (u - i) * (next - steps[i]);
			},
			end: Math.max(1, steps.length - 1), least: 2
		}
	};
	function bunched() { // most of the time nothing happens, so true time would show a heap
		const last = exits.reduce((t, e) => Math.max(t, e.t1), 1), first = exits.reduce((t, e) => Math.min(t, e.t1), last);
		return new Set(exits.map(e => Math.floor((e.t1 - first) / (last - first + 1) * 100))).size < 30;
	}
	const state = { mode: exits.length <= 150 || bunched() ? "even" : "time", from: 0, to: 0, chosen: null, hidden: new Set() };
	const scale = () => scales[state.mode];
	let width = 800, height = 100, marked = null;

	function margin() { return scale().end * 0.01; }
	function showAll() { state.from = -margin(); state.to = scale().end + margin(); }
	function setRange(from, to) {
		const s = scale(), span = clamp(to - from, Math.min(s.least, s.end), s.end + 2 * margin());
		from = clamp((from + to - span) / 2, -margin(), s.end + margin() - span);
		state.from = from;
		state.to = from + span;
		draw();
	}
	function zoom(factor, around) {
		const at = around === undefined ? (state.from + state.to) / 2 : around;
		const s = scale(), span = state.to - state.from;
		const wanted = clamp(span * factor, Math.min(s.least, s.end), s.end + 2 * margin());
		const from = at - (at - state.from) * wanted / span;
		setRange(from, from + wanted);
	}
	function pan(share) {
		const span = state.to - state.from;
		setRange(state.from + share * span, state.to + share * span);
	}
	function plot() { return Math.max(50, width - GUTTER - RIGHT); }
	function x(t) { return GUTTER + (scale().at(t) - state.from) / (state.to - state.from) * plot(); }
	function unitAt(px) { return state.from + (px - GUTTER) / plot() * (state.to - state.from); }
	function setMode(mode) {
		if (mode === state.mode) return;
		const from = scale().back(clamp(state.from, 0, scale().end)), to = scale().back(clamp(state.to, 0, scale().end));
		const all = state.from <= 0 && state.to >= scale().end;
		state.mode = mode;
		if (all) { showAll(); draw(); } else setRange(scale().at(from), scale().at(to));
	}

	// --- what is drawn ---------------------------------------------------------------------------------------------
	const perLane = new Map(data.lanes.map(l => [l.vcpu, []]));
	exits.forEach((e, i) => perLane.get(e.v).push(i));
	perLane.forEach(list => list.sort((a, b) => exits[a].t1 - exits[b].t1));
	const visible = i => !state.hidden.has(exits[i].k);
	const inside = (a, b) => b >= GUTTER && a <= width - RIGHT;

	function axis(svg, top, bottom) {
		const span = state.to - state.from, count = Math.max(2, Math.floor(plot() / 110));
		if (state.mode === "even") {
			const step = Math.max(1, Math.ceil(span / count));
			for (let u = Math.max(0, Math.ceil(state.from / step) * step); u <= Math.min(state.to, scale().end); u += step)
				line(svg, GUTTER + (u - state.from) / span * plot(), duration(scale().back(u)), top, bottom);
			return;
		}
		const rough = span / count, ten = Math.pow(10, Math.floor(Math.log10(rough)));
		const step = [1, 2, 5, 10].map(f => f * ten).find(s => s >= rough);
		for (let t = Math.max(0, Math.ceil(state.from / step) * step); t <= Math.min(state.to, data.end); t += step)
			line(svg, x(t), axisTime(t, step), top, bottom);
	}
	function axisTime(t, step) { // as many digits as the distance of two lines needs
		const [unit, size] = t >= 1e9 ? ["s", 1e9] : t >= 1e6 ? ["ms", 1e6] : t >= 1e3 ? ["\u00b5s", 1e3] : ["ns", 1];
		return (t / size).toFixed(clamp(Math.ceil(Math.log10(size / step)), 0, 9)) + " " + unit;
	}
	function line(svg, px, text, top, bottom) {
		node("line", { class: "grid", x1: px, x2: px, y1: top + 16, y2: bottom }, svg);
		node("text", { class: "quiet", x: px, y: top + 12, "text-anchor": px > width - 60 ? "end" : px < GUTTER + 20 ? "start" : "middle" }, svg, text);
	}
	function lane(svg, vcpu, top) {
		const list = perLane.get(vcpu), band = top + 38, depth = 16;
		let painted = -1;
		for (const i of list) { // the time in the guest below, the time in user space in the exit's colour
			const e = exits[i], a = x(e.t1), b = e.u === null ? a + 3 : x(e.t1 + e.u);
			const g = typeof e.t0 === "number" ? x(e.t0) : a;
			if (a > width - RIGHT && g > width - RIGHT) break;
			if (inside(g, a) && a - g > 0.3)
				bar(svg, g, a, band, depth, "guest");
			if (!visible(i) || !inside(a, b) || (b <= painted && b - a < 0.7)) continue;
			painted = Math.floor(Math.max(b, a + 1));
			const r = bar(svg, a, Math.max(b, a + 1.2), band, depth, "k-" + e.k);
			if (r) r.setAttribute("data-e", i);
		}
		badges(svg, list, top + 17);
	}
	function bar(svg, a, b, y, depth, cls) {
		const left = Math.max(a, GUTTER), right = Math.min(b, width - RIGHT);
		return right > left ? node("rect", { class: cls, x: left, y: y, width: right - left, height: depth }, svg) : null;
	}
	function badges(svg, list, y) { // a letter for each exit; those that would lie on each other share one badge
		let group = null;
		const flush = () => { if (group) badge(svg, group, y); group = null; };
		for (const i of list) {
			const px = x(exits[i].t1);
			if (!visible(i) || px < GUTTER) continue;
			if (px > width - RIGHT) break;
			if (group && px < group.x + (group.items.length > 1 ? CLUSTER : BADGE)) group.items.push(i);
			else { flush(); group = { x: px, items: [i] }; }
		}
		flush();
	}
	function badge(svg, group, y) {
		const single = group.items.length === 1, first = group.items[0], counts = new Map();
		for (const i of group.items) counts.set(exits[i].k, (counts.get(exits[i].k) || 0) + 1);
		const g = node("g", single ? { "data-e": first } : { "data-from": first, "data-to": group.items[group.items.length - 1] }, svg);
		const wide = single ? 15 : CLUSTER - 3;
		if (single || counts.size === 1) {
			const key = exits[first].k, text = kinds[key].letter + (single ? "" : " " + short(group.items.length));
			node("rect", { class: "k-" + key, x: group.x, y: y, width: wide, height: 16, rx: 3 }, g);
			node("text", { class: "badge-text" + (LIGHT_KINDS.includes(key) ? " dark" : ""), x: group.x + wide / 2, y: y + 12 }, g, text);
		} else if (group.items.length <= 3) {
			const part = wide / group.items.length;
			group.items.forEach((i, n) => {
				const key = exits[i].k;
				node("rect", { class: "k-" + key, x: group.x + n * part, y: y, width: part - 0.7, height: 16, rx: 2 }, g);
				node("text", { class: "badge-text" + (LIGHT_KINDS.includes(key) ? " dark" : ""), x: group.x + (n + 0.5) * part, y: y + 12 }, g, kinds[key].letter);
			});
		} else {
			node("rect", { class: "k-other", x: group.x, y: y, width: wide, height: 12, rx: 3 }, g);
			node("text", { class: "badge-text", x: group.x + wide / 2, y: y + 10 }, g, short(group.items.length));
			let at = group.x;
			for (const [key, count] of counts) {
				const part = wide * count / group.items.length;
				node("rect", { class: "k-" + key, x: at, y: y + 12, width: part, height: 5 }, g);
				at += part;
			}
		}
		node("title", {}, g, single ? exitLine(exits[first]) : group.items.length + " exits: " +
			Array.from(counts, ([key, count]) => count + " " + kinds[key].name).join(", "));
		if (single) node("line", { class: "grid", x1: group.x, x2: group.x, y1: y + 16, y2: y + 21 }, g);
	}
	function short(n) { return n < 1000 ? String(n) : n < 1e5 ? (n / 1000).toFixed(n < 10000 ? 1 : 0) + "k" : "many"; }
	function exitLine(e) { return "Exit " + e.n + ", " + kindLabel(e.k) + ": " + e.what; }

	function ticks(svg, vcpu, y) {
		let last = -9;
		ioctls.forEach((c, i) => {
			if ((c.v === null ? null : c.v) !== vcpu) return;
			const px = x(c.t), failed = c.ret < 0;
			if (!inside(px, px) || (px - last < 1.5 && !failed)) return;
			last = px;
			const g = node("g", { "data-i": i }, svg);
			node("path", { class: failed ? "tick bad" : "tick", d: "M" + px + " " + y + "v9" + (failed ? "m-4 -2l8 -5" : "") }, g);
			node("rect", { class: "hit", x: px - 3, y: y - 1, width: 6, height: 12 }, g);
			node("title", {}, g, c.n + (failed ? " failed: " + c.ret : ""));
		});
	}
	function shapes(svg, vcpu, y) {
		marks.forEach((m, i) => {
			if (m.v !== vcpu) return;
			const px = x(m.t);
			if (!inside(px, px)) return;
			const signal = m.m === "signal";
			const d = signal ? "M" + (px - 5) + " " + y + "h10l-5 9z" : "M" + px + " " + y + "l5 5-5 5-5-5z";
			const p = node("path", { class: signal ? "signal" : "mark " + (m.m === "forbidden" ? "forbidden" : ""), d: d, "data-m": i }, svg);
			node("title", {}, p, m.text);
		});
	}
	function overview(svg, top) { // the whole trace, and which part of it is shown below
		const end = scale().end, w = plot(), columns = new Map();
		node("rect", { class: "lane", x: GUTTER, y: top, width: w, height: OVERVIEW - 8 }, svg);
		node("text", { class: "quiet", x: 8, y: top + 17 }, svg, "whole trace");
		exits.forEach((e, i) => {
			if (!visible(i)) return;
			const c = Math.round(scale().at(e.t1) / end * w / 2) * 2;
			if (!columns.has(c)) columns.set(c, [0, e.k]);
			columns.get(c)[0]++;
		});
		const most = Math.max(1, ...Array.from(columns.values(), c => c[0])), room = OVERVIEW - 10;
		columns.forEach(([count, key], c) => {
			const tall = 5 + (room - 5) * Math.log2(1 + count) / Math.log2(1 + most);
			node("rect", { class: "k-" + key, x: GUTTER + c - 1, y: top + OVERVIEW - 8 - tall, width: 2, height: tall }, svg);
		});
		const a = GUTTER + clamp(state.from / end, 0, 1) * w, b = GUTTER + clamp(state.to / end, 0, 1) * w;
		if (b - a < w - 1) node("rect", { class: "window", x: a, y: top - 1, width: Math.max(3, b - a), height: OVERVIEW - 6 }, svg);
	}
	function chosenTime() {
		const c = state.chosen;
		return !c ? null : c.type === "e" ? exits[c.at].t1 : c.type === "i" ? ioctls[c.at].t : marks[c.at].t;
	}
	function draw() {
		width = Math.max(320, chart.clientWidth);
		height = 6 + OVERVIEW + AXIS + HOST + data.lanes.length * LANE + 6;
		const svg = node("svg", { viewBox: "0 0 " + width + " " + height, height: height, "aria-hidden": "true" });
		const top = 6 + OVERVIEW, host = top + AXIS;
		node("rect", { class: "lane", x: GUTTER, y: host, width: plot(), height: HOST - 8 }, svg);
		data.lanes.forEach((l, n) => node("rect", { class: "lane", x: GUTTER, y: host + HOST + n * LANE, width: plot(), height: LANE - 8 }, svg));
		overview(svg, 4);
		axis(svg, top, height - 8);
		node("text", { x: 8, y: host + 17 }, svg, "program, VM");
		shapes(svg, null, host + 2);
		ticks(svg, null, host + 14);
		data.lanes.forEach((l, n) => {
			const y = host + HOST + n * LANE;
			node("text", { x: 8, y: y + 30 }, svg, l.name);
			node("text", { class: "quiet", x: 8, y: y + 46 }, svg, l.exits.toLocaleString("en") + (l.exits === 1 ? " exit" : " exits"));
			if (l.tids.length) node("text", { class: "quiet", x: 8, y: y + 60 }, svg, l.tids.length === 1 ? "thread " + l.tids[0] : l.tids.length + " threads");
			shapes(svg, l.vcpu, y + 4);
			lane(svg, l.vcpu, y);
			ticks(svg, l.vcpu, y + 58);
		});
		const t = chosenTime();
		if (t !== null && inside(x(t), x(t))) {
			node("line", { class: "selection", x1: x(t), x2: x(t), y1: top + 16, y2: height - 8 }, svg);
			if (state.chosen.type === "e") {
				const y = host + HOST + data.lanes.findIndex(l => l.vcpu === exits[state.chosen.at].v) * LANE;
				node("rect", { class: "chosen", x: x(t) - 1, y: y + 16, width: BADGE, height: 18, rx: 4, fill: "none" }, svg);
			}
		}
		if (marked) node("rect", { class: "marked", x: Math.min(marked[0], marked[1]), y: top, width: Math.abs(marked[1] - marked[0]), height: height - top }, svg);
		chart.replaceChildren(svg);
		const a = scale().back(clamp(state.from, 0, scale().end)), b = scale().back(clamp(state.to, 0, scale().end));
		rangeText.textContent = (state.mode === "even" ? "even steps, " : "") + duration(a) + " to " + duration(b) + ", " + duration(b - a) + " shown";
		document.getElementById("even").setAttribute("aria-pressed", String(state.mode === "even"));
		remember();
	}

	// --- the address keeps the state ---------------------------------------------------------------------------------
	let timer = 0;
	function remember() {
		clearTimeout(timer);
		timer = setTimeout(() => {
			const parts = ["scale=" + state.mode];
			if (state.from > 0 || state.to < scale().end)
				parts.push("from=" + state.from.toFixed(2), "to=" + state.to.toFixed(2));
			if (state.chosen) parts.push("select=" + state.chosen.type + state.chosen.at);
			if (state.hidden.size) parts.push("hide=" + Array.from(state.hidden).join(","));
			try { history.replaceState(null, "", "#" + parts.join("&")); } catch (e) { /* some viewers have no history */ }
		}, 150);
	}
	function recall() {
		const want = new Map(location.hash.slice(1).split("&").map(p => p.split("=")));
		if (scales.hasOwnProperty(want.get("scale"))) state.mode = want.get("scale");
		for (const key of (want.get("hide") || "").split(",")) if (kinds.hasOwnProperty(key)) state.hidden.add(key);
		document.querySelectorAll("input.filter").forEach(box => { box.checked = !state.hidden.has(box.value); });
		showAll();
		const from = Number(want.get("from")), to = Number(want.get("to"));
		if (want.has("from") && from < to) setRange(from, to);
		const found = /^([eim])(\d+)$/.exec(want.get("select") || "");
		filter();
		if (found && [].concat({ e: exits, i: ioctls, m: marks }[found[1]])[Number(found[2])]) select(found[1], Number(found[2]));
		else if (!location.hash && exits.length) {
			if (state.mode === "time") fitExits(); // setting up a VM may take longer than running it
			select("e", interesting());
		}
		else showDetails();
	}
	function fitExits() {
		const from = exits.reduce((least, e) => Math.min(least, typeof e.t0 === "number" ? e.t0 : e.t1), data.end);
		const to = exits.reduce((most, e) => Math.max(most, e.t1), 0), room = (to - from) * 0.02;
		if (to > from) setRange(from - room, to + room);
	}
	function interesting() { // where a run went wrong, else its first exit
		const at = exits.findIndex(e => ["shutdown", "fail-entry", "internal-error", "failed"].includes(e.k));
		return at < 0 ? 0 : at;
	}

	// --- selecting ---------------------------------------------------------------------------------------------------
	function select(type, at) {
		state.chosen = { type: type, at: at };
		const u = scale().at(chosenTime());
		if (u < state.from || u > state.to) {
			const span = state.to - state.from;
			setRange(u - span / 2, u + span / 2);
		} else draw();
		showDetails();
	}
	function step(direction) {
		const c = state.chosen;
		const t = c ? chosenTime() : direction > 0 ? -1 : Infinity;
		const vcpu = c && c.type === "e" ? exits[c.at].v : data.lanes.length ? data.lanes[0].vcpu : null;
		const list = (perLane.get(vcpu) || []).filter(visible);
		if (!list.length) return;
		let at = c && c.type === "e" ? list.indexOf(c.at) : -1;
		if (at < 0) at = direction > 0 ? list.findIndex(i => exits[i].t1 > t) - 1 : lastBefore(list, t) + 1;
		if (at + direction >= 0 && at + direction < list.length) select("e", list[at + direction]);
	}
	function lastBefore(list, t) {
		let at = list.length - 1;
		while (at >= 0 && exits[list[at]].t1 >= t) at--;
		return at;
	}
	function toLane(direction) {
		const c = state.chosen, t = c ? chosenTime() : scale().back(clamp((state.from + state.to) / 2, 0, scale().end));
		const now = c && c.type === "e" ? data.lanes.findIndex(l => l.vcpu === exits[c.at].v) : direction > 0 ? -1 : data.lanes.length;
		const lane = data.lanes[now + direction];
		const list = lane ? perLane.get(lane.vcpu).filter(visible) : [];
		if (list.length)
			select("e", list.reduce((a, b) => Math.abs(exits[b].t1 - t) < Math.abs(exits[a].t1 - t) ? b : a));
	}
	function toEnd(last) {
		const c = state.chosen, vcpu = c && c.type === "e" ? exits[c.at].v : data.lanes.length ? data.lanes[0].vcpu : null;
		const list = (perLane.get(vcpu) || []).filter(visible);
		if (list.length) select("e", list[last ? list.length - 1 : 0]);
	}
	function toChosen() {
		const t = chosenTime();
		if (t === null) return;
		const c = state.chosen, e = c.type === "e" ? exits[c.at] : null;
		const from = scale().at(e && typeof e.t0 === "number" ? e.t0 : t), to = scale().at(e && e.u ? e.t1 + e.u : t);
		const room = Math.max(to - from, scale().least * 2) * 0.6;
		setRange(from - room, to + room);
	}

	// --- the details -------------------------------------------------------------------------------------------------
	const REGS = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"];
	const BITS = {
		cr0: [[0, "PE"], [1, "MP"], [2, "EM"], [3, "TS"], [4, "ET"], [5, "NE"], [16, "WP"], [18, "AM"], [29, "NW"], [30, "CD"], [31, "PG"]],
		cr4: [[0, "VME"], [1, "PVI"], [2, "TSD"], [3, "DE"], [4, "PSE"], [5, "PAE"], [6, "MCE"], [7, "PGE"], [8, "PCE"], [9, "OSFXSR"],
			[10, "OSXMMEXCPT"], [11, "UMIP"], [12, "LA57"], [13, "VMXE"], [16, "FSGSBASE"], [17, "PCIDE"], [18, "OSXSAVE"], [20, "SMEP"], [21, "SMAP"], [22, "PKE"]],
		efer: [[0, "SCE"], [8, "LME"], [10, "LMA"], [11, "NXE"], [12, "SVME"]],
		rflags: [[0, "CF"], [2, "PF"], [4, "AF"], [6, "ZF"], [7, "SF"], [8, "TF"], [9, "IF"], [10, "DF"], [11, "OF"], [16, "RF"], [17, "VM"]]
	};
	function flags(name, value) {
		const v = BigInt(value);
		return BITS[name].filter(([bit]) => v >> BigInt(bit) & 1n).map(b => b[1]).join(" ") || "none";
	}
	function bit(s, name, number) { return s[name] !== undefined && (BigInt(s[name]) >> BigInt(number) & 1n) === 1n; }
	function modeOf(s) {
		if (s.cr0 === undefined || s["cs.l"] === undefined) return null;
		if (!bit(s, "cr0", 0)) return "real mode";
		if (bit(s, "efer", 10)) return bit(s, "cs.l", 0) ? "long mode, 64-bit code" : "long mode, compatibility code";
		return "protected mode, " + (bit(s, "cs.db", 0) ? "32" : "16") + "-bit code" + (bit(s, "cr0", 31) ? ", paging on" : "");
	}
	function facts(parent, list) {
		const dl = element("dl", parent, null, "facts");
		for (const [name, value, mono] of list) {
			if (value === null || value === undefined || value === "") continue;
			const row = element("div", dl);
			element("dt", row, name);
			element("dd", row, String(value), mono ? "mono" : "");
		}
	}
	function bytes(hex) { // "48 65  (He)"
		if (!hex) return null;
		const pairs = hex.match(/[0-9a-f]{2}/g) || [];
		const text = pairs.map(p => parseInt(p, 16)).map(c => c >= 32 && c < 127 ? String.fromCharCode(c) : ".").join("");
		return pairs.join(" ") + (hex.endsWith("...") ? " ..." : "") + " \u201c" + text + "\u201d";
	}
	function showPath(parent, e) {
		element("h3", parent, "The path of such an exit through hvrun");
		const list = element("ol", parent, null, "path");
		for (const stop of data.paths[e.p]) {
			const box = element("div", element("li", list), null, "stop");
			element("b", box, stop.where);
			element("span", box, stop.what + (stop.lab ? " (lab " + stop.lab + ")" : ""));
		}
	}
	function before(e) { // the exit before this one on the same vCPU, as far as the page has it
		const list = perLane.get(e.v), at = list.indexOf(exits.indexOf(e));
		return at > 0 ? exits[list[at - 1]] : null;
	}
	function showRegs(parent, e) {
		if (!e.r) return;
		const now = e.r.split(" "), prior = before(e), old = prior && prior.r ? prior.r.split(" ") : null;
		element("h3", parent, "Registers" + (old ? " (a dot marks those that changed since the exit before)" : ""));
		const dl = element("dl", parent, null, "regs");
		REGS.forEach((name, i) => {
			const row = element("div", dl, null, old && old[i] !== now[i] ? "changed" : "");
			element("dt", row, name);
			element("dd", row, "0x" + now[i]);
		});
		facts(parent, [["rflags", flags("rflags", "0x" + now[17])]]);
	}
	function showSregs(parent, e) {
		const s = e.s === undefined ? null : data.sregs[e.s];
		if (!s) return;
		const list = [["Mode", modeOf(s)]];
		for (const name of ["cr0", "cr2", "cr3", "cr4", "efer"])
			if (s[name] !== undefined) list.push([name, s[name] + (BITS[name] ? "  (" + flags(name, s[name]) + ")" : ""), true]);
		for (const name of ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"])
			if (s[name + ".base"] !== undefined)
				list.push([name, (s[name + ".selector"] || "") + ": base " + s[name + ".base"] + ", limit " + s[name + ".limit"] +
					["present", "dpl", "db", "s", "l", "g", "type"].filter(f => s[name + "." + f] !== undefined)
						.map(f => ", " + f + " " + Number(s[name + "." + f])).join(""), true]);
		for (const name of ["gdt", "idt"])
			if (s[name + ".base"] !== undefined) list.push([name, "base " + s[name + ".base"] + ", limit " + s[name + ".limit"], true]);
		const box = element("details", parent);
		element("summary", box, "Control registers and segments: " + (modeOf(s) || "see inside"));
		facts(box, list);
	}
	function between(e) { // what this vCPU was told from this exit to the next entry
		const end = e.u === null ? Infinity : e.t1 + e.u;
		return ioctls.filter(c => c.v === e.v && c.t >= e.t1 && c.t <= end);
	}
	function showExit(e) {
		const h = element("h2", details);
		element("span", h, kinds[e.k].letter, "badge k-" + e.k);
		h.append((e.ret === null ? " Entry " : " Exit ") + e.n + " of " + laneName(e.v) + ": " + kinds[e.k].name);
		if (e.a || e.what !== e.k) element("p", details, e.what, "mono");
		const cols = element("div", details, null, "cols"), left = element("div", cols), right = element("div", cols);
		facts(left, [
			["What it is", kinds[e.k].meaning], ["Port or address", e.a, true], ["Data", bytes(e.data) || e.value, true],
			["Answer", bytes(e.reply), true], ["No device answered", e.lost ? "the write is lost, a read gives all ones" : ""],
			["Result of KVM_RUN", e.ret === null ? "none: it never came back" : e.ret], ["immediate_exit", e.imm ? "was set at entry" : ""], ["Suberror", e.sub],
			["Interrupts", [e.win ? "a window was asked for" : "", e.ready ? "the vCPU is ready for one" : "", e.if ? "IF is set" : ""].filter(Boolean).join(", ")],
			["Thread", e.tid], [e.ret === null ? "Ended at" : "Came back at", duration(e.t1)], ["In the guest before", duration(guestTime(e))],
			["In user space after", e.ret === null ? null : e.again ? duration(e.u) : "the vCPU was not entered again"]
		]);
		const told = between(e);
		if (told.length) {
			element("h3", left, "ioctls on this vCPU before it went back in");
			const list = element("ul", left);
			for (const c of told.slice(0, 12)) element("li", list, c.n + " (" + (c.in || "") + ") = " + c.ret, "mono");
			if (told.length > 12) element("li", list, "and " + (told.length - 12) + " more");
		}
		showRegs(right, e);
		showSregs(right, e);
		showPath(details, e);
	}
	function showDetails() {
		details.hidden = false;
		details.replaceChildren();
		document.querySelectorAll("#exits tr.chosen").forEach(r => r.classList.remove("chosen"));
		const c = state.chosen;
		if (!c) {
			element("h2", details, "Nothing is selected");
			element("p", details, "Select an exit: by the mouse, by the arrow keys in the time line, or by a row of the table.");
		} else if (c.type === "e") {
			showExit(exits[c.at]);
			const row = document.querySelector('#exits tr[data-n="' + exits[c.at].n + '"]');
			if (row) row.classList.add("chosen");
		} else if (c.type === "i") {
			const i = ioctls[c.at];
			element("h2", details, i.n);
			facts(details, [["On", i.v === null ? i.on : laneName(i.v)], ["Told", i.in, true], ["Answer", i.out, true],
				["Result", i.ret < 0 ? i.ret + " (it failed)" : i.ret], ["Thread", i.tid], ["At", duration(i.t)], ["Took", duration(i.d)]]);
		} else {
			const m = marks[c.at];
			element("h2", details, { signal: "A signal", thread: "A thread", mmap: "A mapping", close: "A descriptor is closed", dump: "Memory kept", forbidden: "Forbidden", end: "The end" }[m.m] || m.m);
			element("p", details, m.text);
			facts(details, [["At", duration(m.t)], ["Thread", m.tid]]);
		}
	}
	function filter() {
		document.querySelectorAll("#exits tbody tr").forEach(r => { r.hidden = state.hidden.has(r.dataset.kind); });
		if (state.chosen && state.chosen.type === "e" && !visible(state.chosen.at)) { state.chosen = null; showDetails(); }
		draw();
	}

	// --- mouse and keys ------------------------------------------------------------------------------------------------
	function target(event) {
		const t = event.target.closest ? event.target.closest("[data-e],[data-i],[data-m],[data-from]") : null;
		return t && chart.contains(t) ? t.dataset : null;
	}
	function pixel(event) {
		const box = chart.getBoundingClientRect();
		return (event.clientX - box.left) * width / box.width;
	}
	const inOverview = event => event.clientY - chart.getBoundingClientRect().top < OVERVIEW;
	function centre(px) {
		const u = (px - GUTTER) / plot() * scale().end, span = state.to - state.from;
		setRange(u - span / 2, u + span / 2);
	}
	let grip = null;
	chart.addEventListener("pointerdown", event => {
		if (event.button !== 0) return;
		grip = { x: pixel(event), from: state.from, to: state.to, moved: false, mark: event.shiftKey, small: inOverview(event), what: target(event) };
		if (grip.small) centre(grip.x);
	});
	window.addEventListener("pointermove", event => {
		if (!grip) {
			const what = chart.contains(event.target) ? target(event) : null;
			if (what) tip.textContent = describe(what);
			return;
		}
		const px = pixel(event);
		if (Math.abs(px - grip.x) > 3) grip.moved = true;
		if (!grip.moved) return;
		if (grip.small) centre(px);
		else if (grip.mark) { marked = [grip.x, px]; draw(); }
		else {
			chart.classList.add("moving");
			const by = (grip.x - px) / plot() * (grip.to - grip.from);
			setRange(grip.from + by, grip.to + by);
		}
	});
	window.addEventListener("pointerup", event => {
		const was = grip;
		grip = null;
		chart.classList.remove("moving");
		if (!was) return;
		if (marked) {
			const [a, b] = [Math.min(...marked), Math.max(...marked)];
			marked = null;
			setRange(unitAt(a), unitAt(b));
		} else if (!was.moved && was.what) {
			const w = was.what;
			if (w.e !== undefined) select("e", Number(w.e));
			else if (w.i !== undefined) select("i", Number(w.i));
			else if (w.m !== undefined) select("m", Number(w.m));
			else zoomTo(Number(w.from), Number(w.to));
		}
	});
	function zoomTo(first, last) {
		const a = scale().at(exits[first].t1), b = scale().at(exits[last].t1), room = Math.max(b - a, scale().least) * 0.15;
		if (state.to - state.from <= scale().least * 1.01) select("e", first);
		else setRange(a - room, b + room);
	}
	function describe(what) {
		if (what.e !== undefined) return exitLine(exits[Number(what.e)]);
		if (what.i !== undefined) { const c = ioctls[Number(what.i)]; return c.n + " (" + (c.in || "") + ") = " + c.ret; }
		if (what.m !== undefined) return marks[Number(what.m)].text;
		return "Several exits, " + exits[Number(what.from)].n + " to " + exits[Number(what.to)].n + ": select to zoom in";
	}
	chart.addEventListener("wheel", event => {
		event.preventDefault();
		if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) pan((event.deltaX || event.deltaY) / 800);
		else zoom(Math.pow(1.0018, clamp(event.deltaY, -400, 400)), unitAt(pixel(event)));
	}, { passive: false });
	chart.addEventListener("dblclick", event => { if (!inOverview(event) && !target(event)) zoom(0.4, unitAt(pixel(event))); });
	chart.addEventListener("keydown", event => {
		if (event.ctrlKey || event.altKey || event.metaKey) return;
		const act = {
			"+": () => zoom(0.6, focusPoint()), "=": () => zoom(0.6, focusPoint()), "-": () => zoom(1 / 0.6, focusPoint()),
			"0": () => { showAll(); draw(); }, e: () => setMode(state.mode === "even" ? "time" : "even"),
			ArrowLeft: () => event.shiftKey ? pan(-0.2) : step(-1), ArrowRight: () => event.shiftKey ? pan(0.2) : step(1),
			ArrowUp: () => toLane(-1), ArrowDown: () => toLane(1), Home: () => toEnd(false), End: () => toEnd(true),
			Enter: toChosen, Escape: () => { state.chosen = null; draw(); showDetails(); }
		}[event.key.length === 1 ? event.key.toLowerCase() : event.key];
		if (act) { event.preventDefault(); act(); }
	});
	function focusPoint() {
		const t = chosenTime(), u = t === null ? null : scale().at(t);
		return u !== null && u >= state.from && u <= state.to ? u : undefined;
	}
	const press = (id, act) => document.getElementById(id).addEventListener("click", act);
	press("in", () => zoom(0.5, focusPoint()));
	press("out", () => zoom(2, focusPoint()));
	press("all", () => { showAll(); draw(); });
	press("even", () => setMode(state.mode === "even" ? "time" : "even"));
	press("before", () => step(-1));
	press("after", () => step(1));
	document.querySelectorAll("input.filter").forEach(box => box.addEventListener("change", () => {
		if (box.checked) state.hidden.delete(box.value); else state.hidden.add(box.value);
		filter();
	}));
	const rows = document.querySelector("#exits tbody");
	const byNumber = new Map(exits.map((e, i) => [String(e.n), i]));
	if (rows) rows.addEventListener("click", event => {
		const row = event.target.closest("tr");
		if (row && byNumber.has(row.dataset.n)) select("e", byNumber.get(row.dataset.n));
	});
	window.addEventListener("resize", draw);
	window.addEventListener("beforeprint", draw);

	document.getElementById("time").hidden = false;
	recall();
})();
