"""Files of any number of texts: read, embedded and written window by window, resumably."""

from hybrid_infer.bulk.job import embed_to_file, embed_to_stream
from hybrid_infer.bulk.options import BulkOptions
from hybrid_infer.bulk.sources import FORMATS, Source, open_source
from hybrid_infer.bulk.summary import BulkSummary

__all__ = [
    "FORMATS",
    "BulkOptions",
    "BulkSummary",
    "Source",
    "embed_to_file",
    "embed_to_stream",
    "open_source",
]
