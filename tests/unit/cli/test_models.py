import json


def test_every_alias_with_its_size_and_remote(run):
    done = run("models")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert set(lines) == {
        "chat/default", "chat/large", "chat/agent", "chat/small",
        "embeddings/default", "embeddings/large", "embeddings/small",
    }  # fmt: skip
    small = lines["embeddings/small"]
    for part in (
        "sentence-transformers/all-MiniLM-L6-v2",
        "8b3219a",
        "384 dim",
        "no",
        "huggingface",
    ):
        assert part in small
    assert "hybrid-infer pull" in done.err


def test_json(run):
    rows = json.loads(run("models", "--json", "--profile", "tiny").out)["models"]
    assert {row["repo"].split("/")[0] for row in rows} == {"tiny"}
    assert {row["local"] for row in rows} == {"cold"}
    options = {row["task"]: row["local_options"] for row in rows}
    assert options["embeddings"] == ["normalize", "truncate"]
    assert {"temperature", "seed", "n", "logprobs", "response_format"} <= set(options["chat"])
    assert "tools" not in options["chat"]


def test_a_models_file_is_merged_and_its_mistakes_exit_2(run, tmp_path):
    mine = tmp_path / "models.yaml"
    mine.write_text("embeddings:\n  mine:\n    repo: org/name\n")
    assert "embeddings/mine" in run("models", "--models", mine).out
    mine.write_text("embeddings:\n  mine:\n    rep: org/name\n")
    done = run("models", "--models", mine, "--json")
    assert done.code == 2
    assert json.loads(done.out)["error"]["type"] == "ConfigError"
