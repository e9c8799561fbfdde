/** Rate and queue over the last two minutes, drawn by uPlot. */

import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { rate } from "../format";
import { FRESH_MS, POINTS_KEPT_S } from "../model";
import type { Point } from "../seam";
import { Panel } from "./common";

const HEIGHT_PX = 150;

export function Charts({ points, now_ms }: { points: readonly Point[]; now_ms: number }) {
  return (
    <div class="pair">
      <Chart title="Rate" unit="messages /s" points={points} now_ms={now_ms} value={(p) => p.rate_per_s} color="--accent" />
      <Chart title="Queue" unit="messages waiting" points={points} now_ms={now_ms} value={(p) => p.queue_size} color="--second" />
    </div>
  );
}

interface ChartProps {
  title: string;
  unit: string;
  points: readonly Point[];
  now_ms: number;
  value: (point: Point) => number;
  /** Name of a CSS colour variable. */
  color: string;
}

function Chart({ title, unit, points, now_ms, value, color }: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = series(points, value);
  const newest = points.at(-1);
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const element = place.current as HTMLDivElement;
    const make = () => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, color), latest.current, element);
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
  }, [color]);

  useEffect(() => {
    const end = now_ms / 1000;
    plot.current?.setData(latest.current, false);
    plot.current?.setScale("x", { min: end - POINTS_KEPT_S, max: end });
  });

  const now = newest && now_ms - 1000 * newest.time < FRESH_MS ? rate(value(newest)) : "–";
  return (
    <Panel title={title} aside={<span class="now">{`${now} ${unit}`}</span>}>
      <div ref={place} class="chart" role="img" aria-label={`${title} over the last two minutes; newest ${now} ${unit}`} />
    </Panel>
  );
}

function options(element: HTMLElement, color: string): uPlot.Options {
  const style = getComputedStyle(element);
  const ink = style.getPropertyValue(color).trim();
  const axis: uPlot.Axis = {
    stroke: style.getPropertyValue("--muted").trim(),
    grid: { stroke: style.getPropertyValue("--line").trim(), width: 1 },
    ticks: { show: false },
    font: `11px ${style.fontFamily}`,
  };
  return {
    width: element.clientWidth || 300,
    height: HEIGHT_PX,
    padding: [8, 8, 0, 0],
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
    series: [{}, { stroke: ink, width: 1.75, fill: `${ink}22`, points: { show: false } }],
  };
}

/** The points as uPlot takes them; where nothing was heard for a while there is a gap, not a line. */
function series(points: readonly Point[], value: (point: Point) => number): uPlot.AlignedData {
  const times: number[] = [];
  const values: (number | null)[] = [];
  for (const point of points) {
    const before = times.at(-1);
    if (before !== undefined && 1000 * (point.time - before) > FRESH_MS) {
      times.push(before + 0.001);
      values.push(null);
    }
    times.push(point.time);
    values.push(value(point));
  }
  return [times, values];
}

function clock(seconds: number): string {
  return new Date(seconds * 1000).toTimeString().slice(0, 8);
}
