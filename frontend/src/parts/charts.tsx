/** Rates and queue over the last minutes, drawn by uPlot. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { duration, rate } from "../format";
import { FRESH_MS, POINTS_KEPT_S, ratePerS, ratesPerS } from "../model";
import type { Point } from "../seam";
import { Panel } from "./common";

const HEIGHT_PX = 150;

export function Charts({ points, now_ms }: { points: readonly Point[]; now_ms: number }) {
  const newest = points.at(-1);
  const fresh = newest !== undefined && now_ms - 1000 * newest.time < FRESH_MS;
  const text = (value: number | null | undefined): string => (fresh && value !== null && value !== undefined ? rate(value) : "–");
  const rates: Line[] = [
    { label: "processed /s", now: text(ratePerS(points, "processed")), color: "--accent", values: ratesPerS(points, "processed") },
    { label: "errors /s", now: text(ratePerS(points, "errored")), color: "--bad", values: ratesPerS(points, "errored") },
  ];
  const queue: Line[] = [
    { label: "waiting", now: text(newest?.queue_size), color: "--second", values: points.map((p) => p.queue_size) },
  ];
  const times = points.map((point) => point.time);
  return (
    <div class="pair">
      <Chart title="Rate" times={times} lines={rates} now_ms={now_ms} />
      <Chart title="Queue" times={times} lines={queue} now_ms={now_ms} />
    </div>
  );
}

interface Line {
  label: string;
  /** The newest value as text. */
  now: string;
  /** Name of a CSS colour variable. */
  color: string;
  /** One value for each time. */
  values: (number | null)[];
}

function Chart({ title, times, lines, now_ms }: { title: string; times: number[]; lines: readonly Line[]; now_ms: number }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef<uPlot.AlignedData>([[]]);
  latest.current = withGaps(times, lines);
  const colors = lines.map((line) => line.color).join(" ");

  useEffect(() => {
    const element = place.current as HTMLDivElement;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, colors.split(" ")), latest.current, element);
    };
    make();
    const size = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT_PX }));
    size.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make); // a canvas does not follow the style sheet by itself
    return () => {
      size.disconnect();
      scheme.removeEventListener("change", make);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [colors]);

  useEffect(() => {
    const end = now_ms / 1000;
    plot.current?.setData(latest.current, false);
    plot.current?.setScale("x", { min: end - POINTS_KEPT_S, max: end });
  });

  const aside = lines.map((line) => (
    <span key={line.label} class="now">
      <span class="swatch" style={{ background: `var(${line.color})` }} aria-hidden="true" />
      {`${line.now} ${line.label}`}
    </span>
  ));
  const said = lines.map((line) => `${line.now} ${line.label}`).join(", ");
  return (
    <Panel title={title} aside={<>{aside}</>}>
      <div ref={place} class="chart" role="img" aria-label={`${title} over the last ${duration(POINTS_KEPT_S)}; newest ${said}`} />
    </Panel>
  );
}

function options(element: HTMLElement, colors: readonly string[]): uPlot.Options {
  const style = getComputedStyle(element);
  const lines = colors.map((color): uPlot.Series => {
    const stroke = style.getPropertyValue(color).trim();
    return { stroke, width: 1.75, fill: `${stroke}22`, points: { show: false } };
  });
  const axis: uPlot.Axis = {
    stroke: style.getPropertyValue("--muted").trim(),
    grid: { stroke: style.getPropertyValue("--line").trim(), width: 1 },
    ticks: { show: false },
    font: `11px ${style.fontFamily}`,
  };
  return {
    width: element.clientWidth || 300,
    height: HEIGHT_PX,
    padding: [8, 24, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: true, auto: false },
      y: { range: (_plot, _low, high) => [0, Math.max(10, (high ?? 0) * 1.15)] },
    },
    axes: [
      { ...axis, space: 70, size: 26, values: (_plot, ticks) => ticks.map(clock) },
      { ...axis, size: 46, values: (_plot, ticks) => ticks.map(rate) },
    ],
    series: [{}, ...lines],
  };
}

/** The lines as uPlot takes them; where nothing was heard for a while there is a gap, not a line. */
function withGaps(times: readonly number[], lines: readonly Line[]): uPlot.AlignedData {
  const out: [number[], ...(number | null)[][]] = [[], ...lines.map(() => [])];
  const add = (time: number, value: (line: Line) => number | null): void => {
    out[0].push(time);
    lines.forEach((line, n) => (out[n + 1] as (number | null)[]).push(value(line)));
  };
  times.forEach((time, i) => {
    const before = times[i - 1];
    if (before !== undefined && 1000 * (time - before) > FRESH_MS) add(before + 0.001, () => null);
    add(time, (line) => line.values[i] ?? null);
  });
  return out;
}

function clock(seconds: number): string {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}
