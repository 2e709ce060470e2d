"""How much one server takes from its users."""

from __future__ import annotations

from dataclasses import dataclass

GIGABYTE = 10**9


@dataclass(frozen=True)
class Limits:
    """upload_bytes: of one upload, a file or a folder.  session_bytes: of all files of a session, those made of uploads
    included.  upload_files: of one upload.  free_bytes: stay free on the disk.  sessions: at a time.
    session_seconds: a session without a request for so long ends.  waiting: questions in the queue, of all users.
    waiting_each: of one of them.  studies: volumes whose encodings are kept.  labels: of one segmentation.
    """

    upload_bytes: int = 4 * GIGABYTE
    session_bytes: int = 16 * GIGABYTE
    upload_files: int = 20_000
    free_bytes: int = GIGABYTE // 2
    sessions: int = 64
    session_seconds: float = 3600.0
    waiting: int = 64
    waiting_each: int = 4
    studies: int = 2
    labels: int = 300
