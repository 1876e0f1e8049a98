"""Compile guides with xgrammar in a process of its own. A script: it imports nothing of ours.

A guide may come from anybody, and compiling some never ends, or takes all memory; neither can be interrupted in the
process itself. Started by `worker.engines.vllm.guided.guides`, which writes lines of JSON to it: the limits and the
tokenizer, then one guide a line. Each is compiled in a fork with these limits, and answered by a line: "" or what is
wrong. It ends with its input.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_MAX_SAID = 500
_LENGTH, _SHORT, _STARTS = 2048, 256, 4
"""Tokens for which a guide is followed along its lowest ids and by chance, and by chance again from so many starts."""
_FOLLOW_S = 0.5
"""Seconds of a processor for each of these."""
_TOKEN_S = 0.001
"""Seconds of a processor for a token, on average over the last quarter of a text."""
_LOOK_S, _FIRST = 0.02, 32
"""Seconds for finding what is allowed next, on average; the first tokens fill what xgrammar remembers."""
_PATIENCE_S, _NOISE_S, _GROWTH = 0.25, 0.1, 3.0
"""Seconds for 256 tokens in a row; below which growth is noise; how much twice as many tokens may cost."""
_SLOW_TOKENS = "takes too long at each token: make its rules unambiguous"
_SLOW = "takes too long to compile, or too much memory"


def main() -> None:
    """Answer each line of the input until it ends."""
    import xgrammar  # noqa: PLC0415 - takes seconds, and the tests import this module for its other parts

    limits = json.loads(sys.stdin.readline())
    tokenizer = xgrammar.TokenizerInfo.deserialize_json(limits["tokenizer"])
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_verdict(xgrammar, tokenizer, limits, *json.loads(line))) + "\n")
        sys.stdout.flush()


def _verdict(xgrammar: Any, tokenizer: Any, limits: dict[str, Any], way: str, text: Any) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _limit(limits)
        os.write(writing, json.dumps(_problem(xgrammar, tokenizer, limits["read_s"], way, text)).encode())
        os._exit(0)
    os.close(writing)
    answered = select.select([reading], [], [], limits["wall_s"])[0]
    said = os.read(reading, 2**16) if answered else b""
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return json.loads(said) if said else _SLOW


def _limit(limits: dict[str, Any]) -> None:
    """From here on: so much more time of a processor, and so much more memory."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime + limits["cpu_s"] + (2 + _STARTS) * _FOLLOW_S) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with open("/proc/self/statm") as sizes:  # noqa: PTH123 - no pathlib in a process that is to stay small
        pages = int(sizes.read().split()[0])
    nbytes = pages * resource.getpagesize() + limits["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (nbytes, nbytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _problem(xgrammar: Any, tokenizer: Any, read_s: float, way: str, text: Any) -> str:
    """What xgrammar says is wrong; "" if it compiles. Reading alone is timed: the worker itself reads it again."""
    read: dict[str, Any] = {
        "regex": lambda: xgrammar.Grammar.from_regex(text),
        "json": lambda: xgrammar.Grammar.from_json_schema(text),
        "grammar": lambda: xgrammar.Grammar.from_ebnf(text),
    }
    try:
        before = time.process_time()
        grammar = read[way]()
        if time.process_time() - before > read_s:
            return "takes too long to read"
        return _followed(xgrammar, xgrammar.GrammarCompiler(tokenizer, max_threads=1).compile_grammar(grammar))
    except BaseException as error:  # noqa: BLE001 - a process of its own, whose whole purpose is to say this
        return _said(error)


def _followed(xgrammar: Any, guide: Any) -> str:
    """Follow a guide along several texts: what compiles may be a dead end, or cost more with each token."""
    chance = random.Random(0)  # the same texts for the same guide
    ways = [(lambda _: 0, _LENGTH), (chance.randrange, _LENGTH), *[(chance.randrange, _SHORT)] * _STARTS]
    for pick, length in ways:
        costs, problem = _walked(xgrammar, guide, pick, length)
        if problem := problem or slow(costs):
            return problem
    return ""


def _walked(xgrammar: Any, guide: Any, pick: Callable[[int], int], length: int) -> tuple[list[float], str]:
    """The seconds that accepting each token took, and what is wrong. A text that ends is begun again."""
    vocab_size, ends = guide.tokenizer_info.vocab_size, set(guide.tokenizer_info.stop_token_ids)
    mask = xgrammar.allocate_token_bitmask(1, vocab_size)
    costs: list[float] = []
    longest: list[float] = []
    matcher, looked, until = xgrammar.GrammarMatcher(guide), 0.0, time.process_time() + _FOLLOW_S
    for number in range(length):
        before = time.process_time()
        matcher.fill_next_token_bitmask(mask)
        began = time.process_time()
        looked += began - before
        token = _token(mask.numpy().view("uint32")[0], pick, ends)
        if token is None:
            return longest, f"allows no token after {number}"
        matched, ended = matcher.accept_token(token), time.process_time()
        costs.append(ended - began)
        if len(costs) % _SHORT == 0 and (problem := slow(costs)):
            return costs, problem
        if sum(costs[-_SHORT:]) > _PATIENCE_S or looked > (number + _FIRST) * _LOOK_S:
            return costs, _SLOW_TOKENS
        if ended > until:
            break
        if not matched or matcher.is_terminated():
            longest = max(longest, costs, key=len)
            matcher, costs = xgrammar.GrammarMatcher(guide), []
    return max(longest, costs, key=len), ""


def _token(words: Any, pick: Callable[[int], int], ends: set[int]) -> int | None:
    """An allowed id, one that ends the text only where no other is; None if none is."""
    places = words.nonzero()[0]
    first, end = pick(len(places)) if len(places) else 0, None
    for number in range(len(places)):
        place = int(places[(first + number) % len(places)])
        bits = [bit for bit in range(32) if int(words[place]) >> bit & 1]
        tokens = [32 * place + bit for bit in bits if 32 * place + bit not in ends]
        if tokens:
            return tokens[pick(len(tokens))]
        end = 32 * place + bits[0]
    return end


def slow(costs: list[float]) -> str:
    """What is wrong with a guide whose tokens took these seconds, each in turn: too long, or more and more; else ""."""
    half, quarter = len(costs) // 2, costs[len(costs) * 3 // 4 :]
    if sum(quarter) > max(_SHORT * _TOKEN_S, len(quarter) * _TOKEN_S):
        return _SLOW_TOKENS
    if sum(costs) > _NOISE_S and sum(costs) > _GROWTH * sum(costs[:half]):
        return "takes longer at each token the longer the text is: make its rules unambiguous"
    return ""


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^(\[[\d:]+\] )?\S+\.(cc|h):\d+: ", "", text)
    return (text or type(error).__name__)[:_MAX_SAID]


if __name__ == "__main__":
    main()
