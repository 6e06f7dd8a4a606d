"""What clients may send, field by field; any other field is refused by name.

Ranges are here for the description's sake, and are the client's own. Deeper checks (roles, content) are
made there alone, in ``hybrid_infer/client/requests.py`` and ``extras.py``, the same for every caller.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hybrid_infer.client.extras import (
    LEAST_REPETITION_PENALTY,
    MOST_ANSWERS,
    MOST_REPETITION_PENALTY,
    MOST_TOP_LOGPROBS,
)
from hybrid_infer.client.requests import MOST_SEED

MODEL_HELP = "An alias (`small`), an alias with its task (`embeddings/small`), or a Hub id."

NonEmpty = Annotated[str, Field(min_length=1)]
_UNUSED = Field(description="Accepted and not used.")


class Body(BaseModel):
    """The base of all bodies: nothing is accepted that is not named."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UnusedOptions(Body):
    """What clients send beside a chat request that changes no answer."""

    user: Annotated[str | None, _UNUSED] = None
    metadata: Annotated[dict[str, Any] | None, _UNUSED] = None
    store: Annotated[bool | None, _UNUSED] = None
    service_tier: Annotated[str | None, _UNUSED] = None
    safety_identifier: Annotated[str | None, _UNUSED] = None
    prompt_cache_key: Annotated[str | None, _UNUSED] = None


class ChatBody(UnusedOptions):
    """OpenAI's chat completion request, with what other servers add to it.

    Source: https://platform.openai.com/docs/api-reference/chat/create
    """

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    model: Annotated[str | None, Field(description=MODEL_HELP)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=1)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[
        float | None, Field(ge=LEAST_REPETITION_PENALTY, le=MOST_REPETITION_PENALTY)
    ] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    logit_bias: dict[str, float] | None = None
    stop: NonEmpty | list[NonEmpty] | None = None
    seed: Annotated[int | None, Field(ge=0, le=MOST_SEED)] = None
    n: Annotated[int | None, Field(ge=1, le=MOST_ANSWERS)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MOST_TOP_LOGPROBS)] = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None


class EmbeddingsBody(Body):
    """OpenAI's embeddings request.

    Source: https://platform.openai.com/docs/api-reference/embeddings/create
    """

    input: Annotated[
        str | list[str] | list[int] | list[list[int]],
        Field(
            description="A text, or a list of texts. Token ids are refused unless --accept-token-ids is set."
        ),
    ]
    model: Annotated[str, Field(description=MODEL_HELP)] = "default"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[
        int | None, Field(ge=1, description="The model's own number only.")
    ] = None  # fmt: skip
    user: Annotated[str | None, _UNUSED] = None


class PipelineOptions(Body):
    """What clients of the retired host sent beside their inputs; nothing here needs it."""

    use_cache: bool | None = None
    wait_for_model: bool | None = None
    use_gpu: bool | None = None
    dont_load_model: bool | None = None


class FeaturesBody(Body):
    """Hugging Face's feature-extraction request, and text-embeddings-inference's ``/embed``.

    Source: https://huggingface.co/docs/inference-providers/tasks/feature-extraction
    """

    inputs: str | list[str]
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Annotated[
        Literal["Right", "right"] | None, Field(description="Texts are cut at their end.")
    ] = None
    prompt_name: Annotated[None, Field(description="Prompts belong to the alias.")] = None
    dimensions: Annotated[int | None, Field(ge=1)] = None
    encoding_format: Literal["float", "base64"] | None = None
    options: PipelineOptions | None = None
