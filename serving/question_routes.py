"""The route of questions: a stream of server-sent events, from the place in the queue to the whole answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from datasets.errors import InputError
from serving.answerer import Request
from serving.service import Service, ServiceOf, SessionOf, VolumeOf
from serving.sessions import Session
from serving.work_queue import Event, Job

router = APIRouter()
_SECONDS_OF_SILENCE = 5.0  # then a line that says nothing, so that a broken connection is noticed


class Question(BaseModel):
    """The body of a question; fields as `answerer.Request` has them."""

    kind: Literal["question", "report", "diagnosis", "organs"] = "question"
    question: str = Field("", max_length=4000)
    labels: list[str] = Field(default_factory=list, max_length=300)
    remember: bool = False
    label_set: Literal["CT-RATE", "RadChestCT"] = "CT-RATE"


@router.post("/volumes/{volume}/questions")
async def ask(body: Question, volume: VolumeOf, session: SessionOf, service: ServiceOf) -> StreamingResponse:
    """Answer a question about a volume.

    Events, each a line of JSON after "data: ": queued (before: how many come first), started, text, mask, answer,
    error, and end as the last.  A client that leaves takes its question with it.
    """
    if body.kind == "question" and not body.question.strip():
        raise InputError("the question is empty: write what you want to know about the volume")
    if any(not label.strip() or len(label) > 200 for label in body.labels):
        raise InputError("a label has no letters, or more than 200; correct it")
    asked = Request(body.kind, body.question.strip(), tuple(body.labels), body.remember, body.label_set)
    job = Job(session.key, lambda own: service.answerer.answer(volume, asked, own))
    service.queue.check_room(session.key)
    return StreamingResponse(
        _events(job, session, service), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _events(job: Job, session: Session, service: Service) -> AsyncIterator[str]:
    session.busy += 1
    try:
        service.queue.submit(job)  # here, so that a client that has left by now leaves no job
        while True:
            try:
                event = await asyncio.wait_for(job.events.get(), _SECONDS_OF_SILENCE)
            except asyncio.TimeoutError:
                yield ": waiting\n\n"
                continue
            yield _line(event)
            if event["event"] == "end":
                return
    except InputError as error:  # others were faster
        for event in ({"event": "error", "message": str(error)}, {"event": "end"}):
            yield _line(event)
    finally:
        session.busy -= 1
        service.queue.leave(job)


def _line(event: Event) -> str:
    return f"data: {json.dumps(event)}\n\n"
