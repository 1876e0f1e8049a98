"""The keyword arguments of `submit` and `generate`: each declared, explained and given its default once."""

from typing import TypedDict, cast  # no postponed annotations in this module: `help` shows these types

from rollstream.schemas.wire.turns import SESSION_WAIT_S

from ..images.given import QUOTA_BYTES, Images
from ..order.expected import Counts
from ..order.slicing import DEFAULT_PROMPTS
from ..turns.conversation import ContinueOf


class JobOptions(TypedDict, total=False):
    """`adapter`: a LoRA adapter, as `name@version`.

    `batch_id`: the batch's name; None makes one up. Submitting a `batch_id` again with the same content (what was
    given, and every option but the deadlines) queues only what is not queued yet and returns an equal handle, so a
    submit that failed half-way is simply repeated.

    `queue_deadline_s`, `run_deadline_s`: a job that no worker has taken `queue_deadline_s` seconds after it was queued,
    and groups that are not done `run_deadline_s` seconds after a worker began the job, are answered with an error.
    None: no deadline. Deadlines are not part of the content: a queued job keeps those with which it was queued.

    `min_policy_version`: a worker that serves an older policy version leaves a job to others and takes it when it has
    caught up. The job waits until a worker serves that version, so publish it or give a deadline. `max_staleness`: a
    group that would begin with weights more than that many versions behind the newest active is answered with an
    error of code `too_stale`; a group that has begun is finished. None: no bound. Both bounds are part of the content:
    they decide which weights answer.

    `images`: for each row None, or a list of its images in the order of their placeholders among its ids: the bytes of
    a png, jpeg or webp file, a `pathlib.Path` of one, a PIL image, a numpy array uint8 (H, W, 3), or the `ImageRef` of
    one that Redis has. Each is kept in Redis once, for a day after its last use. `image_quota_bytes`: the most bytes
    that all images of the policy may have there; it is no part of the content.
    """

    adapter: str | None
    batch_id: str | None
    queue_deadline_s: float | None
    run_deadline_s: float | None
    min_policy_version: int | None
    max_staleness: int | None
    images: Images
    image_quota_bytes: int


class SubmitOptions(JobOptions, total=False):
    """`prompts_per_job`: prompts that one worker takes at a time.

    `first_groups`: the batch is complete when so many groups have completions. Groups that are still unanswered then
    are cut: they are answered with an error of code `not_needed`, and workers stop generating them. Groups that failed
    do not count. The first to end are the shorter ones, see `RolloutBatch.selection`. None: all groups are wanted.

    `keep_partials`: seconds between two times that workers keep what running completions have so far in Redis, so that
    another goes on from there; 0: never; None: as each worker's --keep-partials says. It is no part of the content.

    `expected_tokens`: for each prompt about how many tokens a completion of it will have, B integers of 0 or more:
    jobs with long ones are queued first, and a worker starts the longest first. None: in the order of the prompts. It
    is not part of the content. `samples_per_job`: of a prompt's `num_return_sequences` samples, how many one worker
    takes at a time; they are the same samples, and come back as one group. None: all of them. Not with beams.

    `continue_of`: for each prompt the completion that it goes on from, as `(batch_id, group, sample)`, or None. Its ids
    are then only what follows that completion, and workers put the earlier prompt and completion in front, which they
    read from Redis; a turn that is not there any more is an error of code `turn_missing`. `session`: a name for the
    conversation. Its jobs wait up to `session_wait_s` seconds (0 to 60) for the worker that ran its last turn and has
    the prefix in its cache; then any worker takes them. Both are no part of the content.
    """

    prompts_per_job: int
    expected_tokens: Counts
    samples_per_job: int | None
    first_groups: int | None
    keep_partials: float | None
    continue_of: ContinueOf
    session: str | None
    session_wait_s: float


class GenerateOptions(SubmitOptions, total=False):
    """`timeout`: seconds for submitting and waiting together, even if Redis does not answer. `progress`,
    `pad_token_id`, `pad_to_max_new_tokens`: see `BatchHandle.result`. The others are those of `submit`.
    """

    timeout: float | None
    progress: bool
    pad_token_id: int
    pad_to_max_new_tokens: bool


JOB_DEFAULTS: JobOptions = {
    "adapter": None,
    "batch_id": None,
    "queue_deadline_s": None,
    "run_deadline_s": None,
    "min_policy_version": None,
    "max_staleness": None,
    "images": None,
    "image_quota_bytes": QUOTA_BYTES,
}

SUBMIT_DEFAULTS: SubmitOptions = {
    **JOB_DEFAULTS,
    "prompts_per_job": DEFAULT_PROMPTS,
    "expected_tokens": None,
    "samples_per_job": None,
    "first_groups": None,
    "keep_partials": None,
    "continue_of": None,
    "session": None,
    "session_wait_s": SESSION_WAIT_S,
}

GENERATE_DEFAULTS: GenerateOptions = {
    **SUBMIT_DEFAULTS,
    "timeout": None,
    "progress": False,
    "pad_token_id": 0,
    "pad_to_max_new_tokens": False,
}


def submit_part(options: GenerateOptions) -> SubmitOptions:
    """The part of `options` that `submit` takes."""
    return cast(SubmitOptions, {name: value for name, value in options.items() if name in SUBMIT_DEFAULTS})
