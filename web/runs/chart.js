/** Lines over the steps of a run, drawn on a canvas. */
import { say } from "../editor/words.js";

const COLORS = ["#4c8dff", "#f2a33a", "#53c27b", "#d76fd0", "#e35d5d", "#49c3c9", "#b3a15a"];
const MARGIN = { left: 52, right: 8, top: 6, bottom: 18 };

/** The color of the series at an index. */
export function colorOf(index) {
  return COLORS[index % COLORS.length];
}

/** Exponential mean of values, corrected for its start at 0; `keep` is the weight of the past. */
export function smooth(values, keep) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

/** At most `limit` points of a line: of each stretch, the one farthest from the stretch's mean. */
export function thin(points, limit) {
  if (points.length <= limit) return points;
  const size = points.length / limit;
  return Array.from({ length: limit }, (_, index) => {
    const part = points.slice(Math.floor(index * size), Math.floor((index + 1) * size));
    const mean = part.reduce((sum, point) => sum + point[1], 0) / part.length;
    return part.reduce((a, b) => (Math.abs(b[1] - mean) > Math.abs(a[1] - mean) ? b : a));
  });
}

/**
 * @param {HTMLCanvasElement} canvas drawn at the size that its style gives it
 * @param {{points: number[][], color: string, width?: number}[]} series of [x, y]
 * @param {{bare?: boolean, marks?: number[]}} options bare: no axes; marks: steps to mark
 */
export function drawLines(canvas, series, { bare = false, marks = [] } = {}) {
  const pen = fitted(canvas);
  const { clientWidth: width, clientHeight: height } = canvas;
  pen.clearRect(0, 0, width, height);
  const points = series.flatMap((one) => one.points).filter(([, y]) => Number.isFinite(y));
  if (!points.length || width < 20) return;
  const style = getComputedStyle(canvas);
  const margin = bare ? { left: 2, right: 2, top: 2, bottom: 2 } : MARGIN;
  const place = scale(points, width, height, margin);
  if (!bare) drawAxes(pen, place, width, height, style.color);
  for (const step of marks) drawMark(pen, place, step, margin, height, style.color);
  for (const one of series) drawLine(pen, thin(one.points, 2 * width), one, place);
}

function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
}

function scale(points, width, height, margin) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const bounds = { left: least(xs), right: most(xs), low: least(ys), high: most(ys) };
  if (bounds.low > 0 && bounds.low < 0.5 * bounds.high) bounds.low = 0;
  const across = bounds.right - bounds.left || 1;
  const up = bounds.high - bounds.low || Math.abs(bounds.high) || 1;
  return {
    bounds,
    x: (x) => margin.left + ((x - bounds.left) / across) * (width - margin.left - margin.right),
    y: (y) =>
      height - margin.bottom - ((y - bounds.low) / up) * (height - margin.top - margin.bottom),
  };
}

// Math.min(...values) overflows the stack for the steps of a long run.
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const most = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

function drawAxes(pen, place, width, height, color) {
  const { left, right, low, high } = place.bounds;
  pen.font = "10px sans-serif";
  pen.fillStyle = pen.strokeStyle = color;
  pen.lineWidth = 1;
  for (const share of [0, 0.5, 1]) {
    const value = low + share * (high - low);
    pen.globalAlpha = 0.15;
    pen.beginPath();
    pen.moveTo(MARGIN.left, place.y(value));
    pen.lineTo(width - MARGIN.right, place.y(value));
    pen.stroke();
    pen.globalAlpha = 0.8;
    pen.textAlign = "right";
    pen.fillText(short(value), MARGIN.left - 4, place.y(value) + 4);
  }
  pen.textAlign = "left";
  pen.fillText(say("step {step}", { step: left }), MARGIN.left, height - 4);
  pen.textAlign = "right";
  pen.fillText(`${right}`, width - MARGIN.right, height - 4);
  pen.globalAlpha = 1;
}

function drawMark(pen, place, step, margin, height, color) {
  pen.globalAlpha = 0.5;
  pen.strokeStyle = color;
  pen.lineWidth = 1;
  pen.setLineDash([3, 3]);
  pen.beginPath();
  pen.moveTo(place.x(step), margin.top);
  pen.lineTo(place.x(step), height - margin.bottom);
  pen.stroke();
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function drawLine(pen, points, { color, width = 1.5 }, place) {
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = width;
  pen.beginPath();
  for (const [x, y] of points) {
    if (Number.isFinite(y)) pen.lineTo(place.x(x), place.y(y));
  }
  pen.stroke();
  if (points.length === 1) pen.fillRect(place.x(points[0][0]) - 2, place.y(points[0][1]) - 2, 4, 4);
}

/** A number with three digits. */
export function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.001 && size < 10000 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}
