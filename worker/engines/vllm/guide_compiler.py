"""Compile guides with xgrammar in a process of its own. A script: it imports nothing of ours.

A guide may come from anybody, and compiling some never ends, or takes all memory; neither can be interrupted in the
process itself. Started by `worker.engines.vllm.guides`, which writes lines of JSON to it: the limits and the
tokenizer, then one guide a line. Each is compiled in a fork with these limits, and answered by a line: "" or what is
wrong. It ends with its input.
"""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import sys
import time
from typing import Any

_MAX_SAID = 500
_STEPS, _STEP_S = 32, 0.05
"""Tokens for which a guide is followed, and the seconds of a processor that each may take."""
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
    seconds = int(spent.ru_utime + spent.ru_stime + limits["cpu_s"]) + 1
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
        "choice": lambda: xgrammar.Grammar.from_ebnf(choice_grammar(text)),
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
    """Follow a guide for some tokens, the lowest allowed id each time: what compiles may be slow, or a dead end."""
    matcher, mask = xgrammar.GrammarMatcher(guide), xgrammar.allocate_token_bitmask(1, guide.tokenizer_info.vocab_size)
    before = time.process_time()
    for number in range(_STEPS):
        matcher.fill_next_token_bitmask(mask)
        words = [word & 0xFFFFFFFF for word in mask[0].tolist()]
        token = next((32 * place + (word & -word).bit_length() - 1 for place, word in enumerate(words) if word), None)
        if token is None:
            return f"allows no token after {number}"
        if not matcher.accept_token(token) or matcher.is_terminated():
            break
    return "takes too long at each token" if time.process_time() - before > _STEPS * _STEP_S else ""


def choice_grammar(choices: list[str]) -> str:
    """The grammar of one of these texts."""
    return "root ::= " + " | ".join(f'"{re.sub(_SPECIAL, _escaped, choice)}"' for choice in choices)


_SPECIAL = r'[\x00-\x1f\x7f"\\]'


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in '"\\' else f"\\u{ord(found[0]):04x}"


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^(\[[\d:]+\] )?\S+\.(cc|h):\d+: ", "", text)
    return (text or type(error).__name__)[:_MAX_SAID]


if __name__ == "__main__":
    main()
