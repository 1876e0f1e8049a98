// What several parts of the page derive from one reading.

import { stateOf } from "./meanings.js";

const LEAST_OF_A_MINUTE_S = 15; // before that, a speed of the minute under way says little

const FEWEST_MINUTES = 10; // a chart of fewer looks like noise

export function sum(numbers) {
  return numbers.reduce((one, other) => one + other, 0);
}

// Jobs by what they wait for; `waiting` is null if a partition's could not be counted.
export function jobsOf(fleet) {
  const { queues } = fleet;
  const forSessions = sum(queues.map((queue) => queue.for_sessions));
  const parked = sum(queues.flatMap((queue) => queue.parked.map((one) => one.jobs))) + forSessions;
  const ages = queues.map((queue) => queue.oldest_waiting_s).filter((age) => age != null);
  return {
    waiting: queues.some((queue) => queue.waiting == null) ? null : sum(queues.map((queue) => queue.waiting)),
    running: Math.max(0, sum(queues.map((queue) => queue.pending)) - parked),
    parked,
    for_sessions: forSessions,
    oldest_s: ages.length ? Math.max(...ages) : null,
  };
}

// Workers by state, each a list.
export function workersByState(fleet) {
  const found = { gone: [], late: [], paused: [], starting: [], draining: [], unknown: [], serving: [] };
  for (const worker of fleet.workers) found[stateOf(worker)].push(worker);
  return found;
}

// Workers whose reports say how things are now.
export function isThere(worker) {
  return worker.presence !== "gone";
}

// Whether its report says that it refused a version; that of a late worker counts.
export function isRefusing(worker) {
  return isThere(worker) && Boolean(worker.report.policy_error);
}

// The version to serve: the newest active one.
export function newestVersion(fleet) {
  return fleet.versions.find((one) => !one.waits_for) ?? null;
}

// The version that a worker's `policy_error` is about: the newest active one or, if it serves that, one not active yet.
export function refusedVersion({ policy_version: serves, newest_version: newest, announced_version: announced }) {
  return (serves === newest ? announced : null) ?? newest;
}

// Sums of the last so many minutes: groups by staleness, groups by error, and all groups with completions.
export function sumsOf(fleet, minutes) {
  const first = Math.floor(fleet.read_at / 60) - minutes + 1;
  const sums = { groups: 0, staleness: new Map(), errors: new Map() };
  for (const minute of fleet.minutes) {
    if (minute.minute < first) continue;
    sums.groups += minute.groups;
    addTo(sums.staleness, minute.staleness);
    addTo(sums.errors, minute.errors);
  }
  return sums;
}

function addTo(sums, counts) {
  for (const [name, number] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + number);
}

// Tokens per second of each minute of the last hour: [unix seconds, speeds]. The minute under way counts as far as it
// has come; a queue that is younger than an hour begins with its first minute.
export function speeds(fleet) {
  const last = Math.floor(fleet.read_at / 60);
  const tokens = new Map(fleet.minutes.map((minute) => [minute.minute, minute.tokens]));
  const [times, values] = [[], []];
  const oldest = Math.max(last - 59, Math.min(last - FEWEST_MINUTES, fleet.minutes[0]?.minute ?? last));
  for (let minute = oldest; minute <= last; minute += 1) {
    const seconds = Math.min(60, fleet.read_at - minute * 60);
    if (seconds < LEAST_OF_A_MINUTE_S) continue;
    times.push(minute * 60);
    values.push((tokens.get(minute) ?? 0) / seconds);
  }
  return [times, values];
}
