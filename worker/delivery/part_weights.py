"""What sampled a part's tokens: the content behind each of its version numbers, named and compared. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from rollstream.schemas import Part

from ..weights.contents import digest_of

_SHOWN = 8

ContentOf = Callable[[int], str | None]
"""The digest of what samples under a version's number; None if it cannot be told."""


def with_adapter(content_of: ContentOf, adapter: str | None) -> ContentOf:
    """The same for a job with an adapter of this digest; None: it has none, empty: nobody knows it."""
    if adapter is None:
        return content_of

    def of(version: int) -> str | None:
        content = content_of(version)
        return digest_of(content, adapter) if content and adapter else None

    return of


def named(part: Part, content_of: ContentOf) -> Part:
    """The part with the digests of its versions, as far as they can be told."""
    versions = dict.fromkeys(version for version, _ in part.version_spans)
    weights = tuple((version, digest) for version in versions if (digest := content_of(version)) is not None)
    return part if weights == part.weights else part.model_copy(update={"weights": weights})


def weights_problem(part: Part, content_of: ContentOf) -> str | None:
    """Why nobody may go on from it here; None if all its versions are the same here."""
    return next(_problems(part, content_of), None)


def mixed_problem(parts: Collection[Part], content_of: ContentOf) -> str | None:
    """Why these samples of one group do not belong together: a version's number stands for several weights.

    What neither the parts nor this worker can tell is not compared.
    """
    for version in sorted({version for part in parts for version, _ in part.version_spans}):
        told = {part.sample: dict(part.weights).get(version) for part in parts if version in dict(part.version_spans)}
        one = content_of(version) or next(filter(None, told.values()), None)
        if others := [sample for sample, digest in sorted(told.items()) if digest != one]:
            has = (
                "has other weights than here or in the others" if told[others[0]] else "names no weights, as others do"
            )
            return f"in samples {shown(others)} version {version}, or the adapter, {has}"
    return None


def _problems(part: Part, content_of: ContentOf) -> Iterator[str]:
    told = dict(part.weights)
    for version, _ in part.version_spans:
        here = content_of(version)
        if version not in told:
            yield f"it does not say which weights version {version} was"
        elif here is None:
            yield f"this worker cannot tell which weights version {version} was"
        elif told[version] != here:
            yield f"version {version}, or the adapter, has other weights here than those that sampled it"


def shown(samples: Sequence[int]) -> str:
    """The first of these numbers, for a message."""
    return ", ".join(map(str, samples[:_SHOWN])) + (", ..." if len(samples) > _SHOWN else "")
