"""This library on a Ray cluster; needs the extra ``ray``.

    serve run hybrid_infer.adapters.ray:app model=embeddings/small

    from hybrid_infer.adapters.ray import embed_dataset
    embed_dataset(ray.data.read_parquet("corpus"), "small").write_parquet("vectors")

To a client the cluster is one more remote, of the dialect ``openai``. What Ray itself sends between
its processes is pickled; what comes from clients is HTTP and JSON, and never is.
"""

try:
    import ray as _ray  # noqa: F401 - whether it is installed
except ImportError as missing:
    raise ImportError('the Ray adapter needs ray: pip install "hybrid-infer[ray]"') from missing

from hybrid_infer.adapters.ray.arguments import ServeArguments
from hybrid_infer.adapters.ray.datasets import embed_dataset
from hybrid_infer.adapters.ray.serving import app

__all__ = ["ServeArguments", "app", "embed_dataset"]
