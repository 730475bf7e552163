// Numbers and times as people read them.
const UNITS: [string, number][] = [
  ["d", 86400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];

/** Return seconds in the two largest units, like "2 h 5 min". */
export function duration(seconds: number): string {
  let rest = Math.max(Math.floor(seconds), 0);
  const parts: string[] = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count || parts.length || unit === "s") parts.push(`${count} ${unit}`);
  }
  return parts
    .slice(0, 2)
    .filter((part) => !part.startsWith("0 ") || parts.length === 1)
    .join(" ");
}

export function age(moment: string, now: number): string {
  const seconds = (now - Date.parse(moment)) / 1000;
  if (seconds < 5) return "just now";
  for (const [unit, size] of UNITS) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return "just now";
}

export const exactTime = (moment: string): string =>
  new Date(moment).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

export const clockTime = (moment: string): string =>
  new Date(moment).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** Return bytes in the largest unit of which there is one or more, like "12.3 MiB" or "1 GiB". */
export function bytes(size: number): string {
  let value = size;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${round(value)} ${unit}`;
    value /= 1024;
  }
  return `${round(value)} TiB`;
}

const round = (value: number): string => value.toFixed(1).replace(/\.0$/, "");

export const count = (value: number): string => value.toLocaleString();

export const countJobs = (value: number): string => (value === 1 ? "1 job" : `${count(value)} jobs`);

/** Return how long a job ran, or has been running, in seconds. */
export function runSeconds(job: { started_at: string | null; ended_at: string | null }, now: number): number | null {
  if (!job.started_at) return null;
  const end = job.ended_at ? Date.parse(job.ended_at) : now;
  return (end - Date.parse(job.started_at)) / 1000;
}
