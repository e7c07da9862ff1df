"""The request log, in a SQLite file or in PostgreSQL: records, the store, and the thread that writes."""

from tasks.serving.log.records import IMAGE_COLUMNS, REQUEST_COLUMNS, Entry, History, ImageEntry
from tasks.serving.log.store import read_history
from tasks.serving.log.writer import RequestLog

__all__ = ["IMAGE_COLUMNS", "REQUEST_COLUMNS", "Entry", "History", "ImageEntry", "RequestLog", "read_history"]
