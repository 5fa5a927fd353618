"""Data sets as flowzoo sees them: named sources with fixed splits, and one pipeline that batches them.

A source is one function with the `register_source` decorator, in a file of `flowzoo/data/sources/` or in the
user's own code. `open_source` runs it and checks what it gives; `pipeline` turns the result, or plain arrays,
into a `tf.data.Dataset`. Neither downloads anything: a data set that is missing says where to get it.
"""

from flowzoo.data.catalog import SourceInfo, list_sources, open_source, register_source, source_info
from flowzoo.data.pipeline import pipeline
from flowzoo.data.record_writer import write_shards
from flowzoo.data.source import SPLITS, Source

__all__ = [
    "SPLITS",
    "Source",
    "SourceInfo",
    "list_sources",
    "open_source",
    "pipeline",
    "register_source",
    "source_info",
    "write_shards",
]
