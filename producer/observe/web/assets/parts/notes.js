// What an operator should know beside the first line: each note says what is wrong and what follows or helps.

import { isRefusing, isThere, jobsOf, newestVersion, refusedVersion, sumsOf, workersByState } from "../kit/facts.js";
import { meaningOf, PAUSES } from "../kit/meanings.js";
import { age, bytes, clock, count, duration, listed, many, percent, start } from "../kit/words.js";

const SLOW_VERSION_S = 60; // a version that takes longer to reach all workers is worth a line
const RECENT_S = 3_600;
const RECENT_MIN = 10;

// Notes of one reading, the gravest first: `level`, `text` and perhaps `href`.
export function notes(fleet) {
  const workers = workersByState(fleet);
  const found = [
    ...silent(fleet, workers.late, "is late", "It may be busy, frozen or cut off."),
    ...silent(fleet, workers.gone, "is gone", goneAdvice(fleet)),
    ...pauses(workers.paused),
    ...versions(fleet),
    ...parked(fleet),
    ...redis(fleet),
    ...errors(fleet),
    ...letters(fleet),
    ...(fleet.problems ?? []).map((text) => ({ level: "warn", text: start(text, 300) })),
  ];
  const order = ["bad", "warn", "calm"];
  return found.sort((one, other) => order.indexOf(one.level) - order.indexOf(other.level));
}

function silent(fleet, workers, how, advice) {
  if (workers.length > 3) {
    const names = listed(workers.map((worker) => start(worker.consumer, 40)));
    return [
      {
        level: "bad",
        text: `${many(workers.length, "worker")} ${how.replace("is", "are")}: ${names}. ${advice}`,
        href: "#workers",
      },
    ];
  }
  return workers.map((worker) => {
    const seen = worker.seen_s_ago == null ? "" : ` since ${clock(fleet.read_at - worker.seen_s_ago)}`;
    return { level: "bad", text: `${start(worker.consumer)} ${how}${seen}. ${advice}`, href: "#workers" };
  });
}

function goneAdvice(fleet) {
  const leases = fleet.workers.map((worker) => worker.report.lease_s).filter((lease) => lease != null);
  const when = leases.length ? ` within ${duration(1.5 * Math.max(...leases))}` : "";
  return `It was killed or cannot reach Redis; other workers take over its jobs${when}.`;
}

function pauses(workers) {
  const by = new Map();
  for (const worker of workers) {
    for (const reason of worker.report.paused_for) {
      if (reason !== "operator") by.set(reason, [...(by.get(reason) ?? []), worker.consumer]);
    }
  }
  return [...by].map(([reason, names]) => {
    const meaning = meaningOf(PAUSES, reason);
    const why = meaning ? `${reason} (${meaning})` : start(reason);
    return {
      level: "bad",
      text: `${listed(names.map((name) => start(name, 40)))} paused for ${why}.`,
      href: "#workers",
    };
  });
}

function refusals(fleet) {
  const by = new Map();
  for (const worker of fleet.workers.filter(isRefusing)) {
    const { policy_error: why } = worker.report;
    const what = `Version ${refusedVersion(worker.report) ?? "?"}`;
    const key = JSON.stringify([what, why]);
    by.set(key, { what, why, names: [...(by.get(key)?.names ?? []), start(worker.consumer, 40)] });
  }
  return [...by.values()].map(({ what, why, names }) => ({
    level: "bad",
    text: `${what} is refused by ${listed(names)}: ${start(why, 200)}`,
    href: "#workers",
  }));
}

function versions(fleet) {
  const found = refusals(fleet);
  const newest = newestVersion(fleet);
  const live = fleet.workers.filter(isThere);
  const behind = newest ? live.filter((worker) => !newest.served_by.includes(worker.consumer)) : [];
  const active_s = newest?.activated_s_ago ?? newest?.announced_s_ago;
  if (behind.length && !newest.refused_by.length && active_s > SLOW_VERSION_S) {
    const since = age(newest.announced_s_ago);
    const who = `${count(behind.length)} of ${many(live.length, "worker")}`;
    found.push({
      level: "warn",
      text: `Version ${newest.version}, announced ${since} ago, is not served yet by ${who}.`,
      href: "#versions",
    });
  }
  const waiting = fleet.versions.find((one) => one.waits_for);
  if (waiting) {
    const ready = `${count(waiting.prepared_by.length)} of ${many(live.length, "worker")}`;
    const what = waiting.waits_for === "by_hand" ? "somebody activates it" : "enough workers have prepared it";
    const since = age(waiting.announced_s_ago);
    found.push({
      level: "calm",
      text: `Version ${waiting.version}, announced ${since} ago, waits until ${what}; ${ready} can serve it.`,
      href: "#versions",
    });
  }
  return found;
}

function parked(fleet) {
  const by = new Map();
  for (const one of fleet.queues.flatMap((queue) => queue.parked)) {
    const so = by.get(one.version) ?? { jobs: 0, oldest_s: 0 };
    by.set(one.version, { jobs: so.jobs + one.jobs, oldest_s: Math.max(so.oldest_s, one.oldest_s) });
  }
  const newest = newestVersion(fleet)?.version ?? 0;
  return [...by].map(([version, { jobs, oldest_s }]) => {
    const announced = fleet.versions[0]?.version ?? 0;
    const unserved = version > newest ? "which is not active" : "which no free worker serves";
    const when = version > announced ? "which was not announced" : unserved;
    const which = `${many(jobs, "job")} ${jobs === 1 ? "waits" : "wait"} for policy version ${version}, ${when}`;
    return { level: "warn", text: `${which}; the oldest for ${age(oldest_s)}.` };
  });
}

function redis(fleet) {
  const found = [];
  const { redis_memory: used, redis_memory_limit: limit } = fleet;
  if (limit > 0 && used > 0.8 * limit) {
    const level = used > 0.9 * limit ? "bad" : "warn";
    found.push({
      level,
      text: `Redis has used ${percent(used, limit)} of its ${bytes(limit)}; when it is full, workers pause.`,
    });
  }
  const ahead = Math.max(0, ...fleet.queues.map((queue) => queue.ids_ahead_s));
  if (ahead > 0) {
    found.push({
      level: "warn",
      text: `Redis' clock was set back by ${duration(ahead)}: the ages of jobs are unknown until it has caught up.`,
    });
  }
  if (jobsOf(fleet).waiting == null) {
    found.push({ level: "calm", text: "The waiting jobs are too many to count, or this user may not count them." });
  }
  return found;
}

function errors(fleet) {
  const by = [...sumsOf(fleet, RECENT_MIN).errors].filter(([code]) => code !== "cancelled");
  const number = by.reduce((so, [, groups]) => so + groups, 0);
  if (!number) return [];
  by.sort(([, one], [, other]) => other - one);
  const codes = listed(by.map(([code, groups]) => `${start(code, 40)} (${count(groups)})`));
  return [
    {
      level: "warn",
      text: `${many(number, "group")} got errors in the last ${RECENT_MIN} min: ${codes}.`,
      href: "#errors",
    },
  ];
}

function letters(fleet) {
  if (!fleet.num_letters) return [];
  const newest = fleet.letters[0];
  const when = newest ? `; the newest ${age(newest.buried_s_ago)} ago` : "";
  const level = newest && newest.buried_s_ago < RECENT_S ? "warn" : "calm";
  return [
    {
      level,
      text: `${many(fleet.num_letters, "job")} ${fleet.num_letters === 1 ? "was" : "were"} given up on${when}.`,
      href: "#letters",
    },
  ];
}
