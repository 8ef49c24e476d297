// When the items of a history were had, for models that read it.

const DAY = 86_400;

export const now = () => Math.floor(Date.now() / 1000);

// Seconds since 1970 <-> what an input of the type datetime-local holds: local time, to the minute.
export function toInput(seconds) {
  const moment = new Date(seconds * 1000);
  return new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

export const fromInput = (words) => Math.floor(new Date(words).getTime() / 1000);

// Put a history in order of time. An item whose time nobody set comes a day before the next one, the last of all now, and
// never before the item that it follows.
export function spaceTimes(history, moment) {
  const newest = (item) => item.time ?? Number.MAX_SAFE_INTEGER;
  history.sort((a, b) => newest(a) - newest(b));
  let next = moment + DAY;
  for (let i = history.length - 1; i >= 0; i--) {
    const item = history[i];
    if (!item.timed) {
      const before = history.slice(0, i).findLast((each) => each.timed)?.time ?? -Infinity;
      item.time = Math.max(before, next - DAY);
    }
    next = item.time;
  }
}

// The moment to recommend for: now, or the newest item where that is later.
export const momentAfter = (history, moment) => Math.max(moment, ...history.map((item) => item.time));
