"""The API of the npm package ``llm-interface`` for Hugging Face, in Python names.

    from hybrid_infer.adapters.llm_interface import LLMInterface

    LLMInterface.set_api_key({"huggingface": os.environ["HUGGINGFACE_API_KEY"]})
    response = LLMInterface.send_message("huggingface", "Explain the importance of low latency LLMs.")
    print(response.results)

What differs, because it was wrong there: a retry never changes the model; errors are raised, with their
types, and not returned; lists of texts are embedded; streams work; a prompt given as a text is sent as
it is, without a system message; new aliases may be set; a cached answer is that of the same model,
messages and options; and no other provider's vectors ever stand in for those asked for.
"""

from __future__ import annotations

from hybrid_infer.adapters.llm_interface.interface import Interface
from hybrid_infer.adapters.llm_interface.options import InterfaceOptions
from hybrid_infer.adapters.llm_interface.responses import LLMResponse

__all__ = ["Interface", "InterfaceOptions", "LLMInterface", "LLMResponse"]

LLMInterface = Interface()
