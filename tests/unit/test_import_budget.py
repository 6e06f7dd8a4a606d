"""What importing the package may do: nothing but define names."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "sentence_transformers", "pydantic", "yaml", "httpx2"]
SPY = """
import sys
seen = []
def hook(event, args):
    if event.startswith(("socket.", "_thread.start_new_thread", "subprocess.", "os.fork")):
        seen.append(event)
    if event == "open" and isinstance(args[1], str) and any(c in args[1] for c in "wax+"):
        seen.append((event, args[0]))
sys.addaudithook(hook)
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import hybrid_infer", [*HEAVY, "huggingface_hub", "numpy", "asyncio"]),
        ("from hybrid_infer import HybridClient", [*HEAVY, "huggingface_hub"]),
        ("import hybrid_infer.testing.fixtures", [*HEAVY, "numpy"]),
        ("import hybrid_infer.testing", [*HEAVY, "numpy"]),
    ],
)
def test_heavy_modules_stay_out(statement, forbidden):
    loaded = run(f"import sys\n{statement}\nprint([m for m in {forbidden} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.parametrize(
    "statement", ["import hybrid_infer", "from hybrid_infer import HybridClient"]
)
def test_importing_touches_nothing(statement):
    assert run(f"{SPY}\n{statement}\nprint(seen)") == "[]"


def test_making_a_client_loads_no_torch_and_opens_no_socket():
    code = f"""{SPY}
from hybrid_infer import HybridClient
client = HybridClient(api_key="hf_x")
client.list_models()
print([m for m in ["torch", "transformers", "httpx2"] if m in sys.modules])
print([e for e in seen if str(e).startswith("socket.")])
"""
    assert run(code).split("\n") == ["[]", "[]"]
