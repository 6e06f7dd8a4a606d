"""Where models go: Llama-3-8B on machines of every size, and what a refusal says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_infer.datatypes.models import ModelSpec
from hybrid_infer.errors import ConfigError, InsufficientMemoryError
from hybrid_infer.local.hardware import Hardware
from hybrid_infer.local.placement import LEAST_CACHE_TOKENS, Claim, Situation, find_place
from hybrid_infer.local.refusal import place
from hybrid_infer.settings import MemorySettings
from hybrid_infer.snapshots.facts import SnapshotFacts
from hybrid_infer.snapshots.sizes import Sizes, sizes_of

GB = 10**9
T5 = ModelSpec("embeddings", "large", "org/t5", None, forbidden_dtypes=("float16",))
LLAMA = ModelSpec("chat", "default", "org/llama", None)
ALLOWING = replace(LLAMA, allow_quantized=True)

# Meta-Llama-3-8B: its config.json and the shapes of its tensors.
LLAMA_CONFIG = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}
LLAMA_SHAPES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.up_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
    "input_layernorm": (4096,),
    "post_attention_layernorm": (4096,),
}


def header(shapes, dtype="BF16"):
    width = {"BF16": 2, "F32": 4}[dtype]
    entries, end = {}, 0
    for name, shape in shapes.items():
        size = width
        for length in shape:
            size *= length
        offsets = [end, end + size]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        end += size
    return entries


def llama_facts():
    shapes = {"model.embed_tokens.weight": (128256, 4096), "lm_head.weight": (128256, 4096)}
    shapes["model.norm.weight"] = (4096,)
    for layer in range(32):
        for name, shape in LLAMA_SHAPES.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    entries = header(shapes)
    size = max(entry["data_offsets"][1] for entry in entries.values())
    sizes = sizes_of([entries], LLAMA_CONFIG)
    return SnapshotFacts("llama", (), None, False, False, None, None, "", 8192, size, "BF16", sizes)


LLAMA_FACTS = llama_facts()


def t5_facts(gigabytes, dtype="F32"):
    return SnapshotFacts(
        "t5", (), "mean", False, True, 256, 768, "", None, int(gigabytes * GB), dtype
    )


def cpu(gigabytes, *, native=True):
    return Hardware("cpu", native, int(gigabytes * GB))


def llama_on(hardware, spec=LLAMA, **changes):
    return Situation(spec, LLAMA_FACTS, hardware, **changes)


def test_the_sizes_of_llama_3_are_those_of_its_card():
    assert LLAMA_FACTS.weight_bytes == 16_060_522_496
    sizes = LLAMA_FACTS.sizes
    assert sizes.values == 8_030_261_248
    assert sizes.cache_values * 2 == 131_072, "bytes of a token's keys and values in bfloat16"
    assert sizes.layer_values == 32 * 218_103_808
    assert sizes.block_values == 128256 * 4096


def test_auto_dtype_follows_the_hardware():
    def dtype(hardware, asked="auto"):
        return place(Situation(T5, t5_facts(1), hardware, asked)).dtype

    assert dtype(cpu(1000)) == "bfloat16"
    assert dtype(cpu(1000, native=False)) == "float32"
    assert dtype(cpu(1000), "float32") == "float32"
    with pytest.raises(ConfigError, match="float16"):
        dtype(cpu(1000), "float16")


def test_auto_takes_half_the_memory_before_it_refuses():
    assert place(Situation(T5, t5_facts(14), cpu(10, native=False))).dtype == "bfloat16"
    picky = replace(T5, forbidden_dtypes=("bfloat16",))
    with pytest.raises(InsufficientMemoryError) as caught:
        place(Situation(picky, t5_facts(14), cpu(10)))
    assert "bfloat16" not in caught.value.message


@pytest.mark.parametrize(
    ("gigabytes", "quantization"),
    [
        (200, None),
        (24, None),
        (20, None),
        (19.85, None),
        (19.5, "int8"),
        (16, "int8"),
        (11.6, "int8"),
        (11, "int4"),
        (8.7, "int4"),
        (8, False),
    ],
)
def test_llama_3_on_machines_of_every_size(gigabytes, quantization):
    situation = llama_on(cpu(gigabytes), ALLOWING, has_torchao=True)
    if quantization is False:
        with pytest.raises(InsufficientMemoryError, match="more free memory"):
            place(situation)
        return
    placement = place(situation)
    assert (placement.dtype, placement.quantization) == ("bfloat16", quantization)
    assert placement.cache_tokens >= LEAST_CACHE_TOKENS
    assert placement.claim.bytes <= gigabytes * GB
    if quantization is not None:
        with pytest.raises(InsufficientMemoryError):
            place(replace(situation, spec=LLAMA))


def test_the_cache_is_one_window_then_half_of_what_is_left_then_what_is_usual():
    assert place(llama_on(cpu(20))).cache_tokens == 2774
    assert place(llama_on(cpu(22))).cache_tokens == 8192
    assert place(llama_on(cpu(30))).cache_tokens == (30 * GB - 19_272_626_995) // 262_144 // 2
    assert place(llama_on(cpu(300))).cache_tokens == 65_536


def test_a_window_takes_as_much_of_the_cache_as_its_conversation_does():
    facts = replace(LLAMA_FACTS, context_length=6200)  # which is given room for 8192
    assert place(Situation(LLAMA, facts, cpu(22))).cache_tokens == 8192


def test_a_cache_of_unknown_size_is_not_counted():
    facts = replace(LLAMA_FACTS, sizes=Sizes(8_030_261_248))
    placement = place(Situation(LLAMA, facts, cpu(20)))
    assert (placement.cache_tokens, placement.cache_bytes) == (None, 0)


# Several devices ---------------------------------------------------------------------------------


def gpus(*gigabytes, cpu_gigabytes=0):
    (first, *rest) = (int(size * GB) for size in gigabytes)
    others = [(f"cuda:{number}", size) for number, size in enumerate(rest, 1)]
    return Hardware("cuda:0", True, first, (*others, ("cpu", int(cpu_gigabytes * GB))))


def test_one_gpu_is_better_than_two_and_two_are_better_than_the_cpu():
    assert place(llama_on(gpus(24, 24, cpu_gigabytes=64))).spread == ()
    two = place(llama_on(gpus(14, 12, cpu_gigabytes=64)))
    assert [device for device, _ in two.spread] == ["cuda:0", "cuda:1"]
    assert two.claim.devices == ("cuda:0", "cuda:1")
    assert not two.is_offloaded
    mixed = place(llama_on(gpus(14, cpu_gigabytes=64)))
    assert [device for device, _ in mixed.spread] == ["cuda:0", "cpu"]
    assert mixed.is_offloaded


def test_where_it_is_allowed_a_quantised_copy_on_the_gpu_comes_before_weights_fetched_step_by_step():
    hardware = gpus(14, cpu_gigabytes=64)
    placement = place(llama_on(hardware, ALLOWING, has_torchao=True))
    assert (placement.device, placement.quantization, placement.spread) == ("cuda:0", "int8", ())
    assert place(llama_on(hardware, ALLOWING)).is_offloaded, "no torchao"


def test_a_named_gpu_is_not_spread_and_the_refusal_says_what_would_be():
    with pytest.raises(InsufficientMemoryError, match="device='auto'"):
        place(llama_on(Hardware("cuda:1", True, 14 * GB)))


def test_an_embedding_model_goes_to_one_device_whole():
    hardware = gpus(2, 2, cpu_gigabytes=64)
    placement = place(Situation(T5, t5_facts(6), hardware))
    assert (placement.device, placement.spread) == ("cpu", ())
    quantizable = replace(T5, allow_quantized=True)
    with pytest.raises(InsufficientMemoryError) as caught:
        place(Situation(quantizable, t5_facts(6), gpus(2, 2), has_torchao=True))
    assert "allow_quantized" not in caught.value.message


@pytest.mark.parametrize("sizes", [(13, 12), (8, 8, 8), (14, 4, 6), (10, 12)])
def test_accelerate_finds_a_place_for_every_layer_in_the_bytes_that_it_is_given(sizes):
    import torch
    from accelerate import infer_auto_device_map, init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    placement = place(llama_on(gpus(*sizes, cpu_gigabytes=3)))
    with init_empty_weights():
        config = LlamaConfig(
            vocab_size=128256,
            intermediate_size=14336,
            max_position_embeddings=8192,
            **LLAMA_CONFIG,
        )
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    limits = dict(enumerate(limit for _, limit in placement.spread))
    devices = infer_auto_device_map(
        model, max_memory=limits, no_split_module_classes=["LlamaDecoderLayer"]
    )
    assert "disk" not in devices.values()
    assert set(devices.values()) <= set(limits)


# Other models, budgets, refusals -----------------------------------------------------------------


def refusal(situation):
    with pytest.raises(InsufficientMemoryError) as caught:
        place(situation)
    return caught.value.message


def test_a_refusal_tells_what_is_needed_what_there_is_and_the_setting():
    assert refusal(llama_on(cpu(16))) == (
        "chat/default in bfloat16 needs about 19.8 GB on cpu, and 16.0 GB may be used "
        "(settings.memory.local_fraction=1); set allow_quantized: true for chat.default in "
        'models.yaml and run: pip install "hybrid-infer[quant]" (int8 weights would fit)'
    )
    assert "pip" not in refusal(llama_on(cpu(16), has_torchao=True))
    message = refusal(llama_on(cpu(16), ALLOWING))
    assert "allow_quantized" not in message
    assert 'run: pip install "hybrid-infer[quant]" (int8' in message
    unnamed = replace(LLAMA, alias=None)
    assert "for an alias of org/llama" in refusal(llama_on(cpu(16), unnamed))


def test_each_fix_is_told_if_it_is_enough_alone():
    halved = llama_on(cpu(40), memory=MemorySettings(local_fraction=0.25))
    assert "set settings.memory.local_fraction to 1.0" in refusal(halved)
    tight = llama_on(cpu(40), memory=MemorySettings(budget_bytes=10 * GB))
    assert "raise settings.memory.budget_bytes to 19809497907" in refusal(tight)
    assert place(replace(tight, memory=MemorySettings(budget_bytes=19_809_497_907)))
    wide = llama_on(cpu(25), dtype="float32")
    assert "pass dtype='bfloat16', which needs half" in refusal(wide)
    crowded = llama_on(cpu(25), claims=(Claim(10 * GB, 0, ("cpu",)),))
    message = refusal(crowded)
    assert "other local models loaded: 1" in message
    assert "unload the other models" in message


def test_what_others_hold_already_is_not_free_and_what_they_will_hold_is_not_either():
    hardware = cpu(25)
    held = Claim(20 * GB, 20 * GB, ("cpu",))
    elsewhere = Claim(20 * GB, 0, ("cuda:0",))
    assert place(llama_on(hardware, claims=(held, elsewhere)))
    promised = Claim(20 * GB, 14 * GB, ("cpu",))
    assert find_place(llama_on(hardware, claims=(promised,))) is None
    leaving = llama_on(cpu(6), gone=(Claim(20 * GB, 19 * GB, ("cpu",)),))
    assert place(leaving)


def test_a_budget_counts_what_all_models_claim():
    budget = MemorySettings(budget_bytes=30 * GB)
    small = Claim(5 * GB, 5 * GB, ("cpu",))
    assert place(llama_on(cpu(100), memory=budget, claims=(small,)))
    assert find_place(llama_on(cpu(100), memory=budget, claims=(small,) * 3)) is None


@given(
    st.floats(0, 120),
    st.floats(0.05, 1),
    st.none() | st.floats(0.01, 60),
    st.lists(st.tuples(st.floats(0, 40), st.floats(0, 1)), max_size=3),
    st.sampled_from(["auto", "float32", "bfloat16"]),
    st.booleans(),
)
def test_no_placement_takes_more_than_there_is(free, fraction, budget, others, dtype, allowed):
    memory = MemorySettings(
        local_fraction=fraction, budget_bytes=None if budget is None else int(budget * GB)
    )
    claims = tuple(Claim(int(b * GB), int(b * GB * share), ("cpu",)) for b, share in others)
    spec = ALLOWING if allowed else LLAMA
    situation = llama_on(
        cpu(free), spec, memory=memory, claims=claims, dtype=dtype, has_torchao=True
    )
    placement = find_place(situation)
    if placement is None:
        assert refusal(situation)
        return
    assert placement.claim.bytes <= situation.room(("cpu",))
    promised = sum(claim.bytes - claim.allocated_bytes for claim in claims)
    assert placement.claim.bytes + promised <= free * fraction * GB + 1
    if budget is not None:
        assert placement.claim.bytes + sum(claim.bytes for claim in claims) <= budget * GB + 1
    assert placement.quantization is None or allowed
    assert placement.cache_tokens >= LEAST_CACHE_TOKENS


@given(st.lists(st.floats(1, 30), min_size=1, max_size=4), st.floats(0, 40))
def test_a_spread_model_stays_within_each_device(sizes, cpu_gigabytes):
    situation = llama_on(gpus(*sizes, cpu_gigabytes=cpu_gigabytes))
    placement = find_place(situation)
    if placement is None:
        return
    for device, limit in placement.spread:
        assert limit <= situation.room_on(device)
    if placement.spread:
        assert sum(limit for _, limit in placement.spread) >= LLAMA_FACTS.weight_bytes
