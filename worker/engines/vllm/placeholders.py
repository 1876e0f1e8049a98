"""What stands for an image in a prompt, by the ids before and after vLLM has expanded it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rollstream.schemas.wire.images import ImageSpan

_MOST_REPLACED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The placeholder of one image."""

    was: tuple[int, ...]
    """Its ids in a prompt; none where a model puts images where no id asks for them."""
    ids: frozenset[int]
    """Those of its ids, and of those in its place, that stand for nothing but an image."""


def found_in(prompt: list[int], ids: list[int], places: Sequence[tuple[int, int]]) -> Found:
    """By a prompt with one image that vLLM has expanded. Raises `ValueError` where it is not to be told."""
    (span,) = spans_of(prompt, ids, places)
    inside = ids[span.offset : span.offset + span.length]
    repeated = {token for token in inside if inside.count(token) > 1}
    return Found(was=span.was, ids=frozenset(span.was) | frozenset(repeated))


def spans_of(prompt: Sequence[int], ids: Sequence[int], places: Sequence[tuple[int, int]]) -> tuple[ImageSpan, ...]:
    """Where each image lies in `ids`, and which ids of `prompt` it replaced; all other ids are the same in both.

    `places`: offset and length of each, in order and apart. Raises `ValueError` where that cannot be told.
    """
    longer = sum(length for _, length in places) - (len(ids) - len(prompt))
    was, left = divmod(longer, len(places)) if places else (0, longer)
    if left or not 0 <= was <= _MOST_REPLACED:
        raise ValueError(f"{longer} ids were replaced at {len(places)} images: it is not to be told which")
    spans, at, begun = list[ImageSpan](), 0, 0
    for offset, length in places:
        begins = at + offset - begun
        if offset < begun or list(prompt[at:begins]) != list(ids[begun:offset]):
            raise ValueError(f"ids beside the image at {offset} changed: it is not to be told what it replaced")
        at, begun = begins + was, offset + length
        spans.append(ImageSpan(offset=offset, length=length, was=tuple(prompt[begins:at])))
    if list(prompt[at:]) != list(ids[begun:]):
        raise ValueError("ids behind the last image changed: it is not to be told what it replaced")
    return tuple(spans)


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
