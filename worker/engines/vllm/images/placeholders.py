"""What stands for an image in a prompt, by the ids before and after vLLM has expanded it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollstream.schemas.wire.images import ImageSpan

_MOST_REPLACED = 16
"""Ids of a prompt that one image may take the place of: its placeholder, and text beside it that melts into what
surrounds an image, such as newlines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The placeholder of one image."""

    was: tuple[int, ...]
    """Its ids in a prompt; none where a model puts images where no id asks for them."""
    ids: frozenset[int]
    """Those of its ids, and of those in its place, that stand for nothing but an image."""


def found_in(prompt: list[int], ids: list[int], places: Sequence[tuple[int, int]], covered: frozenset[int]) -> Found:
    """By a prompt with one image that vLLM has expanded. Raises `ValueError` where it is not to be told.

    `covered`: the ids in whose places the model sees the image. A placeholder of several ids is text, which prompts
    without images may have.
    """
    (span,) = spans_of(prompt, ids, places)
    return Found(was=span.was, ids=covered | (frozenset(span.was) if len(span.was) == 1 else frozenset()))


def spans_of(
    prompt: Sequence[int], ids: Sequence[int], places: Sequence[tuple[int, int]], wanted: tuple[int, ...] = ()
) -> tuple[ImageSpan, ...]:
    """Where each image lies in `ids`, and which ids of `prompt` it replaced; all other ids are the same in both.

    `places`: offset and length of each, in order and apart. `wanted`: what each must have replaced, once, beside
    others. Raises `ValueError` where it cannot be told.
    """
    ends = [offset + length for offset, length in places]
    gaps = [list(ids[begin:end]) for begin, end in zip([0, *ends], [*(o for o, _ in places), len(ids)], strict=True)]
    if list(prompt[: len(gaps[0])]) != gaps[0]:
        raise ValueError("ids before the first image changed: it is not to be told what it replaced")
    spans, at = list[ImageSpan](), len(gaps[0])
    for number, (offset, length) in enumerate(places):
        was = _replaced(prompt, at, gaps[number + 1], wanted, is_last=number == len(places) - 1)
        spans.append(ImageSpan(offset=offset, length=length, was=was))
        at += len(was) + len(gaps[number + 1])
    return tuple(spans)


def _replaced(
    prompt: Sequence[int], at: int, follows: list[int], wanted: tuple[int, ...], *, is_last: bool
) -> tuple[int, ...]:
    """The ids of `prompt` from `at` on until `follows` comes, at its end for the last image."""
    for width in range(_MOST_REPLACED + 1):
        end = at + width + len(follows)
        was = tuple(prompt[at : at + width])
        if list(prompt[at + width : end]) != follows or (is_last and end != len(prompt)):
            continue
        if not wanted or _count(was, wanted) == 1:
            return was
    raise ValueError("ids beside an image changed: it is not to be told what it replaced")


def counted(prompt: Sequence[int], placeholder: Found, pictures: int) -> str:
    """What is wrong with the number of placeholders in `prompt` for so many pictures; '' if nothing is."""
    if not placeholder.was:
        return ""
    has = _count(prompt, placeholder.was)
    if has == pictures:
        return ""
    shown = placeholder.was[0] if len(placeholder.was) == 1 else list(placeholder.was)
    problem = f"the prompt has {has} placeholders (id {shown}) and {pictures} images"
    if has > pictures and _count(prompt, placeholder.was * 2):
        problem += ": submit ids that are not expanded, with one placeholder for each image"
    return f"{problem}: it needs one for each image, in their order"


def _count(prompt: Sequence[int], wanted: tuple[int, ...]) -> int:
    if len(wanted) == 1:
        return sum(token == wanted[0] for token in prompt)
    width, at, found = len(wanted), 0, 0
    while at + width <= len(prompt):
        if tuple(prompt[at : at + width]) == wanted:
            found, at = found + 1, at + width
        else:
            at += 1
    return found
