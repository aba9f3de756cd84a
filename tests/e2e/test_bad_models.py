"""Checkpoints that contradict themselves or would run for ever: exit code 2, one line that names file and cause, soon and small."""
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import test_families  # (its imports prepare the way to the toy models)
from test_bad_input import WEIGHTS

SECONDS, MEBIBYTES = 30, 1024  # on a busy machine; a run takes half a second and 110 MiB


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """kind → the folder of its toy checkpoint, made once"""
    folders = {}

    def get(kind):
        if kind not in folders:
            folder = tmp_path_factory.mktemp("toys") / kind
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(test_families.toy, "WIDE", True)
                make, *arguments = test_families.KINDS[kind]
                made = make(*arguments)
                folders[kind] = test_families.toy.save(folder, made, "A") if isinstance(made, tuple) else made.save(folder)
        return folders[kind]

    return get


@pytest.fixture
def copy(toys, tmp_path):
    return lambda kind: shutil.copytree(toys(kind), tmp_path / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return test_families.write_data(tmp_path_factory.mktemp("data"))


def peak_memory(pid):
    """@return KiB so far; 0 before and after. (The maximum that wait4 reports begins with that of the parent.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    if not status.startswith("Name:\tvisq\n"):  # not yet itself
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


@pytest.fixture
def refused(visq, data, tmp_path):
    """Quantizes a model; with data, so that tokenizer, template and images are used."""

    def run(model, *expected, calib=data, format="fp8"):
        out, errors = tmp_path / "out", tmp_path / "errors"
        options = ["--calib", calib, "--seq-len", "8192"] if calib else []
        begin = time.monotonic()
        with errors.open("w") as file:
            process = subprocess.Popen([visq.path, "quantize", model, "-f", format, "-o", out, *options], stdout=file, stderr=file)
            try:
                while process.poll() is None:
                    assert time.monotonic() - begin < SECONDS
                    assert peak_memory(process.pid) < MEBIBYTES * 1024
                    time.sleep(0.02)
            except AssertionError:
                process.kill()
                process.wait()
                raise
        lines = errors.read_text().splitlines()
        assert process.returncode == 2, lines
        lines = [line for line in lines if not line.startswith("warning: ")]
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        for text in expected:
            assert str(text) in lines[0], lines[0]
        assert not out.exists() and not list(tmp_path.glob("*.partial"))

    return run


def edit(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def set_keys(path, *below, **values):
    def change(config):
        for key in below:
            config = config[key]
        config.update(values)

    edit(path, change)


def replace_tensor(path, name, shape):
    tensors = load_file(path)
    tensors[name] = torch.ones(shape, dtype=tensors[name].dtype)
    save_file(tensors, path, metadata={"format": "pt"})


# --- a configuration that contradicts the tensors ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", test_families.KINDS)
def test_sizes_of_the_text_model_and_the_tower_must_be_those_of_the_tensors(kind, copy, refused):
    model = copy(kind)
    folder = test_families.text_folder(model)
    original = (folder / "config.json").read_text()

    def widen(config):
        text = config.get("text_config", config.get("llm_config", config))
        text["intermediate_size"] *= 2

    edit(folder / "config.json", widen)
    refused(model, "safetensors: tensor '", "layers.", "has shape [", "but config.json says [", calib=None, format="w4a16")

    (folder / "config.json").write_text(original)
    path = model / "vision_tower" / "config.json" if folder != model else folder / "config.json"

    def deepen(config):
        vision = config.get("vision_config") or config.get("img_processor") or config
        vision = vision.get("args", {}).get("model_kwargs", vision)  # RADIO's
        vision["depth" if "depth" in vision else "num_hidden_layers"] += 1

    edit(path, deepen)
    refused(model, model, "tensor '", "is missing", calib=None, format="w4a16")


def test_a_projector_that_does_not_end_in_the_text_models_width(copy, refused):
    model = copy("qwen3_vl")
    set_keys(model / "config.json", "text_config", hidden_size=256)
    refused(model, "config.json: the projector", "makes 128 channels, but the text model's 'hidden_size' is 256", calib=None, format="w4a16")


@pytest.mark.parametrize(
    "name, shape, reason",
    [
        ("experts.gate_up_proj", (6, 128, 250), "are no stacks of the same experts"),
        ("experts.gate_up_proj", (5, 128, 256), "are no stacks of the same experts"),
        ("experts.gate_up_proj", (0, 128, 256), "are no stacks of the same experts"),
        ("experts.down_proj", (6, 128, 64), "are no stacks of the same experts"),
        ("experts.gate_up_proj", (6, 256), "experts.0.gate_proj.weight' is missing"),
        ("gate.weight", (5, 128), "has shape [5, 128], but config.json says [6, 128]"),
        ("gate.weight", (128, 6), "has shape [128, 6], but config.json says [6, 128]"),
    ],
)
def test_stacks_and_routers_of_other_shapes(name, shape, reason, copy, refused):
    model = copy("qwen3_vl_moe")
    name = f"model.language_model.layers.0.mlp.{name}"
    replace_tensor(model / WEIGHTS, name, shape)
    refused(model, model, name.rsplit(".", 1)[0], reason, calib=None, format="w4a16")


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"num_experts": 7}, "mlp.gate.weight' has shape [6, 128], but config.json says [7, 128]"),
        ({"num_experts": 10**12}, "'num_experts' is 1000000000000, outside 1..4096"),
        ({"num_experts_per_tok": 7}, "'num_experts_per_tok' is 7, outside 1..6"),
        ({"moe_intermediate_size": 64}, "mlp.experts.0.gate_proj.weight' has shape [128, 128], but config.json says [64, 128]"),
        ({"mlp_only_layers": []}, "layers.1.mlp.gate.weight' is missing"),
    ],
)
def test_experts_that_the_configuration_counts_otherwise(change, reason, copy, refused):
    model = copy("qwen3_vl_moe")
    set_keys(model / "config.json", "text_config", **change)
    refused(model, model, reason, calib=None, format="w4a16")


@pytest.mark.parametrize(
    "layers, reason",
    [
        ([1, 9], "layers.3.self_attn.q_proj.weight' is missing"),  # there is no layer 9
        ([0, 3], "layers.0.cross_attn.q_norm.weight' is missing"),
        ([-1, 3], "config.json: 'cross_attention_layers' holds -1"),
        ("x", "config.json: 'cross_attention_layers' has an unexpected type"),
    ],
)
def test_cross_attention_in_layers_that_have_none(layers, reason, copy, refused):
    model = copy("mllama")
    set_keys(model / "config.json", "text_config", cross_attention_layers=layers)
    refused(model, model, reason, calib=None, format="w4a16")


@pytest.mark.parametrize("adapter, rank", [("vision", 6), ("speech", 4)])
def test_adapters_of_another_rank(adapter, rank, toys, copy, refused):
    model = copy("phi4mm")
    name = "model.layers.0.mlp.down_proj.lora_{}." + adapter + ".weight"
    for matrix, shape, wanted in [("A", (5, 256), [rank, 256]), ("B", (128, 5), [128, rank])]:
        shutil.copy(toys("phi4mm") / WEIGHTS, model / WEIGHTS)
        replace_tensor(model / WEIGHTS, name.format(matrix), shape)
        refused(model, model / WEIGHTS, name.format(matrix), f"has shape {list(shape)}, but config.json says {wanted}", calib=None, format="w4a16")
    shutil.copy(toys("phi4mm") / WEIGHTS, model / WEIGHTS)
    set_keys(model / "config.json", f"{adapter}_lora", r=10**9)
    refused(model, model / "config.json", "'r' is 1000000000, outside 1..65536", calib=None, format="w4a16")


# --- files that are not whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["llm", "vision_tower", "mm_projector"])
def test_vila_without_one_of_its_folders(folder, copy, refused):
    model = copy("vila1.5")
    shutil.rmtree(model / folder)
    refused(model, f"{model / folder}: no such directory", "fetch it again", calib=None, format="w4a16")


@pytest.mark.parametrize("kept, reason", [(-1000, "tensor 'model.layers."), (100, "the header ends at"), (0, "no safetensors file")])
def test_a_second_shard_that_ends_early(kept, reason, copy, refused):
    model = copy("nvila")
    shard = model / "llm" / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    refused(model, f"{shard}: ", reason, "fetch this shard again", calib=None, format="w4a16")


# --- images and placeholders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llava", "qwen2_5_vl", "mllama", "phi4mm", "qwen3_vl_moe"])
def test_a_template_that_leaves_the_images_out(kind, copy, refused):
    model = copy(kind)
    last = "m['content'] | replace('<|image_1|>', '')" if kind == "phi4mm" else "m['content'][-1]['text']"
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ " + last + " }}{% endfor %}")
    refused(model, "data.jsonl:2: the prompt has", "placeholders")


@pytest.mark.parametrize(
    "kind, token",
    [("llava", "<image>"), ("gemma3", "<start_of_image>"), ("mllama", "<|image|>"), ("phi4mm", "<|endoftext10|>"),
     ("qwen3_vl_moe", "<|image_pad|>"), ("vila1.5", "<image>"), ("nvila", "<image>"), ("llava_original", "<image>")],
)  # fmt: skip
def test_a_text_that_spells_the_image_token(kind, token, copy, data, refused):
    part = {"type": "text", "text": f"What is {token}?"}
    path = data.parent / "spelled.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": [{"type": "image", "image": "0.png"}, part]}]}) + "\n")
    refused(copy(kind), "spelled.jsonl:1: ", f"'{token}' literally; take it out", calib=path)


@pytest.mark.parametrize(
    "kind, file, change, reason",
    [
        ("llava", "config.json", {"image_token_index": 7}, "does not know '<image>' as token 7"),
        ("llava", "config.json", {"image_token_index": 10**9}, "does not know '<image>' as token 1000000000"),
        ("llava", "preprocessor_config.json", {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}},
         "the image processor makes [3, 56, 56], but the vision tower of config.json reads [3, 42, 42]"),
        ("qwen3_vl_moe", "preprocessor_config.json", {"merge_size": 1}, "which the vision tower of config.json does not read"),
        ("gemma3", "config.json", {"mm_tokens_per_image": 9}, "'mm_tokens_per_image' 9 is no square that divides"),
        ("mllama", "preprocessor_config.json", {"size": {"height": 56, "width": 56}}, "reads [3, 112, 112]"),
        ("phi4mm", "preprocessor_config.json", {"dynamic_hd": 10**9}, "'dynamic_hd' is 1000000000, outside 1..256"),
    ],
)  # fmt: skip
def test_image_tokens_that_cannot_be_those_of_the_tower(kind, file, change, reason, copy, refused):
    model = copy(kind)
    set_keys(model / file, **change)
    refused(model, "config.json", reason)


@pytest.mark.parametrize("kind", ["mllama", "phi4mm", "vila1.5", "llava_original"])
def test_a_family_without_videos(kind, copy, data, refused):
    part = {"type": "video", "frames": ["0.png", "1.png"], "fps": 2}
    path = data.parent / "video.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": [part]}]}) + "\n")
    refused(copy(kind), "video.jsonl:1: ", "reads no videos; give some frames as images", calib=path)


# --- tokenizers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", ["normalizer", "pre_tokenizer", "post_processor", "decoder"])
@pytest.mark.parametrize("kind", ["gemma3", "mllama"])
def test_a_component_that_is_not_known(kind, component, copy, refused):
    model = copy(kind)
    set_keys(model / "tokenizer.json", **{component: {"type": "Grapefruit"}})
    refused(model, f"{model / 'tokenizer.json'}: {component}: 'Grapefruit' is not supported")


@pytest.mark.parametrize("kind, folder", [("llava", "."), ("vila1.5", "llm")])
def test_a_vocabulary_of_another_kind(kind, folder, copy, refused):
    model = copy(kind)
    set_keys(model / folder / "tokenizer.json", "model", type="Unigram")
    refused(model, model, 'tokenizer.json: model type "Unigram" is not supported: only BPE is')


@pytest.mark.parametrize("kind, folder", [("mllama", "."), ("vila1.5", "llm"), ("llava_original", "."), ("phi4mm", ".")])
def test_a_class_that_is_not_known(kind, folder, copy, refused):
    model = copy(kind)
    set_keys(model / folder / "tokenizer_config.json", tokenizer_class="GrapefruitTokenizer")
    refused(model, model, "tokenizer_class 'GrapefruitTokenizer'", "declare PreTrainedTokenizerFast")


def test_a_pattern_that_could_take_for_ever(copy, refused):
    model = copy("gemma3")
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    set_keys(model / "tokenizer.json", pre_tokenizer=split)
    refused(model, model / "tokenizer.json", "(a+)+$", "is not supported")


# --- templates --------------------------------------------------------------------------------------------------------


GROWING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
TEMPLATES = {
    "loops": ("".join(f"{{% for {i} in range(100000) %}}" for i in "abc") + "{% endfor %}" * 3, "more than 10000000 steps"),
    "range": ("{% for a in range(10 ** 12) %}{% endfor %}", "range() of more than 100000 numbers"),
    "macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "calls nest deeper than 200"),
    "macros": ("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", "calls nest deeper than 200"),
    "recursive loop": ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "calls nest deeper than 200"),
    "growing text": (GROWING.replace("START", "'x' * 99"), "a text grows beyond 16 MiB"),
    "growing list": (GROWING.replace("START", "[1]"), "more than 10000000 steps"),
    "product": ("{{ 'x' * 10 ** 12 }}", "a text grows beyond 16 MiB"),
    "format": ("{{ '%999999999999d' % 1 }}", "a format asks for"),
    "power": ("{{ 10 ** 10 ** 10 }}", "more than 64 bits"),
    "parentheses": ("{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}", "nests too deep"),
    "blocks": ("{% if true %}" * 100000, "nests too deep"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_would_not_end(name, copy, refused):
    model = copy("llava")
    template, reason = TEMPLATES[name]
    (model / "chat_template.jinja").write_text(template)
    refused(model, f"{model / 'chat_template.jinja'}:1: ", reason)
