// The first line: in words, how the fleet is. A pure function of what was read.

import { isThere, jobsOf, workersByState } from "../kit/facts.js";
import { about, age, clock, count, listed, many, rate } from "../kit/words.js";

const FEW_S = 10;

// `seen`: the last reading (`fleet`), since when Redis does not answer (`down`: since, why), since when this page's own
// server does not (`lost`). The answer: `level` good, calm, warn or bad; `text`; `why` where something is known.
export function headline(seen) {
  const { fleet, down, lost } = seen;
  if (lost != null) {
    const text = `The server of this page does not answer since ${clock(lost)}.${fromThen(fleet, lost)}`;
    return { level: "bad", text, why: "" };
  }
  if (down) {
    const text = `Redis does not answer since ${clock(down.since)}.${fromThen(fleet, down.since)}`;
    return { level: "bad", text, why: down.why };
  }
  if (!fleet) return { level: "calm", text: "Waiting for the first reading of Redis …", why: "" };
  return { ...ofFleet(fleet), why: "" };
}

// How old the rest of the page is: a page that was hidden for hours has older data than from when something went away.
function fromThen(fleet, since) {
  if (!fleet) return "";
  return ` What follows is from ${Math.abs(fleet.read_at - since) < FEW_S ? "then" : clock(fleet.read_at)}.`;
}

function ofFleet(fleet) {
  const jobs = jobsOf(fleet);
  const workers = workersByState(fleet);
  const there = fleet.workers.filter(isThere);
  const wait = waitWords(jobs);
  if (fleet.paused) return { level: "warn", text: `${pausedWords(fleet)}: ${wait}${standingBy(there)}.` };
  if (!there.length) return withoutWorkers(fleet, jobs);
  if (workers.serving.length) return serving(fleet, workers.serving, there, jobs);
  const level = workers.starting.length === there.length ? "calm" : "bad";
  const how = Object.entries(workers)
    .filter(([state, those]) => those.length && state !== "gone")
    .map(([state, those]) => `${count(those.length)} ${stateWords(state, those.length)}`);
  return { level, text: `No worker takes jobs: ${listed(how)}. ${capital(wait)}.` };
}

function withoutWorkers(fleet, jobs) {
  if (jobs.waiting === 0 && !jobs.running && !fleet.num_batches) {
    return { level: "calm", text: "Nothing here yet: no worker, and no batch was submitted." };
  }
  const open = jobs.waiting !== 0 || jobs.running > 0 || jobs.parked > 0;
  if (!open) return { level: "calm", text: "No worker, and no job waits." };
  const held = jobs.running ? `, ${count(jobs.running)} were taken by workers that are gone` : "";
  const oldest = jobs.oldest_s == null ? "" : `, the oldest for ${age(jobs.oldest_s)}`;
  return { level: "bad", text: `No worker: ${waitWords(jobs)}${oldest}${held}.` };
}

function serving(fleet, those, there, jobs) {
  const who =
    those.length < there.length
      ? `${count(those.length)} of ${many(there.length, "worker")} ${those.length === 1 ? "serves" : "serve"}`
      : `${many(those.length, "worker")} ${those.length === 1 ? "serves" : "serve"}`;
  const what = versionWords(those);
  const level = those.length < there.length ? "warn" : "good";
  if (jobs.waiting === 0 && !jobs.running && !jobs.parked)
    return { level, text: `${who} ${what}. There is nothing to do.` };
  const work = fleet.backlog_s > 0 ? `, ${about(fleet.backlog_s)} of work` : "";
  return { level, text: `${who} ${what}, ${rate(fleet.tokens_per_s)} tokens/s, ${waitWords(jobs)}${work}.` };
}

function versionWords(workers) {
  const versions = [...new Set(workers.map((worker) => worker.report.policy_version))].filter((one) => one != null);
  versions.sort((one, other) => other - one);
  if (!versions.length) return "an unknown version";
  if (versions.length > 1) return `versions ${listed(versions.map(String))}`;
  if (versions[0] === 0) return `the model ${workers.length === 1 ? "it" : "they"} booted with`;
  return `version ${versions[0]}`;
}

function waitWords(jobs) {
  if (jobs.waiting == null) return "an unknown number of jobs waits";
  if (jobs.waiting) return `${many(jobs.waiting, "job")} ${jobs.waiting === 1 ? "waits" : "wait"}`;
  if (jobs.running) return `${many(jobs.running, "job")} ${jobs.running === 1 ? "runs" : "run"}, none waits`;
  const parked = `${many(jobs.parked, "job")} ${jobs.parked === 1 ? "waits" : "wait"} for`;
  const others = jobs.for_sessions < jobs.parked ? " or a newer version" : "";
  if (jobs.for_sessions) return `${parked} their session's worker${others}`;
  return jobs.parked ? `${parked} a newer version` : "no job waits";
}

function pausedWords(fleet) {
  if (fleet.paused_s_ago == null) return "Paused by an operator";
  return `Paused by an operator since ${clock(fleet.read_at - fleet.paused_s_ago)} (${age(fleet.paused_s_ago)})`;
}

function standingBy(workers) {
  if (!workers.length) return ", and there is no worker";
  return `, ${many(workers.length, "worker")} ${workers.length === 1 ? "stands" : "stand"} by`;
}

function stateWords(state, number) {
  const one = { late: "is late", paused: "is paused", starting: "starts", draining: "drains", unknown: "says nothing" };
  const several = {
    late: "are late",
    paused: "are paused",
    starting: "start",
    draining: "drain",
    unknown: "say nothing",
  };
  return (number === 1 ? one : several)[state];
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
