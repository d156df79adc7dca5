/** How figures are written: short, aligned, with the unit. */

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(value: number): string {
  return Math.abs(value) < 10_000 ? number.format(value) : compact.format(value);
}

/** Micro-dollars as dollars: as many digits as it takes to see that it is not nothing. */
export function money(microusd: number): string {
  const dollars = microusd / 1_000_000;
  if (microusd === 0) return "$0";
  if (Math.abs(dollars) < 0.01) return `$${dollars.toFixed(microusd % 100 === 0 ? 4 : 6)}`;
  return `$${dollars.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: dollars < 1 ? 4 : 2 })}`;
}

/** Seconds as people say them: 840 ms, 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds: number): string {
  if (seconds < 0) return "0 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const [d, h, m, s] = [Math.floor(whole / 86_400), Math.floor((whole % 86_400) / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  if (d) return h ? `${d} d ${h} h` : `${d} d`;
  if (h) return m ? `${h} h ${m} min` : `${h} h`;
  return s ? `${m} min ${s} s` : `${m} min`;
}

/** Seconds between two times of the API; up to now without an end. */
export function secondsBetween(start: string | null | undefined, end: string | null | undefined, now = Date.now()): number | null {
  if (!start) return null;
  return ((end ? Date.parse(end) : now) - Date.parse(start)) / 1000;
}

export function bytes(size: number): string {
  if (size < 1024) return `${size} B`;
  if (size < 1024 ** 2) return `${(size / 1024).toFixed(1)} kB`;
  return `${(size / 1024 ** 2).toFixed(1)} MB`;
}

/** The end of an id, where UUIDv7s of one moment differ. */
export function shortId(id: string): string {
  return id.slice(-8);
}
