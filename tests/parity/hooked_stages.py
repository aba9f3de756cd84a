"""Parity by hooks, for models whose layers or parts transformers does not record as test_forward.py reads them."""

import torch
from transformers import AutoProcessor

from test_forward import NEW_TOKENS, difference, encode, rows_of, run_probe


@torch.no_grad()
def seen_by_hooks(model, inputs, projector, language_model):
    """What the parts that ran read and gave, by stage. @param projector, language_model  modules of `model`"""
    seen, hooks = {}, []

    def keep(module, name):
        hooks.append(module.register_forward_hook(lambda _, __, output: seen.update({name: rows_of(output).clone()})))

    first, last = projector
    hooks.append(first.register_forward_pre_hook(lambda _, args: seen.update(tower=rows_of(args[0]).clone())))
    keep(last, "features")
    hooks.append(language_model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(merged=rows_of((args or [kwargs["hidden_states"]])[0]).clone()), with_kwargs=True))  # fmt: skip
    for index, layer in enumerate(language_model.layers):
        keep(layer, f"layer.{index}")
    seen["logits"] = model(**inputs).logits[0]
    for hook in hooks:
        hook.remove()
    return seen


def worst_differences(made, folder, samples, program, stages, check=lambda inputs, expected: None):
    """Runs the probe on all samples, asserts equal ids and equal greedy answers. @param stages  (inputs) → expected tensors
    @return the largest difference of each stage, relative to the largest magnitude"""
    data, conversations = samples
    model = made[0]
    computed, lines = run_probe(program, folder, data, folder.parent / "out.safetensors", "fp32", "--generate", str(NEW_TOKENS))
    generated = [[int(token) for token in line.split()] for line in lines]
    processor = AutoProcessor.from_pretrained(folder)
    model.generation_config.eos_token_id = None
    worst = {}
    for index, conversation in enumerate(conversations):
        inputs = encode(processor, conversation, data.parent)
        assert computed[f"ids.{index}"].tolist() == inputs["input_ids"][0].tolist()
        expected = stages(inputs)
        check(inputs, expected)
        for stage, tensor in expected.items():
            worst[stage] = max(worst.get(stage, 0.0), difference(computed[f"{stage}.{index}"], tensor))
        answer = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        assert generated[index] == answer[0, inputs["input_ids"].shape[1] :].tolist()
    print({stage: f"{value:.1e}" for stage, value in worst.items()})
    return worst


@torch.no_grad()
def smallest_cosine(folder, samples, program, model_class):
    """Of the logits of bfloat16 runs: two ways of rounding differ by kernel noise, which no fixed tolerance describes."""
    data, conversations = samples
    computed, _ = run_probe(program, folder, data, folder.parent / "out.safetensors", "bf16")
    processor = AutoProcessor.from_pretrained(folder)
    model = model_class.from_pretrained(folder, dtype=torch.bfloat16).eval()
    cosines = []
    for index, conversation in enumerate(conversations):
        expected = model(**encode(processor, conversation, data.parent)).logits[0].float()
        cosines.append(torch.cosine_similarity(computed[f"logits.{index}"], expected, dim=-1).min().item())
    return min(cosines)
