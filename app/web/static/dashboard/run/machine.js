// A run's use of its machine: the metrics `system/…`, those of all GPUs in one chart.
import { number } from "../format.js";
import { Fact } from "../parts.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div } = tags;

/** @typedef {{ key: string, label: string }} Member */
/** @typedef {{ title: string, members: Member[] }} Group */

const GPU = /^system\/(.*?)gpu(\d+)\/(.+)$/;
/** @type {Record<string, string>} */
const OF_GPUS = {
  utilization_percent: t("GPU utilization, %"), memory_percent: t("GPU memory, %"), memory_mb: t("GPU memory, MB"),
  power_w: t("GPU power, W"), temperature_c: t("GPU temperature, °C"),
};
/** @type {[string, [string, string][]][]} */
const OF_RUN = [
  [t("CPU of the run, % of a core"), [["cpu_percent", ""]]],
  [t("Memory of the run, MB"), [["memory_mb", ""]]],
  [t("Disk, MB/s"), [["disk_read_mb_s", t("read")], ["disk_write_mb_s", t("written")]]],
  [t("Network of the machine, MB/s"), [["network_received_mb_s", t("received")], ["network_sent_mb_s", t("sent")]]],
  [t("Use of the machine, %"), [["host_cpu_percent", "CPU"], ["host_memory_percent", t("memory")]]],
];

/** True for a metric that is shown here. @param {string} key */
export const ofMachine = (key) => key.startsWith("system/");

/** The metrics by chart, GPUs first; a metric with an unknown name has its own chart.
 * @param {string[]} keys @returns {Group[]} */
export function machineCharts(keys) {
  const left = new Set(keys);
  /** @type {Map<string, Member[]>} */
  const gpus = new Map();
  for (const key of keys) {
    const [, where, gpu, what] = GPU.exec(key) ?? [];
    if (what === undefined) continue;
    const title = OF_GPUS[what] ?? t("GPU: {what}", { what });
    gpus.set(title, [...(gpus.get(title) ?? []), { key, label: `${where}GPU ${gpu}` }]);
    left.delete(key);
  }
  const order = [...Object.values(OF_GPUS), ...gpus.keys()];
  const groups = [...gpus].map(([title, members]) => ({ title, members: members.sort((a, b) => a.label.localeCompare(b.label, "en", { numeric: true })) }))
    .sort((a, b) => order.indexOf(a.title) - order.indexOf(b.title));
  for (const [title, parts] of OF_RUN) {
    const members = parts.map(([name, label]) => ({ key: `system/${name}`, label })).filter(({ key }) => left.delete(key));
    if (members.length) groups.push({ title, members });
  }
  return [...groups, ...[...left].map((key) => ({ title: key, members: [{ key, label: "" }] }))];
}

/** The newest values, of GPUs from the lowest to the highest.
 * @param {{ metrics: { key: string, value: number | null }[] }} props */
export function MachineNow({ metrics }) {
  const now = new Map(metrics.map(({ key, value }) => [key, value]));
  const groups = machineCharts(metrics.map(({ key }) => key).filter(ofMachine));
  return div({ class: "facts" }, groups.map(({ title, members }) => {
    const values = /** @type {number[]} */ (members.map(({ key }) => now.get(key) ?? null).filter((value) => value !== null));
    if (!values.length) return null;
    const spread = members.length > 2 || GPU.test(members[0].key);
    return h(Fact, { key: title, name: title }, spread
      ? [...new Set([Math.min(...values), Math.max(...values)])].map((value) => number(Math.round(value))).join(" – ")
      : members.map(({ key, label }) => `${label ? `${label} ` : ""}${number(rounded(now.get(key)))}`).join(" · "));
  }));
}

/** @param {number | null | undefined} value */
const rounded = (value) => (value === null || value === undefined ? value : Math.abs(value) >= 10 ? Math.round(value) : Math.round(value * 10) / 10);
