"""Predict what is still missing of a folder of parts. Before: infer, parts. After: cli."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from hpa_ray.predict.infer import Found, Given, found_batches
from hpa_ray.predict.parts import Chunks, Parts, chunk_table
from hpa_ray.schema import Reject, Source


def predict_parts(
    given: Given,
    source: Source,
    ids: Sequence[str],
    chunks: Chunks,
    parts: Parts,
    *,
    num_workers: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
    on_rejects: Callable[[list[Reject]], None] = lambda rejects: None,
) -> list[Reject]:
    """Store a part for every chunk that has none yet, by one pipeline over all of them; returns all rejects.

    ids: of all manifest rows. on_progress(images done, with those done before), on_rejects(rejects) as for `infer`.
    """
    rejects = [reject for chunk in sorted(parts.finished) for reject in parts.read(chunk)[1]]
    done = sum(len(chunks.rows_of(chunk)) for chunk in parts.finished)
    on_rejects(rejects)
    on_progress(done)
    missing = tuple(chunk for chunk in range(chunks.num_chunks) if chunk not in parts.finished)
    waiting: dict[int, list[Found]] = defaultdict(list)
    for found in found_batches(given, source, replace(chunks, wanted=missing), num_workers=num_workers):
        waiting[found.chunk].append(found)
        if found.rejects:
            rejects += found.rejects
            on_rejects(rejects)
        done += len(found.rows_B) + len(found.rejects)
        if len(waiting[found.chunk]) == chunks.batches_of(found.chunk):
            parts.write(found.chunk, *chunk_table(given, ids, waiting.pop(found.chunk)))
        on_progress(done)
    assert not waiting, "the pipeline ended within a chunk"
    return rejects
