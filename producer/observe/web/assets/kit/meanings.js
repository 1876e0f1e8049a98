// What the short words in reports and answers mean, and what to do about them.

export const PAUSES = {
  operator: "an operator paused the queue",
  policy: "it serves none of the announced versions, and could not load one yet",
  memory: "Redis is nearly full",
  "adapter cache": "an adapter could not be kept on its disk",
};

export const ERRORS = {
  unreadable_job: "The job's bytes make no sense to this worker.",
  invalid_config: "The generation config was refused.",
  empty_prompt: "A prompt has no tokens.",
  token_out_of_vocabulary: "A prompt has a token that the model does not know.",
  too_long: "Prompt and completion do not fit into the model's context.",
  unknown_adapter: "The adapter is not in Redis and not in a worker's folder.",
  adapter_refused: "The adapter does not fit the model, or is damaged.",
  needs_tokenizer: "Stop strings need a worker with a tokenizer.",
  engine_refused: "The engine refused the request.",
  unsupported: "The job asks for what its worker is too old to know: upgrade workers.",
  too_many_deliveries: "Workers died of the job, or were cut off, too often: see dead letters.",
  cancelled: "The batch was cancelled.",
  queue_deadline: "The job waited longer than its queue deadline.",
  run_deadline: "The job ran longer than its run deadline.",
  samples_missing: "Samples that another job of the group had finished are gone from Redis.",
  not_needed: "It was cut: the batch had enough without it, or somebody cut this group.",
  too_stale: "The weights were further behind than the job allows.",
};

export const FINISHES = {
  stop: "it came to a stop token or a stop string",
  length: "it reached max_new_tokens",
  abort: "it was aborted",
  error: "the engine failed",
  repetition: "it repeated itself",
  cut: "it was not needed any more",
};

// State of a worker: the mark's shape, how much it matters, and a word for it. The worst comes first in the table.
export const STATES = {
  gone: { shape: "cross", level: "bad", rank: 0 },
  late: { shape: "triangle", level: "bad", rank: 1 },
  paused: { shape: "bars", level: "warn", rank: 2 },
  starting: { shape: "half", level: "calm", rank: 3 },
  draining: { shape: "ring", level: "warn", rank: 4 },
  serving: { shape: "disc", level: "good", rank: 5 },
  unknown: { shape: "ring", level: "warn", rank: 2 },
};

const REPORTED = new Set(["paused", "starting", "draining", "serving"]);

export function stateOf(worker) {
  if (worker.presence !== "live") return worker.presence;
  return REPORTED.has(worker.report.state) ? worker.report.state : "unknown";
}

export function meaningOf(known, word) {
  return Object.hasOwn(known, word) ? known[word] : "";
}
