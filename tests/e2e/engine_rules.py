"""Which modules each engine takes for excluded: spec/export.md §5.3, §7.6 and §7.7 with Python's own matchers."""
import fnmatch
import json
import re

LLAVA = [("model.language_model.", "language_model.model."), ("model.vision_tower.", "vision_tower."),
         ("model.multi_modal_projector.", "multi_modal_projector."), ("lm_head.", "language_model.lm_head.")]  # fmt: skip
QWEN = [("model.language_model.", "language_model.model."), ("model.visual.", "visual."), ("lm_head.", "language_model.lm_head."),
        ("model.", "language_model.model.")]  # fmt: skip
QWEN_SGLANG = [("model.language_model.", "model."), ("model.visual.", "visual.")]
LLAVAS = ("llava", "llava_next", "llava_onevision", "gemma3")


def renamed(name, rules):
    for old, new in rules:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def vllm(module, entries, model_type):
    rules = QWEN if re.match("qwen.*_vl", model_type) else LLAVA if model_type in LLAVAS else []
    name = renamed(module, rules).replace(".base_layer", "")
    parts = []
    for entry in entries:
        starred = entry.endswith("*") and not entry.endswith(".*")
        parts += [renamed(part, rules) for part in ([entry[:-1], entry[:-1] + ".*"] if starred else [entry])]
    return any(fnmatch.fnmatchcase(name, part) if re.search(r"[*?\[]", part) else part in name for part in parts)


def sglang(module, entries, model_type):
    rules = QWEN_SGLANG if re.match("qwen2.*_vl", model_type) else []
    name = renamed(module, rules)
    views = [name, name.removeprefix("language_model."), *name.split(".")]
    patterns = [re.escape(renamed(entry, rules)).replace(r"\*", ".*") for entry in entries]
    return any(re.fullmatch(pattern, view) for pattern in patterns for view in views)


def tensorrt_llm(module, entries, model_type):
    parts = module.split(".")
    ancestors = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(name, entry) for entry in entries for name in ancestors)


def expressions(module, entries, model_type):
    """compressed-tensors, in every engine"""
    return any(re.match(entry[3:], module) if entry.startswith("re:") else entry == module for entry in entries)


def whole_names(module, entries, model_type):
    """Hugging Face's own FP8"""
    return module in entries


def engine_names(module, model_type):
    """As vLLM and SGLang call a module of the files."""
    rules = QWEN if re.match("qwen.*_vl", model_type) else LLAVA if model_type in LLAVAS else []
    return [renamed(module, rules), renamed(module, QWEN_SGLANG if re.match("qwen2.*_vl", model_type) else [])]


def substrings(module, entries, model_type):
    """AutoAWQ, in vLLM and SGLang"""
    verdicts = {any(entry in name for entry in entries) for name in engine_names(module, model_type)}
    assert len(verdicts) == 1, module
    return verdicts.pop()


def dynamic(module, entries, model_type):
    """GPTQ, in vLLM and SGLang"""
    verdicts = {any(re.match(entry[2:], name) for entry in entries) for name in engine_names(module, model_type)}
    assert len(verdicts) == 1 and all(entry.startswith("-:") for entry in entries), module
    return verdicts.pop()


LISTS = {"fp8": "modules_to_not_convert", "awq": "modules_to_not_convert", "gptq": "dynamic"}
MATCHERS = {"awq": [substrings], "gptq": [dynamic], "modelopt": [vllm, sglang, tensorrt_llm], "compressed-tensors": [expressions], "fp8": [whole_names]}


def wrongly_judged(folder, linears, quantized):
    """@return (engine, module) of linears that an engine would load as what they are not; names as in the folder's files"""
    config = json.loads((folder / "config.json").read_text())
    method = config["quantization_config"]
    entries = list(method[LISTS.get(method["quant_method"], "ignore")])
    return [(matcher.__name__, module) for matcher in MATCHERS[method["quant_method"]] for module in sorted(linears)
            if matcher(module, entries, config["model_type"]) == (module in quantized)]  # fmt: skip
