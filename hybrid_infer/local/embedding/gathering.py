"""Tokenises requests together; those of one text become a crowd."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid_infer.errors import HybridInferError
from hybrid_infer.local.embedding.crowd import Crowd, LeaveAll, Owner
from hybrid_infer.local.embedding.job import EmbedJob
from hybrid_infer.local.embedding.texts import Slice
from hybrid_infer.local.embedding.tokenizing import TokenizedTexts, Tokenizer
from hybrid_infer.local.translation import as_local_error


def tokenize_jobs(
    tokenizer: Tokenizer, jobs: Sequence[EmbedJob], leave_all: LeaveAll
) -> list[tuple[Owner, Slice]]:
    """Tokenise the next slice of each job, all in one go; a job that this fails for gets its error.

    Args:
        tokenizer: does it.
        jobs: whose texts.
        leave_all: see `Crowd`.

    Returns:
        The new sequences of all jobs that go on, and whose they are: a job's own, or a crowd's.
    """
    crowds: dict[bool, list[EmbedJob]] = {}
    others: list[EmbedJob] = []
    for job in jobs:
        if job.texts.num_texts == 1:
            crowds.setdefault(job.normalize, []).append(job)
        else:
            others.append(job)
    done: list[tuple[Owner, Slice]] = []
    for crowd in crowds.values():
        if len(crowd) > 1:
            done += _tokenize_crowd(tokenizer, crowd, leave_all)
        else:
            others += crowd
    if others:
        done += _tokenize_others(tokenizer, others)
    return done


def _tokenize_crowd(
    tokenizer: Tokenizer, jobs: list[EmbedJob], leave_all: LeaveAll
) -> list[tuple[Owner, Slice]]:
    """As `tokenize_jobs`, for jobs of one text each."""
    try:
        tokens, cut = tokenizer([job.texts.request.texts[0] for job in jobs])
    except Exception:  # noqa: BLE001 - whichever text it is, it must fail its own request alone
        return _tokenize_each(tokenizer, jobs)
    for place in cut:
        try:
            jobs[place].texts.note_cut([0], tokenizer.max_seq_length)
        except HybridInferError as error:
            jobs[place].fail(error)  # what is no more wanted is not computed
    return [(Crowd(jobs, leave_all), Slice(range(len(jobs)), tokens))]


def _tokenize_others(tokenizer: Tokenizer, jobs: Sequence[EmbedJob]) -> list[tuple[Owner, Slice]]:
    """As `tokenize_jobs`, for jobs that stay on their own."""
    slices = [job.texts.next_slice() for job in jobs]
    try:
        tokenized = tokenizer([text for part in slices for text in part])
    except Exception as error:  # noqa: BLE001 - translated as every fault of the tokenizer
        if len(jobs) > 1:
            return _tokenize_each(tokenizer, jobs)
        jobs[0].fail(as_local_error("tokenising", error))
        return []
    counts = list(map(len, slices))
    cut = tokenized.cut
    done: list[tuple[Owner, Slice]] = []
    stop = 0
    for job, count, tokens in zip(jobs, counts, tokenized.ids.split(counts), strict=True):
        start, stop = stop, stop + count
        own = TokenizedTexts(tokens, [place - start for place in cut if start <= place < stop])
        try:
            done.append((job, job.texts.take_tokens(own, tokenizer.max_seq_length)))
        except HybridInferError as error:
            job.fail(error)
    return done


def _tokenize_each(tokenizer: Tokenizer, jobs: Sequence[EmbedJob]) -> list[tuple[Owner, Slice]]:
    """As `_tokenize_others`, one by one, so that only that job fails which it fails for."""
    return [done for job in jobs for done in _tokenize_others(tokenizer, [job])]
