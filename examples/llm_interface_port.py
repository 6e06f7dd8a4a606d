"""The example of the npm package llm-interface, line by line.

const { LLMInterface } = require('llm-interface');
LLMInterface.setApiKey({'huggingface': process.env.HUGGINGFACE_API_KEY});
async function main() {
  try {
    const response = await LLMInterface.sendMessage('huggingface', 'Explain the importance …');
    console.log(response.results);
  } catch (error) {
    console.error(error);
    throw error;
  }
}
main();
"""

import os
import sys

from hybrid_infer.adapters.llm_interface import LLMInterface

LLMInterface.set_api_key({"huggingface": os.environ.get("HUGGINGFACE_API_KEY")})


def main() -> None:
    """Ask once."""
    try:
        response = LLMInterface.send_message(
            "huggingface", "Explain the importance of low latency LLMs."
        )
        print(response.results)
    except Exception as error:
        print(error, file=sys.stderr)
        raise


main()
